package planner_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stackvm/stack/planner"
)

// TestKept: of what runs, a plan names what it leaves alone, in its scope.
func TestKept(t *testing.T) {
	dir := t.TempDir()
	const file = `
name: shop
services:
  web: {image: nginx, depends_on: [db]}
  db: {image: postgres}
  job: {image: nginx}
  old: {image: nginx, environment: {A: "2"}}
`
	if err := os.WriteFile(filepath.Join(dir, "compose.yaml"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	p := load(t, dir, "compose.yaml", nil)
	const observed = `image nginx
image postgres
network shop_default
replica shop-web-1 running networks=shop_default
replica shop-db-1 running networks=shop_default
replica shop-job-1 exited networks=shop_default
replica shop-old-1 running networks=shop_default hash=other
replica shop-gone-1 running networks=shop_default
`
	for _, tc := range []struct {
		name string
		opt  planner.Options
		want []string
	}{
		{"all", planner.Options{}, []string{"shop-db-1", "shop-web-1"}},
		{"one and what it needs", planner.Options{Services: []string{"web"}}, []string{"shop-db-1", "shop-web-1"}},
		{"one alone", planner.Options{Services: []string{"web"}, NoDeps: true}, []string{"shop-web-1"}},
		{"waited for", planner.Options{Services: []string{"db"}, Wait: true}, []string{"shop-db-1"}},
		{"made anew", planner.Options{Services: []string{"web"}, Recreate: planner.RecreateForce}, []string{"shop-db-1"}},
	} {
		tc.opt.Now = now
		plan, err := planner.Diff(p, parseObserved(t, p, observed), tc.opt)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.want, plan.Kept); diff != "" {
			t.Errorf("%s: %s\n%s", tc.name, diff, plan)
		}
	}
}
