//go:build linux

package mount

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Attributes of a mount, the kernel's own.
const (
	NoSuid   = unix.MOUNT_ATTR_NOSUID
	NoDev    = unix.MOUNT_ATTR_NODEV
	NoExec   = unix.MOUNT_ATTR_NOEXEC
	ReadOnly = unix.MOUNT_ATTR_RDONLY
)

// Option is one option of a file system; a flag has no value.
type Option struct{ Key, Value string }

// New makes a file system of a kind.
func New(kind string, attrs int, options ...Option) (*os.File, error) {
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fs)
	for _, o := range options {
		if o.Value == "" {
			err = unix.FsconfigSetFlag(fs, o.Key)
		} else {
			err = unix.FsconfigSetString(fs, o.Key, o.Value)
		}
		if err != nil {
			return nil, fmt.Errorf("option %s=%s: %w", o.Key, o.Value, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, err
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), kind), nil
}

// Clone makes another mount of what f refers to, a directory or a file, with
// attributes added.
func Clone(f *os.File, attrs int) (*os.File, error) {
	fd, err := unix.OpenTree(int(f.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, err
	}
	if attrs != 0 {
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: uint64(attrs)}); err != nil {
			unix.Close(fd)
			return nil, err
		}
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// Attach puts a mount on what on refers to.
func Attach(m, on *os.File) error {
	return unix.MoveMount(int(m.Fd()), "", int(on.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// Bind puts another mount of what from refers to on on, with attributes added.
func Bind(from, on *os.File, attrs int) error {
	m, err := Clone(from, attrs)
	if err != nil {
		return err
	}
	defer m.Close()
	return Attach(m, on)
}
