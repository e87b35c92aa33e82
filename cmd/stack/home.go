package main

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"

	dockerconfig "github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/stackvm/stack/cmd/stack/dockercli"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/config"
	"github.com/stackvm/stack/runtime/image"
	"github.com/stackvm/stack/runtime/image/registry"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/spec"
)

func (a *app) dirs() (config.Dirs, error) { return config.FindDirs() }

// store is what is recorded; reading it starts nothing.
func (a *app) store() (*state.Store, error) {
	dirs, err := a.dirs()
	if err != nil {
		return nil, err
	}
	return state.Open(dirs.State), nil
}

// hashKey keys the hashes of services; a dry run makes none.
func (a *app) hashKey() ([]byte, error) {
	store, err := a.store()
	if err != nil {
		return nil, err
	}
	if a.dryRun {
		// Where there is no key there is nothing to compare a hash with.
		if key, err := store.FindHashKey(); !errors.Is(err, fs.ErrNotExist) {
			return key, err
		}
		return make([]byte, state.HashKeyBytes), nil
	}
	return store.HashKey()
}

// settings is the user's configuration.
func (a *app) settings() (config.Dirs, *config.Config, error) {
	dirs, err := a.dirs()
	if err != nil {
		return dirs, nil, err
	}
	c, err := config.Load(dirs.Config)
	return dirs, c, err
}

// imageStore opens the images; the caller closes it.
func (a *app) imageStore() (*image.Store, error) {
	dirs, c, err := a.settings()
	if err != nil {
		return nil, err
	}
	return image.Open(imagesDir(dirs), image.Options{Config: c})
}

// registry finds what the supervisor needs to pull a project's images and
// cannot find itself: docker's credentials and this environment's proxies.
func (a *app) registry(p *spec.Project) (api.Registry, error) {
	var repos []registry.Repository
	for _, s := range p.Services {
		if s.Build && s.Image == "" {
			continue
		}
		ref, err := image.ParseRef(s.Image)
		if err != nil {
			continue // the pull says so, with the place in the file
		}
		repos = append(repos, ref.Repo)
	}
	return a.registryOf(repos)
}

// registryOf is registry for some repositories.
func (a *app) registryOf(repos []registry.Repository) (api.Registry, error) {
	_, c, err := a.settings()
	if err != nil {
		return api.Registry{}, err
	}
	found, err := registry.FindCredentials(context.Background(), authn.DefaultKeychain, c, repos)
	if err != nil {
		return api.Registry{}, err
	}
	r := api.Registry{
		Auth:       map[string]api.Credentials{},
		HTTPProxy:  c.Proxy.HTTP, // config.yaml, the environment over it
		HTTPSProxy: c.Proxy.HTTPS,
		NoProxy:    c.Proxy.NoProxy,
	}
	for host, auth := range found {
		r.Auth[host] = api.Credentials{Username: auth.Username, Password: auth.Password, IdentityToken: auth.IdentityToken, RegistryToken: auth.RegistryToken}
	}
	return r, nil
}

// proxies are the variables by which containers find the proxies of docker's
// configuration: those of the engine that would be asked, or the default ones.
func proxies() api.Proxies {
	engine := cmp.Or(os.Getenv("DOCKER_HOST"), dockercli.DefaultHost)
	found := dockerConfig().ParseProxyConfig(engine, nil)
	if len(found) == 0 {
		return nil
	}
	out := api.Proxies{}
	for key, value := range found {
		out[key] = *value
	}
	return out
}

// dockerConfig is docker's own configuration file, for the formats and keys that
// its users have set there; what cannot be read sets none.
func dockerConfig() *configfile.ConfigFile { return dockerconfig.LoadDefaultConfigFile(io.Discard) }
