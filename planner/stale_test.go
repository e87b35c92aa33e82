package planner_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stackvm/stack/planner"
)

// TestChanges: a stored plan that was read back is as good as new while neither
// file nor state changed in what it relies on, and says what did.
func TestChanges(t *testing.T) {
	const file = `
services:
  web: {image: nginx, environment: {A: "1"}}
  db: {image: postgres, volumes: ["data:/data"]}
volumes: {data: {}}
`
	plan := func(file, observed string) planner.Plan {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "compose.yaml"), []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		p := load(t, dir, "compose.yaml", nil)
		plan, err := planner.Diff(p, parseObserved(t, p, observed), planner.Options{Now: now})
		if err != nil {
			t.Fatal(err)
		}
		return plan
	}
	const images = "image nginx\nimage postgres\n"
	data, err := plan(file, images).JSON()
	if err != nil {
		t.Fatal(err)
	}
	stored, err := planner.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, file, observed string
		want                 []string
	}{
		{"nothing", file, images, nil},
		{"a line above", "\n# moved\n" + file, images, nil},
		{"a service's values", `
services:
  web: {image: nginx, environment: {A: "2"}}
  db: {image: postgres, volumes: ["data:/data"]}
volumes: {data: {}}
`, images, []string{"service web has changed in the compose file"}},
		{"a service came, one went", `
services:
  cache: {image: nginx}
  db: {image: postgres, volumes: ["data:/data"]}
volumes: {data: {}}
`, images, []string{
			"service web is gone from the compose file", "service cache is new in the compose file",
			"step gone: create replica shop-web-1", "step gone: start replica shop-web-1",
			"step come: create replica shop-cache-1", "step come: start replica shop-cache-1",
		}},
		{"what is there", file, images + "network shop_default\nreplica shop-web-1 exited\n", []string{
			"step gone: create network shop_default", "step gone: create replica shop-db-1", "step gone: create replica shop-web-1", "step gone: start replica shop-web-1",
			"step come: create replica shop-db-1", "step come: start replica shop-web-1",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, planner.Changes(stored, plan(tc.file, tc.observed))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
