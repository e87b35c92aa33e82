package supervisor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"

	"github.com/stackvm/stack/spec/spectest"
)

// TestEveryLeafShows takes each honoured attribute of the specification, down to
// the last, out of testdata/leaves.yaml, which has them all: what is made of the
// file must change, or there must be an error. TestDroppedAttributesShow does so
// for each row of the table, this for what the rows stand for.
func TestEveryLeafShows(t *testing.T) {
	if testing.Short() {
		t.Skip("makes a project two hundred times: not with -short")
	}
	text, err := os.ReadFile(filepath.Join("testdata", "leaves.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	all, err := made(t, string(text), "{}")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := made(t, string(text), "{}"); err != nil || again != all {
		t.Fatalf("one project is made in two ways: no comparison means anything: %v\n%s", err, cmp.Diff(all, again))
	}
	table, err := os.ReadFile("../../spec/testdata/attributes.txt") // spec keeps it equal to the schema and its table
	if err != nil {
		t.Fatal(err)
	}
	unused := map[string]bool{}
	for path := range noEffect {
		unused[path] = true
	}
	for line := range strings.Lines(string(table)) {
		path, verdict, _ := strings.Cut(strings.TrimSpace(line), " ")
		delete(unused, path)
		if verdict != "honoured" || elsewhereLeaf(path) {
			continue
		}
		t.Run(path, func(t *testing.T) {
			t.Parallel() // they wait for disks, most of the time
			var doc map[string]any
			if err := yaml.Unmarshal(text, &doc); err != nil {
				t.Fatal(err)
			}
			if !spectest.Drop(doc, strings.Split(path, ".")...) {
				t.Fatal("testdata/leaves.yaml does not have it")
			}
			rest, err := yaml.Marshal(doc)
			if err != nil {
				t.Fatal(err)
			}
			out, err := made(t, string(rest), "{}")
			if same := err == nil && out == all; same != (noEffect[path] != "") {
				t.Errorf("without it the same is made: %v; %s", same, noEffect[path])
			}
		})
	}
	for path := range unused {
		t.Errorf("%s is no attribute", path)
	}
}

// elsewhereLeaf: these are refused where they are there, which spec's broken files
// show, or other tests look at them.
func elsewhereLeaf(path string) bool {
	for _, prefix := range []string{
		"include", "services.*.build", "services.*.attach", "services.*.extends", "services.*.pre_start", "services.*.provider",
		"services.*.volumes.[].bind.create_host_path", // a source that is missing: e2e's binds
		"networks.*.external", "volumes.*.external",
		"configs.*.external", "configs.*.template_driver", "secrets.*.external", "secrets.*.template_driver", "secrets.*.driver", "secrets.*.driver_opts",
	} {
		if path == prefix || strings.HasPrefix(path, prefix+".") {
			return true
		}
	}
	return false
}

// noEffect are attributes that change nothing that is made, and why that is so.
var noEffect = map[string]string{
	"networks.*.driver": "bridge is the only one",
	"volumes.*.driver":  "local is the only one",

	"services.*.volumes.[].bind.propagation": "what the host mounts is seen with any; shared is warned of",

	"services.*.blkio_config.device_read_bps.[].path":   onEveryDisk,
	"services.*.blkio_config.device_read_iops.[].path":  onEveryDisk,
	"services.*.blkio_config.device_write_bps.[].path":  onEveryDisk,
	"services.*.blkio_config.device_write_iops.[].path": onEveryDisk,
}

const onEveryDisk = "a rate holds for every disk"
