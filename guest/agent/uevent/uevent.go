//go:build linux

package uevent

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Wait calls found at once and then after every change the kernel announces,
// until it reports success or an error, or ctx ends.
func Wait(ctx context.Context, found func() (bool, error)) error {
	// Nothing is missed between a look and the wait: the socket is there first.
	if ok, err := found(); ok || err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return fmt.Errorf("listening for devices: %w", err)
	}
	socket := os.NewFile(uintptr(fd), "uevent")
	defer socket.Close()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		return fmt.Errorf("listening for devices: %w", err)
	}
	defer context.AfterFunc(ctx, func() { socket.SetReadDeadline(time.Unix(1, 0)) })()

	buf := make([]byte, 4096)
	for {
		if ok, err := found(); ok || err != nil {
			return err
		}
		// ENOBUFS means that announcements were lost: looking again is the cure.
		if _, err := socket.Read(buf); err != nil && ctx.Err() != nil {
			return ctx.Err()
		}
	}
}
