//go:build linux

package cgroup

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// freezeTimeout bounds how long processes may take to freeze: one that waits in
// the kernel, for a disk or a share, freezes when that has answered.
const freezeTimeout = 10 * time.Second

// Freeze stops every process in the group and below it, and returns when all
// stand still. On error none does.
func (g *Group) Freeze() error {
	if err := write(g.Dir+"/cgroup.freeze", "1"); err != nil {
		return err
	}
	err := g.awaitFrozen()
	if err != nil {
		err = errors.Join(err, g.Thaw())
	}
	return err
}

// Thaw lets the processes in the group run on.
func (g *Group) Thaw() error { return write(g.Dir+"/cgroup.freeze", "0") }

func (g *Group) awaitFrozen() error {
	path := g.Dir + "/cgroup.events"
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	deadline := time.Now().Add(freezeTimeout)
	for {
		// Read through f: the kernel tells f of changes after its last read.
		if _, err := f.ReadAt(make([]byte, 256), 0); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if keyed(path, "frozen") == 1 {
			return nil
		}
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("its processes did not freeze within %v", freezeTimeout)
		}
		polled := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(polled, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
