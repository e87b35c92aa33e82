package supervisor

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/spec"
)

// checkout makes DIR/shop with a compose file in it, and its project.
func checkout(t *testing.T, dir string) *spec.Project {
	t.Helper()
	dir = filepath.Join(dir, "shop")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "compose.yaml")
	if err := os.WriteFile(file, []byte("services: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return at(project("shop", service("web", "server")), dir)
}

func at(p *spec.Project, dir string) *spec.Project {
	p.NameFrom, p.WorkingDir, p.Files = spec.NameFromDirectory, dir, []string{filepath.Join(dir, "compose.yaml")}
	return p
}

func TestCheckoutsOfOneName(t *testing.T) {
	move := func(t *testing.T, from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name    string
		second  func(t *testing.T, dir string, first *spec.Project) *spec.Project
		refused bool
	}{
		{"another checkout", func(t *testing.T, dir string, _ *spec.Project) *spec.Project {
			return checkout(t, filepath.Join(dir, "b"))
		}, true},
		{"the same", func(_ *testing.T, _ string, first *spec.Project) *spec.Project { return first }, false},
		{"another with a name that was chosen", func(t *testing.T, dir string, _ *spec.Project) *spec.Project {
			p := checkout(t, filepath.Join(dir, "b"))
			p.NameFrom = spec.NameFromFlag
			return p
		}, false},
		{"through a link", func(t *testing.T, dir string, first *spec.Project) *spec.Project {
			link := filepath.Join(dir, "link")
			if err := os.Symlink(first.WorkingDir, link); err != nil {
				t.Fatal(err)
			}
			return at(project("shop", service("web", "server")), link)
		}, false},
		{"moved", func(t *testing.T, dir string, first *spec.Project) *spec.Project {
			moved := filepath.Join(dir, "moved")
			move(t, first.WorkingDir, moved)
			return at(project("shop", service("web", "server")), moved)
		}, false},
		{"moved, and another in its place", func(t *testing.T, dir string, first *spec.Project) *spec.Project {
			moved := filepath.Join(dir, "moved")
			move(t, first.WorkingDir, moved)
			checkout(t, filepath.Join(dir, "a"))
			return at(project("shop", service("web", "server")), moved)
		}, false},
		{"the first holds no compose file any more", func(t *testing.T, dir string, first *spec.Project) *spec.Project {
			if err := os.Remove(first.Files[0]); err != nil {
				t.Fatal(err)
			}
			return checkout(t, filepath.Join(dir, "b"))
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			first := checkout(t, filepath.Join(w.dir, "a"))
			w.up(first)
			second := tt.second(t, w.dir, first)
			_, err := w.apply(api.Apply{Command: api.Up, Name: "shop", Project: second})
			if !tt.refused {
				if err != nil {
					t.Fatal(err)
				}
				w.down(second, true)
				return
			}
			var refused *api.Error
			if !errors.As(err, &refused) || refused.Code != api.CodeRefused {
				t.Fatalf("error %v", err)
			}
			for _, want := range []string{first.WorkingDir, second.WorkingDir, "-p NAME", "--adopt"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not speak of %s: %v", want, err)
				}
			}
			if _, err := w.apply(api.Apply{Command: api.Down, Name: "shop", Project: second, Confirm: api.ConfirmAll}); err == nil {
				t.Error("down of the other checkout's project")
			}
			// Adopted, it is the second's, and no longer the first's.
			if _, err := w.apply(api.Apply{Command: api.Up, Name: "shop", Project: second, Adopt: true}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.apply(api.Apply{Command: api.Up, Name: "shop", Project: first}); err == nil {
				t.Error("the first still has it")
			}
			w.down(second, true)
		})
	}
}

func TestContainerNameOfAnotherProject(t *testing.T) {
	w := newWorld(t)
	named := func(project *spec.Project) *spec.Project {
		s := project.Services["web"]
		s.ContainerName, s.Keys = "front", map[string]spec.Pos{"container_name": {File: "compose.yaml", Line: 4}}
		return project
	}
	first, second := named(project("one", service("web", "server"))), named(project("two", service("web", "server")))
	w.up(first)
	_, err := w.apply(api.Apply{Command: api.Up, Name: "two", Project: second, Options: planner.Options{}})
	if err == nil || !strings.Contains(err.Error(), `compose.yaml:4: service "web": container name "front" is already in use by container `) ||
		!strings.Contains(err.Error(), `of project "one"`) {
		t.Errorf("error %v", err)
	}
	w.up(first) // whose own name is no conflict
	w.down(first, true)
	w.up(second)
	w.down(second, true)
	w.nothingLeft()
}
