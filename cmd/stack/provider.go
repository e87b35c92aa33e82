package main

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/hashicorp/go-multierror"

	"github.com/stackvm/stack/cmd/stack/dockercli"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/spec"
)

// findProviders finds the programs of a project's providers. One that is not there
// is a fault of the file here, at its line.
func findProviders(p *spec.Project) (api.Providers, error) {
	if !slices.ContainsFunc(slices.Collect(maps.Values(p.Services)), func(s *spec.Service) bool { return s.Provider != nil }) {
		return api.Providers{}, nil
	}
	given := providersOf(p)
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(p.Services)) {
		s := p.Services[name]
		if s.Provider == nil || given.Paths[s.Provider.Type] != "" {
			continue
		}
		pos, ok := s.Keys["provider.type"]
		if !ok {
			pos = s.Keys["provider"]
		}
		faults = append(faults, &spec.Error{
			Pos:  pos,
			Err:  fmt.Errorf("service %q: provider %q: there is no docker CLI plugin and no program in PATH of that name", name, s.Provider.Type),
			Hint: fmt.Sprintf("install docker-%s among docker's plugins, or %s in PATH", s.Provider.Type, s.Provider.Type),
		})
	}
	switch len(faults) {
	case 0:
		return given, nil
	case 1:
		return given, faults[0]
	}
	return given, &multierror.Error{Errors: faults}
}

// providersOf is what there is of a project's providers, which may be nil, and the
// environment in which recorded ones are called too.
func providersOf(p *spec.Project) api.Providers {
	if p == nil {
		dir, _ := os.Getwd() // one that is gone leaves them the supervisor's
		return api.Providers{Env: os.Environ(), Dir: dir}
	}
	given := api.Providers{Paths: map[string]string{}, Env: p.Environ, Dir: p.WorkingDir}
	for _, s := range p.Services {
		if s.Provider == nil {
			continue
		}
		if path := findProvider(s.Provider.Type); path != "" {
			given.Paths[s.Provider.Type] = path
		}
	}
	return given
}

// findProvider finds a program as docker compose does: docker's plugin of that name,
// or one in PATH.
func findProvider(name string) string {
	if filepath.Base(name) == name {
		for _, dir := range dockercli.PluginDirs(os.Getenv) {
			path := filepath.Join(dir, "docker-"+name)
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return path
			}
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	if path, err = filepath.Abs(path); err != nil {
		return ""
	}
	return path
}
