package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stackvm/stack/spec"
)

// TestFindProviders: docker's plugins come before programs in PATH; what is not
// there is a fault at its line, all of them in one error.
func TestFindProviders(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"docker/cli-plugins/docker-both", "extra/docker-extra", "bin/both", "bin/path", "bin/docker-both"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "docker/cli-plugins/docker-not"), nil, 0o600); err != nil { // no program
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "docker/config.json"), []byte(`{"cliPluginsExtraDirs":["`+dir+`/extra"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", filepath.Join(dir, "docker"))
	t.Setenv("PATH", filepath.Join(dir, "bin"))
	t.Chdir(dir)
	for name, want := range map[string]string{
		"both": "docker/cli-plugins/docker-both", "extra": "extra/docker-extra", "path": "bin/path", "./bin/path": "bin/path", "not": "", "none": "", "../x": "",
	} {
		if want != "" {
			want = filepath.Join(dir, want)
		}
		if got := findProvider(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	service := func(name, kind string, line int) *spec.Service {
		return &spec.Service{Name: name, Provider: &spec.Provider{Type: kind}, Keys: map[string]spec.Pos{"provider.type": {File: "compose.yaml", Line: line}}}
	}
	p := &spec.Project{WorkingDir: dir, Environ: []string{"A=b"}, Services: map[string]*spec.Service{"web": {Name: "web"}, "db": service("db", "both", 3)}}
	given, err := findProviders(p)
	if err != nil || given.Dir != dir || len(given.Env) != 1 || len(given.Paths) != 1 {
		t.Errorf("%#v %v", given, err)
	}
	if strings.Contains(given.String(), "A=b") {
		t.Error("it prints its environment")
	}
	p.Services["one"], p.Services["two"] = service("one", "none", 5), service("two", "not", 7)
	_, err = findProviders(p)
	if got := len(spec.Errors(err)); got != 2 || !strings.Contains(err.Error(), `compose.yaml:5: service "one": provider "none": there is no docker CLI plugin and no program in PATH of that name`) {
		t.Errorf("%d faults: %v", got, err)
	}
	delete(p.Services, "db")
	delete(p.Services, "one")
	delete(p.Services, "two")
	if given, err := findProviders(p); err != nil || given.Env != nil {
		t.Errorf("without providers %#v %v", given, err)
	}
}
