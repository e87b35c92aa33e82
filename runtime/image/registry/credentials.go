package registry

import (
	"context"
	"fmt"
	"maps"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/stackvm/stack/runtime/config"
)

// Credentials are the logins for the hosts of some images, by host as requests
// name it. They serve as an authn.Keychain and may cross from the command to
// the supervisor; they must not be written anywhere.
type Credentials map[string]authn.AuthConfig

// Resolve implements authn.Keychain.
func (c Credentials) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if a, ok := c[r.RegistryStr()]; ok {
		return authn.FromConfig(a), nil
	}
	return authn.Anonymous, nil
}

// String keeps secrets out of logs and messages.
func (c Credentials) String() string { return fmt.Sprintf("credentials for %d registries", len(c)) }

// GoString keeps them out of %#v too.
func (c Credentials) GoString() string { return c.String() }

// FindCredentials asks the keychain (authn.DefaultKeychain reads docker's
// configuration and runs its helpers) for every host that pulls of the
// repositories may contact, mirrors included.
func FindCredentials(ctx context.Context, keychain authn.Keychain, cfg *config.Config, repos []Repository) (Credentials, error) {
	hosts := make(map[string]bool)
	c := New(Options{Config: cfg})
	defer c.Close()
	for _, repo := range repos {
		for _, e := range c.endpoints(repo) {
			hosts[e.host] = true
		}
	}
	found := make(Credentials)
	for host := range maps.Keys(hosts) {
		reg, err := name.NewRegistry(host, name.StrictValidation)
		if err != nil {
			return nil, err
		}
		auth, err := authn.Resolve(ctx, keychain, reg)
		if err != nil {
			return nil, fmt.Errorf("looking for the credentials of %s: %w", host, err)
		}
		if auth == authn.Anonymous {
			continue
		}
		a, err := authn.Authorization(ctx, auth)
		if err != nil {
			return nil, fmt.Errorf("looking for the credentials of %s: %w", host, err)
		}
		found[host] = *a
	}
	return found, nil
}
