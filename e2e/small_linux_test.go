package e2e

import (
	"errors"
	"fmt"
	"os"
	goruntime "runtime"

	"golang.org/x/sys/unix"
)

// smallBytes is the size of the small file system.
const smallBytes = 256 << 20

// mountSmall makes dir a small file system of its own, for tests of what happens
// when a host's disk is full. It is seen only by what this thread starts, and
// gone when that has ended.
func mountSmall(dir string) (unmount func() error, err error) {
	if os.Getuid() != 0 {
		return nil, errors.New("only root can mount a small file system")
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	goruntime.LockOSThread() // never unlocked: its mounts are its own
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("making a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("small", dir, "tmpfs", 0, fmt.Sprintf("size=%d", smallBytes)); err != nil {
		return nil, fmt.Errorf("mounting a small file system: %w", err)
	}
	return func() error { return unix.Unmount(dir, unix.MNT_DETACH) }, nil
}
