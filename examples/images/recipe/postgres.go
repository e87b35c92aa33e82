package recipe

import (
	"errors"
	"io/fs"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stackvm/stack/examples/images/rootfs"
)

const (
	postgresUID   = 999 // what the registry's image of that name uses
	postgresMajor = "15"
	postgresLib   = "/usr/lib/postgresql/" + postgresMajor
	postgresShare = "/usr/share/postgresql/" + postgresMajor
)

// postgres keeps the conventions of the registry's image of that name; the program
// examples/images/postgres-entrypoint has the larger part of them. It has no compiler for
// queries, which alone would double its size, and the locales C and C.UTF-8.
var postgres = &Recipe{
	Name: "postgres", Tags: []string{"library/postgres:15", "library/postgres:15-alpine", "library/postgres:15-bookworm", "library/postgres:latest"},
	About:    "postgresql-15 of Debian",
	Base:     "debian",
	Packages: []string{"postgresql-" + postgresMajor, "tzdata"},
	Assumed: slices.Concat(maintenance, []string{
		"postgresql-common", "postgresql-client-common", "ssl-cert", "locales", "libllvm14", "sensible-utils",
	}),
	Skip: []string{
		postgresLib + "/lib/llvmjit.so", postgresLib + "/lib/llvmjit_types.bc", postgresLib + "/lib/bitcode",
		"/usr/share/postgresql-common", "/usr/share/zoneinfo/right", "/usr/share/postgresql/15/man",
	},
	Programs: []Program{{Dir: "examples/images/postgres-entrypoint", Path: "/usr/local/bin/postgres-entrypoint"}},
	Config: v1.Config{
		Env: []string{
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:" + postgresLib + "/bin",
			"LANG=C.UTF-8", "PG_MAJOR=" + postgresMajor, "PGDATA=/var/lib/postgresql/data",
		},
		Entrypoint:   []string{"docker-entrypoint.sh"},
		Cmd:          []string{"postgres"},
		ExposedPorts: map[string]struct{}{"5432/tcp": {}},
		Volumes:      map[string]struct{}{"/var/lib/postgresql/data": {}},
		StopSignal:   "SIGINT",
	},
	Index:  true,
	Layers: []func(*Kitchen, *rootfs.Tree) error{unpack, postgresFiles},
}

func postgresFiles(k *Kitchen, t *rootfs.Tree) error {
	t.User("postgres", postgresUID, postgresUID, "/var/lib/postgresql", "/bin/bash")
	owned := func(mode fs.FileMode) rootfs.Attr {
		return rootfs.Attr{Mode: mode, UID: postgresUID, GID: postgresUID}
	}
	t.Dir("/var/lib/postgresql", owned(0o755))
	t.Dir("/var/lib/postgresql/data", owned(0o1777)) // any user may be told to run it
	t.Dir("/var/run/postgresql", owned(0o3777))
	t.Dir("/docker-entrypoint-initdb.d", executable)
	t.Symlink("/etc/localtime", "/usr/share/zoneinfo/Etc/UTC")
	t.File("/etc/timezone", "Etc/UTC\n", plain)

	// The server is in a container to be reached from others.
	sample := t.ReadFile(postgresShare + "/postgresql.conf.sample")
	listening := strings.Replace(sample, "#listen_addresses = 'localhost'", "listen_addresses = '*'", 1)
	if t.Err() == nil && listening == sample {
		return errors.New("postgresql.conf.sample has no listen_addresses to set")
	}
	t.File(postgresShare+"/postgresql.conf.sample", listening, plain)
	t.Symlink("/usr/local/bin/docker-entrypoint.sh", "postgres-entrypoint")
	return install(k, t)
}
