package recipe

import (
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stackvm/stack/examples/images/rootfs"
)

const usualPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// maintenance are the packages that install and configure packages: nothing is installed
// in a container, and no maintainer script has run.
var maintenance = []string{
	"adduser", "debconf", "dpkg", "init-system-helpers", "libpam-runtime", "libsemanage2",
	"lsb-base", "perl", "perl-base", "sysvinit-utils", "ucf", "usr-is-merged",
}

// debian is the small base of the images that need a C library and a shell.
var debian = &Recipe{
	Name:  "debian",
	Tags:  []string{"library/debian:12", "library/debian:12-slim", "library/debian:bookworm", "library/debian:bookworm-slim", "library/debian:latest"},
	About: "a shell, coreutils and the C library of Debian",
	Packages: []string{
		"base-files", "base-passwd", "bash", "coreutils", "dash", "debianutils", "diffutils", "findutils", "grep",
		"gzip", "hostname", "libc-bin", "login", "mawk", "ncurses-base", "ncurses-bin", "netbase", "passwd", "sed", "tar", "util-linux",
	},
	Assumed: maintenance,
	Skip:    []string{"/usr/share/bash-completion", "/usr/share/common-licenses/GFDL-1.2", "/usr/share/common-licenses/GFDL-1.3"},
	Config:  v1.Config{Env: []string{usualPath}, Cmd: []string{"bash"}},
	Index:   true,
	Layers:  []func(*Kitchen, *rootfs.Tree) error{debianLayer},
}

// debianLayer unpacks the packages and does what their maintainer scripts would do.
func debianLayer(k *Kitchen, t *rootfs.Tree) error {
	// The packages of Debian 12 still have files in /bin and the like; usrmerge moves them.
	for _, dir := range []string{"bin", "lib", "lib64", "sbin"} {
		t.Dir("/usr/"+dir, executable)
		t.Symlink("/"+dir, "usr/"+dir)
	}
	t.Symlink("/var/run", "/run")
	t.Symlink("/var/lock", "/run/lock")
	if err := k.unpack(t); err != nil {
		return err
	}

	// base-passwd
	passwd, shadow := shadowed(t.ReadFile("/usr/share/base-passwd/passwd.master"))
	t.File("/etc/passwd", passwd, plain)
	t.File("/etc/shadow", shadow, rootfs.Attr{Mode: 0o640, GID: 42}) // group shadow
	group, gshadow := shadowed(t.ReadFile("/usr/share/base-passwd/group.master"))
	t.File("/etc/group", group, plain)
	t.File("/etc/gshadow", gshadow, rootfs.Attr{Mode: 0o640, GID: 42})
	// base-files
	for _, dir := range []string{"/home", "/media", "/mnt", "/opt", "/srv", "/usr/local/bin", "/usr/local/lib", "/usr/local/sbin", "/usr/local/share", "/var/log"} {
		t.Dir(dir, executable)
	}
	t.Dir("/var/mail", rootfs.Attr{Mode: 0o2775, GID: 8})
	t.Dir("/root", rootfs.Attr{Mode: 0o700})
	t.Dir("/run/lock", rootfs.Attr{Mode: 0o1777})
	t.File("/root/.profile", t.ReadFile("/usr/share/base-files/dot.profile"), plain)
	t.File("/root/.bashrc", t.ReadFile("/usr/share/base-files/dot.bashrc"), plain)
	// libc-bin
	t.File("/etc/nsswitch.conf", t.ReadFile("/usr/share/libc-bin/nsswitch.conf"), plain)
	// mawk, debianutils, dash
	t.Symlink("/usr/bin/awk", "mawk")
	if !t.Exists("/usr/bin/which") {
		t.Symlink("/usr/bin/which", "which.debianutils")
	}
	if !t.Exists("/usr/bin/sh") {
		t.Symlink("/usr/bin/sh", "dash")
	}
	// libpam-runtime, which asks a database of its own for these
	for _, kind := range []string{"account", "auth", "password", "session"} {
		t.File("/etc/pam.d/common-"+kind, kind+"\trequired\tpam_unix.so\n", plain)
	}
	t.File("/etc/pam.d/other", "@include common-account\n@include common-auth\n@include common-password\n@include common-session\n", plain)
	return t.Err()
}

// shadowed moves the password fields of a user or group file into its shadow.
func shadowed(master string) (public, shadow string) {
	for line := range strings.Lines(master) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(fields) < 4 {
			continue
		}
		if len(fields) > 4 { // a user: last changed, and no bounds
			shadow += fields[0] + ":*:10957:0:99999:7:::\n"
		} else { // a group: administrators and members
			shadow += fields[0] + ":*::" + fields[3] + "\n"
		}
		fields[1] = "x"
		public += strings.Join(fields, ":") + "\n"
	}
	return public, shadow
}
