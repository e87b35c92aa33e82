package recipe

import (
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stackvm/stack/examples/images/rootfs"
)

const redisUID = 999

// redis keeps the conventions of the registry's image of that name: data in /data, the
// server under a user of its own, reachable from the network without a password.
var redis = &Recipe{
	Name: "redis", Tags: []string{"library/redis:7", "library/redis:7.0", "library/redis:7.0.15", "library/redis:latest", "library/redis:7-alpine", "library/redis:alpine"},
	About:    "redis-server of Debian",
	Base:     "debian",
	Packages: []string{"redis-server"},
	Assumed:  maintenance,
	Skip:     []string{"/etc/default", "/etc/logrotate.d", "/etc/redis", "/usr/share/bash-completion", "/usr/share/gdb"},
	Config: v1.Config{
		Entrypoint:   []string{"docker-entrypoint.sh"},
		Cmd:          []string{"redis-server"},
		ExposedPorts: map[string]struct{}{"6379/tcp": {}},
		Volumes:      map[string]struct{}{"/data": {}},
		WorkingDir:   "/data",
	},
	Index:  true,
	Layers: []func(*Kitchen, *rootfs.Tree) error{unpack, redisFiles},
}

func redisFiles(_ *Kitchen, t *rootfs.Tree) error {
	t.User("redis", redisUID, redisUID, "/data", "/bin/false")
	t.Dir("/data", rootfs.Attr{Mode: 0o755, UID: redisUID, GID: redisUID})
	t.File("/usr/local/bin/docker-entrypoint.sh", file("redis/docker-entrypoint.sh"), executable)
	return t.Err()
}
