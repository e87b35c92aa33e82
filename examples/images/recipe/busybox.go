package recipe

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stackvm/stack/examples/images/rootfs"
)

// busyboxOnly is what is unpacked of the package: its hook for initial file systems would
// bring a shell that a container has no use for.
var busyboxSkip = []string{"/usr/share/initramfs-tools", "/usr/share/doc/busybox-static/examples"}

// busybox has every applet in /bin, as hard links to one binary.
var busybox = &Recipe{
	Name: "busybox", Tags: []string{"library/busybox:latest", "library/busybox:1.35", "library/busybox:1.36", "library/busybox:1", "library/busybox:stable", "library/busybox:musl", "library/busybox:glibc"},
	About:    "busybox, static",
	Packages: []string{"busybox-static"}, Skip: busyboxSkip,
	Config: v1.Config{Env: []string{usualPath}, Cmd: []string{"sh"}},
	Index:  true,
	Layers: []func(*Kitchen, *rootfs.Tree) error{func(k *Kitchen, t *rootfs.Tree) error {
		t.Dir("/bin", executable)
		return busyboxLayer(k, t, func(applet string) {
			if name := "/bin/" + path.Base(applet); !t.Exists(name) {
				t.Link(name, "/bin/busybox")
			}
		})
	}},
}

// alpine has the applets where the distribution of that name has them, as symbolic links;
// it is busybox all the same, so its package manager and C library are missing.
var alpine = &Recipe{
	Name: "alpine", Tags: []string{"library/alpine:latest", "library/alpine:3", "library/alpine:3.20", "library/alpine:3.22"},
	About:    "busybox in the places where Alpine Linux has it; no apk, no musl",
	Packages: []string{"busybox-static"}, Skip: busyboxSkip,
	Config: v1.Config{Env: []string{usualPath}, Cmd: []string{"/bin/sh"}},
	Index:  true,
	Layers: []func(*Kitchen, *rootfs.Tree) error{func(k *Kitchen, t *rootfs.Tree) error {
		return busyboxLayer(k, t, func(applet string) {
			if name := "/" + applet; !t.Exists(name) {
				t.Symlink(name, "/bin/busybox")
			}
		})
	}},
}

func busyboxLayer(k *Kitchen, t *rootfs.Tree, link func(applet string)) error {
	if err := k.unpack(t); err != nil {
		return err
	}
	applets, err := applets(t.ReadFile("/bin/busybox"))
	if err != nil {
		return err
	}
	for _, applet := range applets {
		link(applet)
	}
	if !t.Exists("/usr/bin/env") { // what the first line of many scripts names
		t.Symlink("/usr/bin/env", "/bin/env")
	}
	t.File("/etc/passwd", file("busybox/passwd"), plain)
	t.File("/etc/group", file("busybox/group"), plain)
	t.File("/etc/shadow", "root:*:::::::\nnobody:*:::::::\n", rootfs.Attr{Mode: 0o640})
	t.File("/etc/nsswitch.conf", "hosts: files dns\n", plain)
	t.Dir("/root", rootfs.Attr{Mode: 0o700})
	t.Dir("/tmp", rootfs.Attr{Mode: 0o1777})
	for _, dir := range []string{"/home", "/usr/sbin", "/var/log", "/var/spool/mail", "/var/www", "/run"} {
		t.Dir(dir, executable)
	}
	t.Symlink("/var/run", "/run")
	return t.Err()
}

// applets asks the binary for its applets, as paths without the leading slash. It is of the
// host's architecture, as all images here are.
func applets(binary string) (names []string, err error) {
	dir, err := os.MkdirTemp("", "images-busybox-*")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	name := path.Join(dir, "busybox")
	if err := os.WriteFile(name, []byte(binary), 0o700); err != nil {
		return nil, err
	}
	out, err := exec.Command(name, "--list-full").Output()
	if err != nil {
		return nil, fmt.Errorf("listing the applets of busybox: %w", err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		names = append(names, lines.Text())
	}
	return names, nil
}
