//go:build linux

package launch

import (
	"errors"
	"fmt"
	"os"

	"github.com/stackvm/stack/guest/agent/inroot"
	"github.com/stackvm/stack/guest/agent/mount"
	"golang.org/x/sys/unix"
)

// masked and readonly are the paths docker hides and protects.
var (
	masked = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
	readonly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// nodes are in every container's /dev.
var nodes = []Node{
	{Path: "/dev/null", Mode: unix.S_IFCHR | 0o666, Dev: unix.Mkdev(1, 3)},
	{Path: "/dev/zero", Mode: unix.S_IFCHR | 0o666, Dev: unix.Mkdev(1, 5)},
	{Path: "/dev/full", Mode: unix.S_IFCHR | 0o666, Dev: unix.Mkdev(1, 7)},
	{Path: "/dev/random", Mode: unix.S_IFCHR | 0o666, Dev: unix.Mkdev(1, 8)},
	{Path: "/dev/urandom", Mode: unix.S_IFCHR | 0o666, Dev: unix.Mkdev(1, 9)},
	{Path: "/dev/tty", Mode: unix.S_IFCHR | 0o666, Dev: unix.Mkdev(5, 0)},
}

var links = []struct{ name, target string }{
	{"fd", "/proc/self/fd"},
	{"stdin", "/proc/self/fd/0"},
	{"stdout", "/proc/self/fd/1"},
	{"stderr", "/proc/self/fd/2"},
	{"ptmx", "pts/ptmx"},
	{"core", "/proc/kcore"},
}

// mounts makes what only the container's own namespaces can: proc is of a pid
// namespace, sysfs of a network namespace, mqueue of an IPC namespace.
func mounts(root *inroot.Root, spec *Spec) error {
	e := spec.Enter
	writable := 0
	if !e.Privileged {
		writable = mount.ReadOnly
	}
	proc, err := attach(root, "/proc", "proc", mount.NoSuid|mount.NoDev|mount.NoExec)
	if err != nil {
		return err
	}
	defer proc.Close()
	sys, err := attach(root, "/sys", "sysfs", mount.NoSuid|mount.NoDev|mount.NoExec|writable)
	if err != nil {
		return err
	}
	defer sys.Close()
	groups := writable
	if e.WritableCgroups {
		groups = 0
	}
	cgroup, err := attach(root, "/sys/fs/cgroup", "cgroup2", mount.NoSuid|mount.NoDev|mount.NoExec|groups)
	if err != nil {
		return err
	}
	cgroup.Close()
	if err := devices(root, spec); err != nil {
		return err
	}
	if !e.Privileged && !e.Unmasked {
		if err := protect(root); err != nil {
			return err
		}
	}
	for _, m := range e.Mounts {
		target, err := target(root, m)
		if err != nil {
			return fmt.Errorf("mounting on %s: %w", m.Target, errText(err))
		}
		err = unix.MoveMount(firstFd+m.Fd, "", int(target.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
		target.Close()
		if err != nil {
			return fmt.Errorf("mounting on %s: %w", m.Target, err)
		}
	}
	return nil
}

func target(root *inroot.Root, m Mount) (*os.File, error) {
	if m.File {
		return root.File(m.Target, 0o644)
	}
	return root.Dir(m.Target, 0o755)
}

// attach mounts a new file system of a kind on path, which must be an ordinary
// directory: an image with a link there would otherwise choose where it goes.
func attach(root *inroot.Root, path, kind string, attrs int, options ...mount.Option) (*os.File, error) {
	fault := func(err error) error { return fmt.Errorf("mounting %s on %s: %w", kind, path, errText(err)) }
	on, err := root.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		on, err = root.Dir(path, 0o755)
	}
	if err != nil {
		return nil, fault(err)
	}
	defer on.Close()
	m, err := mount.New(kind, attrs, options...)
	if err != nil {
		return nil, fault(err)
	}
	if err := mount.Attach(m, on); err != nil {
		m.Close()
		return nil, fault(err)
	}
	return m, nil
}

// devices fills /dev.
func devices(root *inroot.Root, spec *Spec) error {
	e := spec.Enter
	dev, err := attach(root, "/dev", "tmpfs", mount.NoSuid|unix.MOUNT_ATTR_STRICTATIME, mount.Option{Key: "mode", Value: "0755"}, mount.Option{Key: "size", Value: "64m"})
	if err != nil {
		return err
	}
	defer dev.Close()
	for _, dir := range []string{"pts", "shm", "mqueue"} {
		if err := unix.Mkdirat(int(dev.Fd()), dir, 0o755); err != nil {
			return fmt.Errorf("making /dev/%s: %w", dir, err)
		}
	}
	pts, err := attach(root, "/dev/pts", "devpts", mount.NoSuid|mount.NoExec, mount.Option{Key: "ptmxmode", Value: "0666"}, mount.Option{Key: "mode", Value: "0620"}, mount.Option{Key: "gid", Value: "5"})
	if err != nil {
		return err
	}
	pts.Close()
	mqueue, err := attach(root, "/dev/mqueue", "mqueue", mount.NoSuid|mount.NoDev|mount.NoExec)
	if err != nil {
		return err
	}
	mqueue.Close()
	if spec.Fds.Shm >= 0 {
		on, err := root.Open("/dev/shm", unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		err = unix.MoveMount(firstFd+spec.Fds.Shm, "", int(on.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
		on.Close()
		if err != nil {
			return fmt.Errorf("mounting /dev/shm: %w", err)
		}
	}
	for _, l := range links {
		if err := unix.Symlinkat(l.target, int(dev.Fd()), l.name); err != nil {
			return fmt.Errorf("making /dev/%s: %w", l.name, err)
		}
	}
	old := unix.Umask(0)
	defer unix.Umask(old)
	for _, list := range [][]Node{nodes, e.Devices} {
		for _, n := range list {
			if err := n.make(root); err != nil {
				return fmt.Errorf("making %s: %w", n.Path, errText(err))
			}
		}
	}
	return nil
}

func (n Node) make(root *inroot.Root) error {
	slash := len(n.Path) - 1
	for slash >= 0 && n.Path[slash] != '/' {
		slash--
	}
	if slash < 0 || slash == len(n.Path)-1 {
		return unix.EINVAL
	}
	name := n.Path[slash+1:]
	dir, err := root.Dir(n.Path[:slash], 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	err = unix.Mknodat(int(dir.Fd()), name, n.Mode, int(n.Dev))
	if errors.Is(err, unix.EEXIST) { // a second entry for the same path wins
		if err = unix.Unlinkat(int(dir.Fd()), name, 0); err == nil {
			err = unix.Mknodat(int(dir.Fd()), name, n.Mode, int(n.Dev))
		}
	}
	if err == nil && (n.UID != 0 || n.GID != 0) {
		err = unix.Fchownat(int(dir.Fd()), name, n.UID, n.GID, unix.AT_SYMLINK_NOFOLLOW)
	}
	return err
}

// protect hides and write-protects what docker does. /proc and /sys are the
// kernel's by now, so the paths lead where they say.
func protect(root *inroot.Root) error {
	null, err := root.Open("/dev/null", unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for _, path := range masked {
		on, err := root.Open(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err == nil {
			err = func() error {
				defer on.Close()
				var st unix.Stat_t
				if err := unix.Fstat(int(on.Fd()), &st); err != nil {
					return err
				}
				if st.Mode&unix.S_IFMT != unix.S_IFDIR {
					return mount.Bind(null, on, 0)
				}
				// One each: a mount that is attached nowhere cannot be cloned.
				empty, err := mount.New("tmpfs", mount.ReadOnly, mount.Option{Key: "size", Value: "0"})
				if err != nil {
					return err
				}
				defer empty.Close()
				return mount.Attach(empty, on)
			}()
		}
		if err != nil {
			return fmt.Errorf("hiding %s: %w", path, errText(err))
		}
	}
	for _, path := range readonly {
		on, err := root.Open(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err == nil {
			err = mount.Bind(on, on, mount.ReadOnly)
			on.Close()
		}
		if err != nil {
			return fmt.Errorf("protecting %s: %w", path, errText(err))
		}
	}
	return nil
}
