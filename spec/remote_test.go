package spec

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// elsewhere is a Remote whose files lie in a directory of the test's.
type elsewhere struct {
	dir   string
	asked []string
	any   bool
}

func (e *elsewhere) Accepts(name string) bool { return strings.HasPrefix(name, "far://") }

func (e *elsewhere) Fetch(_ context.Context, name string, any bool) (Fetched, error) {
	e.asked, e.any = append(e.asked, name), any
	path, ok := strings.CutPrefix(name, "far://")
	if path == "nowhere" {
		return Fetched{}, errors.New(`compose file "far://nowhere": no route`)
	}
	if !ok {
		return Fetched{}, errors.New("a path was fetched: " + name)
	}
	return Fetched{File: filepath.Join(e.dir, path), Name: "Far.Shop"}, nil
}

// TestRemote: what is relative in a file from elsewhere is relative to its copy,
// as -f, include and extends, and in what such files include themselves; each is
// fetched once.
func TestRemote(t *testing.T) {
	far := &elsewhere{dir: write(t, "main/compose.yaml", `
include: [far://part/compose.yaml, {path: ../near/compose.yaml, project_directory: ../near}]
services:
  web: {image: web, volumes: ["./data:/data"], extends: {file: far://base/base.yaml, service: base}}
`)}
	writeIn(t, far.dir, "part/compose.yaml", "services: {part: {image: part, env_file: part.env, volumes: [\"./part:/part\"]}}")
	writeIn(t, far.dir, "part/part.env", "PART=1")
	writeIn(t, far.dir, "near/compose.yaml", "services: {near: {image: near, volumes: [\"./near:/near\"], extends: {file: far://base/base.yaml, service: base}}}")
	writeIn(t, far.dir, "base/base.yaml", "services: {base: {volumes: [\"./base:/base\"]}}")
	p, _, err := Load(t.Context(), Options{Files: []string{"far://main/compose.yaml"}, Remote: far, Environ: []string{}, Dir: far.dir})
	if err != nil {
		t.Fatal(err)
	}
	sources := map[string]string{}
	for _, s := range p.Services {
		for _, m := range s.Mounts {
			sources[s.Name+m.Target] = m.Source
		}
	}
	for mount, want := range map[string]string{"web/data": "main/data", "web/base": "base/base", "part/part": "part/part", "near/near": "near/near", "near/base": "base/base"} {
		if got := sources[mount]; got != filepath.Join(far.dir, want) {
			t.Errorf("%s is mounted from %q, want %s", mount, got, want)
		}
	}
	if p.WorkingDir != filepath.Join(far.dir, "main") || p.Name != "farshop" || p.NameFrom != NameFromRemote {
		t.Errorf("in %s, named %s from %s", p.WorkingDir, p.Name, p.NameFrom)
	}
	if slices.Sort(far.asked); !slices.Equal(far.asked, slices.Compact(slices.Clone(far.asked))) || far.any {
		t.Errorf("fetched %q, any %v", far.asked, far.any)
	}

	// A file that lies here leaves the project where it is.
	here := write(t, "compose.yaml", "include: [far://part/compose.yaml]\nservices: {web: {image: web, volumes: [\"./data:/data\"], extends: {file: 'far://base/base.yaml', service: base}}}\n")
	p, _, err = Load(t.Context(), Options{Files: []string{filepath.Join(here, "compose.yaml")}, Remote: far, NamesOnly: true, Environ: []string{}})
	if err != nil || p.WorkingDir != here || p.NameFrom != NameFromDirectory || !far.any {
		t.Errorf("%+v, %v", p, err)
	}
	p, _, err = Load(t.Context(), Options{Files: []string{"far://near/compose.yaml"}, ProjectDirectory: here, Remote: far, Environ: []string{}})
	if err != nil || p.WorkingDir != here || p.Name == "farshop" {
		t.Errorf("with a project directory: %+v, %v", p, err)
	}
	// Without somebody to fetch, every name is a path.
	if _, _, err := Load(t.Context(), Options{Files: []string{"far://main/compose.yaml"}, Environ: []string{}}); err == nil {
		t.Error("fetched by nobody")
	}
}

// TestRemoteFaults: what cannot be fetched is said where it is named, all of it in
// one run, once.
func TestRemoteFaults(t *testing.T) {
	far := &elsewhere{}
	far.dir = write(t, "compose.yaml", `
include:
  - far://nowhere
  - path: [far://nowhere, far://bad.yaml]
services:
  web:
    image: web
    extends:
      file: far://bad.yaml
      service: base
`)
	writeIn(t, far.dir, "bad.yaml", "services:\n  base:\n    image: [x\n")
	_, _, err := Load(t.Context(), Options{Files: []string{filepath.Join(far.dir, "compose.yaml")}, Remote: far, Environ: []string{}, Dir: far.dir})
	if err == nil || strings.Count(err.Error(), "compose.yaml:3: compose file \"far://nowhere\": no route") != 1 || strings.Count(err.Error(), "nowhere") != 1 {
		t.Errorf("%v", err)
	}
	writeIn(t, far.dir, "compose.yaml", "include: [far://bad.yaml]\nservices: {web: {image: web}}\n")
	_, _, err = Load(t.Context(), Options{Files: []string{filepath.Join(far.dir, "compose.yaml")}, Remote: far, Environ: []string{}, Dir: far.dir})
	if err == nil || !strings.Contains(err.Error(), "bad.yaml:") {
		t.Errorf("%v", err)
	}
	if _, _, err := Load(t.Context(), Options{Files: []string{"far://nowhere"}, Remote: far, Environ: []string{}}); err == nil || err.Error() != `compose file "far://nowhere": no route` {
		t.Errorf("%v", err)
	}
}

// TestUsedVariables: with the values they get, as config --variables names them.
func TestUsedVariables(t *testing.T) {
	dir := write(t, "compose.yaml", "services: {web: {image: \"${A}${B:-b}${C:?needed}$$D\"}}")
	writeIn(t, dir, ".env", "A=1\n")
	got, err := UsedVariables(t.Context(), Options{Files: []string{filepath.Join(dir, "compose.yaml")}, Environ: []string{}})
	want := []Variable{{Name: "A", Value: "1", Set: true}, {Name: "B", Default: "b"}, {Name: "C", Required: true}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
}
