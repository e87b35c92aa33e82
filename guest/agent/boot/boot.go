//go:build linux

package boot

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// root is where the tree is built before it becomes "/".
const root = "/newroot"

// step is one row of the tree; in order, each prints as itself in an error.
type step interface {
	do() error
	String() string
}

type dir struct {
	path string
	mode uint32
}

func (d dir) String() string { return "making " + d.path }
func (d dir) do() error {
	if err := unix.Mkdir(d.path, d.mode); err != nil && err != unix.EEXIST {
		return err
	}
	return nil
}

type mount struct {
	kind, path string
	flags      uintptr
	options    string
}

func (m mount) String() string { return "mounting " + m.kind + " on " + m.path }
func (m mount) do() error      { return unix.Mount(m.kind, m.path, m.kind, m.flags, m.options) }

// enter makes path the root. The initramfs cannot be a container's old root:
// pivot_root(2) wants a root that is mounted on something.
type enter struct{ path string }

func (e enter) String() string { return "entering " + e.path }
func (e enter) do() error {
	return errors.Join(
		unix.Chdir(e.path),
		unix.Mount(".", "/", "", unix.MS_MOVE, ""),
		unix.Chroot("."),
		unix.Chdir("/"),
	)
}

const plain = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

var tree = []step{
	dir{root, 0o755},
	mount{"tmpfs", root, unix.MS_NODEV, "mode=0755"},
	dir{root + "/proc", 0o555},
	mount{"proc", root + "/proc", plain, ""},
	dir{root + "/sys", 0o555},
	mount{"sysfs", root + "/sys", plain, ""},
	dir{root + "/dev", 0o755},
	mount{"devtmpfs", root + "/dev", unix.MS_NOSUID, "mode=0755"},
	mount{"cgroup2", root + "/sys/fs/cgroup", plain, "nsdelegate,memory_recursiveprot"},
	dir{root + "/run", 0o700},
	dir{root + "/run/disks", 0o700},
	dir{root + "/run/containers", 0o700},
	enter{root},
}

// settings are what software that people run in containers expects of a host.
var settings = []struct{ key, value string }{
	{"vm/max_map_count", "262144"}, // Elasticsearch, SonarQube
	{"vm/overcommit_memory", "1"},  // Redis
	// A machine can end as a host does when its power fails. Files that nobody syncs
	// are on their disk after some six seconds, as new names are; the kernel's half
	// minute would leave them empty.
	{"vm/dirty_expire_centisecs", "500"},
	{"vm/dirty_writeback_centisecs", "100"},
	{"fs/inotify/max_user_watches", "1048576"},
	{"fs/inotify/max_user_instances", "8192"},
	{"fs/inotify/max_queued_events", "65536"},
	{"fs/aio-max-nr", "1048576"}, // MariaDB, Oracle
	{"fs/protected_hardlinks", "1"},
	{"fs/protected_symlinks", "1"},
	{"kernel/pid_max", "4194304"},
	{"kernel/dmesg_restrict", "1"},
	{"kernel/kptr_restrict", "1"},
	{"kernel/keys/maxkeys", "20000"},
	{"kernel/keys/maxbytes", "2000000"},
	{"net/core/somaxconn", "4096"},
	{"net/core/fb_tunnels_only_for_init_net", "2"}, // no sit0, tunl0 in containers
}

// Run sets the machine up.
func Run() error {
	unix.Umask(0)
	for _, s := range tree {
		if err := s.do(); err != nil {
			return fmt.Errorf("%v: %w", s, err)
		}
	}
	unix.Umask(0o022)
	for _, s := range settings {
		// A kernel built without the setting does not need it.
		if err := os.WriteFile("/proc/sys/"+s.key, []byte(s.value), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("setting %s: %w", strings.ReplaceAll(s.key, "/", "."), err)
		}
	}
	return nil
}

// Parameter returns the value of a parameter of the kernel command line.
func Parameter(name string) (string, error) {
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return "", err
	}
	for field := range strings.FieldsSeq(string(text)) {
		if key, value, ok := strings.Cut(field, "="); ok && key == name {
			return value, nil
		}
	}
	return "", fmt.Errorf("the kernel command line has no %s", name)
}

// Halt ends the machine; it does not return. Writable disks have been unmounted
// by now, or the machine is beyond help.
func Halt() {
	for {
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
}
