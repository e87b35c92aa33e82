// Package stack holds the tests of the tree's shape: DESIGN's rooms import in
// one direction, and every package says what it is.
package stack

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/stackvm/stack/"

// rooms maps each room to the rooms of ours that its non-test files may import
// directly, beside itself.
var rooms = map[string][]string{
	"spec":        {},
	"network":     {},
	"guest/wire":  {},
	"guest/agent": {"guest/wire"},
	"guest":       {"guest/wire"},
	"planner":     {"spec"},
	"runtime":     {"spec", "planner", "network", "guest"},
	"cmd":         {"spec", "planner", "runtime", "guest", "network"},
	"examples":    {},
	"e2e":         {"runtime", "guest", "examples", "cmd", "spec", "planner", "network"},
}

// banned are imports that one room must do without, whoever makes them.
var banned = map[string][]string{
	"planner":     {"os", "os/exec", "net", "net/http", "syscall", "math/rand", "crypto/rand"}, // a plan touches nothing
	"guest/agent": {"net/http", "net/rpc", "text/template", "html/template"},                   // it is in every machine: size counts
}

// only names modules that a single room may import.
var only = map[string]string{
	"github.com/compose-spec/compose-go": "spec",
	"gvisor.dev/gvisor":                  "network",
	"github.com/miekg/dns":               "network",
}

func TestImportsPointOneWay(t *testing.T) {
	eachFile(t, func(path string, imports []string) {
		room := roomOf(path)
		for _, imp := range imports {
			if other, ours := strings.CutPrefix(imp, module); ours {
				if to := roomOf(other + "/x"); !allowed(room, to) {
					t.Errorf("%s imports %s: %s may not import %s", path, imp, room, to)
				}
			}
			for prefix, words := range banned {
				for _, b := range words {
					if strings.HasPrefix(path, prefix+"/") && imp == b {
						t.Errorf("%s imports %s, which %s does without", path, imp, prefix)
					}
				}
			}
			for mod, owner := range only {
				if strings.HasPrefix(imp, mod) && room != owner {
					t.Errorf("%s imports %s, which belongs to %s", path, imp, owner)
				}
			}
		}
	})
}

func TestEveryPackageHasADocComment(t *testing.T) {
	documented := map[string]bool{}
	eachFile(t, func(path string, _ []string) {
		dir := filepath.Dir(path)
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		documented[dir] = documented[dir] || f.Doc != nil
	})
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s: no file has a package comment", dir)
		}
	}
}

// roomOf returns the room of a file's slash-separated path: the longest key of
// rooms that is a prefix of it.
func roomOf(path string) string {
	best := ""
	for room := range rooms {
		if strings.HasPrefix(path, room+"/") && len(room) > len(best) {
			best = room
		}
	}
	return best
}

func allowed(from, to string) bool {
	if from == to {
		return true
	}
	for _, room := range rooms[from] {
		if to == room || strings.HasPrefix(to, room+"/") {
			return true
		}
	}
	return false
}

// eachFile calls fn for every non-test Go file of the module that is in a room;
// nested modules are left out.
func eachFile(t *testing.T, fn func(path string, imports []string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path == "." {
				return nil
			}
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil || strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		slash := filepath.ToSlash(path)
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || roomOf(slash) == "" {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		var imports []string
		for _, s := range f.Imports {
			imp, err := strconv.Unquote(s.Path.Value)
			if err != nil {
				return err
			}
			imports = append(imports, imp)
		}
		fn(slash, imports)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
