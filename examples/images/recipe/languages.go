package recipe

import (
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stackvm/stack/examples/images/rootfs"
)

// python has what users of the registry's image of that name rely on: "python" and
// "python3" in the path, output that is not held back.
var python = &Recipe{
	Name: "python", Tags: []string{"library/python:3", "library/python:3.11", "library/python:3-slim", "library/python:3.11-slim", "library/python:latest"},
	About:    "python3 of Debian, without pip",
	Base:     "debian",
	Packages: []string{"python3"},
	Assumed:  maintenance,
	OnDemand: true,
	Config:   v1.Config{Env: []string{"LANG=C.UTF-8", "PYTHONUNBUFFERED=1"}, Cmd: []string{"python3"}},
	Index:    true,
	Layers: []func(*Kitchen, *rootfs.Tree) error{unpack, func(_ *Kitchen, t *rootfs.Tree) error {
		t.Symlink("/usr/local/bin/python", "/usr/bin/python3")
		return t.Err()
	}},
}

// node is the registry's image of that name for those who have their modules: Debian's
// packages of them are found by NODE_PATH.
var node = &Recipe{
	Name: "node", Tags: []string{"library/node:18", "library/node:18-slim", "library/node:lts", "library/node:latest"},
	About:    "nodejs of Debian, without npm",
	Base:     "debian",
	Packages: []string{"nodejs"},
	Assumed:  slices.Concat(maintenance, certificates),
	OnDemand: true,
	Config:   v1.Config{Env: []string{"NODE_PATH=/usr/share/nodejs:/usr/lib/nodejs"}, Cmd: []string{"node"}},
	Index:    true,
	Layers: []func(*Kitchen, *rootfs.Tree) error{unpack, func(_ *Kitchen, t *rootfs.Tree) error {
		t.User("node", 1000, 1000, "/home/node", "/bin/bash")
		t.Dir("/home/node", rootfs.Attr{Mode: 0o755, UID: 1000, GID: 1000})
		return t.Err()
	}},
}

// certificates are the authorities' and what makes one file of them, which no recipe needs:
// there is no internet to trust.
var certificates = []string{"ca-certificates", "openssl"}
