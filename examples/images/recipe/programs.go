package recipe

import (
	"archive/tar"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stackvm/stack/examples/images/rootfs"
)

// tool is what tests run in a machine: examples/images/tool on top of busybox.
var tool = &Recipe{
	Name: "tool", Tags: []string{"fixture/tool:1", "fixture/tool:latest"},
	About:    "one program with the behaviours tests need, see examples/images/tool",
	Base:     "busybox",
	Programs: []Program{{Dir: "examples/images/tool", Path: "/usr/local/bin/tool"}},
	Config:   v1.Config{Cmd: []string{"tool", "sleep"}},
	Layers:   []func(*Kitchen, *rootfs.Tree) error{install},
}

// layers has in its layers what a file tree can hold and what layers do to each other;
// "tool layers" says what is to be seen in the end.
var layers = &Recipe{
	Name: "layers", Tags: []string{"fixture/layers:1", "fixture/layers:latest"},
	About:  "every kind of file and of change between layers, checked by: tool layers",
	Base:   "tool",
	OCI:    true,
	Config: v1.Config{Cmd: []string{"tool", "layers"}, User: "guest:staff", WorkingDir: "/layers", Labels: map[string]string{"fixture": "layers"}},
	Layers: []func(*Kitchen, *rootfs.Tree) error{
		func(_ *Kitchen, t *rootfs.Tree) error {
			t.User("guest", 1234, 1234, "/home/guest", "/bin/sh")
			for _, name := range []string{"kept", "removed", "replaced"} {
				t.File("/layers/"+name, "lower "+name, plain)
			}
			t.File("/layers/opaque/hidden", "lower", plain)
			t.File("/layers/removed-dir/inside", "lower", plain)
			t.File("/layers/turned/inside", "lower", plain)
			t.File("/layers/owned", "", rootfs.Attr{Mode: 0o640, UID: 1234, GID: 50})
			t.File("/layers/huge-owner", "", rootfs.Attr{Mode: 0o600, UID: 2000000, GID: 2000001})
			t.File("/layers/setuid", "", rootfs.Attr{Mode: 0o4755})
			t.Dir("/layers/sticky", rootfs.Attr{Mode: 0o1777})
			t.File("/layers/first-name", "linked", plain)
			t.Link("/layers/second-name", "/layers/first-name")
			t.Symlink("/layers/link", "kept")
			t.Symlink("/layers/dangling", "/nowhere/at/all")
			t.Device("/layers/null", tar.TypeChar, 1, 3, rootfs.Attr{Mode: 0o666})
			t.Fifo("/layers/fifo", plain)
			t.File("/layers/attributes", "", rootfs.Attr{Mode: 0o644, Xattrs: map[string]string{
				"user.note": "hello", "security.capability": capNetBindService,
			}})
			t.File("/layers/name with space and ünïcode", "", plain)
			t.File("/layers/empty", "", plain)
			return t.Err()
		},
		func(_ *Kitchen, t *rootfs.Tree) error {
			t.Remove("/layers/removed")
			t.Remove("/layers/removed-dir")
			t.File("/layers/replaced", "upper", rootfs.Attr{Mode: 0o604})
			t.Opaque("/layers/opaque", executable)
			t.File("/layers/opaque/seen", "upper", plain)
			t.Remove("/layers/turned")
			return t.Err()
		},
		func(_ *Kitchen, t *rootfs.Tree) error {
			t.File("/layers/turned", "a file now", plain)
			return t.Err()
		},
	},
}

// capNetBindService is a version 2 capability attribute: effective, permitted 1<<10.
const capNetBindService = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// threeTierApp is the application of examples/three-tier: one binary and nothing else.
var threeTierApp = &Recipe{
	Name: "three-tier-app", Tags: []string{"example/three-tier-app:1"},
	About:    "the Go application of examples/three-tier",
	Programs: []Program{{Dir: "examples/three-tier/app", Path: "/app"}},
	Config: v1.Config{
		Env: []string{usualPath}, Entrypoint: []string{"/app"}, User: "65532:65532",
		ExposedPorts: map[string]struct{}{"8000/tcp": {}},
	},
	Layers: []func(*Kitchen, *rootfs.Tree) error{install},
}
