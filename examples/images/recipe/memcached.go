package recipe

import (
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stackvm/stack/examples/images/rootfs"
)

// memcached runs as its own user, as the registry's image of that name does.
var memcached = &Recipe{
	Name: "memcached", Tags: []string{"library/memcached:1.6", "library/memcached:1", "library/memcached:latest", "library/memcached:alpine", "library/memcached:1.6-alpine"},
	About:    "memcached of Debian",
	Base:     "debian",
	Packages: []string{"memcached"},
	Assumed:  append([]string{"libcache-memcached-perl"}, maintenance...),
	Skip:     []string{"/etc/init.d", "/etc/default", "/lib/systemd", "/usr/share/memcached"},
	OnDemand: true,
	Config: v1.Config{
		Cmd: []string{"memcached"}, User: "memcache",
		ExposedPorts: map[string]struct{}{"11211/tcp": {}},
	},
	Index: true,
	Layers: []func(*Kitchen, *rootfs.Tree) error{unpack, func(_ *Kitchen, t *rootfs.Tree) error {
		t.User("memcache", 11211, 11211, "/nonexistent", "/bin/false")
		return t.Err()
	}},
}
