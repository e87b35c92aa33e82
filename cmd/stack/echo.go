//go:build unix

package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// hideTyping has a terminal not show what is typed, until restore.
func hideTyping(fd int) (restore func() error, err error) {
	before, err := unix.IoctlGetTermios(fd, getTermios)
	if err != nil {
		return nil, fmt.Errorf("asking on the terminal: %w", err)
	}
	hidden := *before
	hidden.Lflag &^= unix.ECHO
	hidden.Lflag |= unix.ICANON | unix.ISIG
	hidden.Iflag |= unix.ICRNL
	if err := unix.IoctlSetTermios(fd, setTermios, &hidden); err != nil {
		return nil, fmt.Errorf("hiding what is typed on the terminal: %w", err)
	}
	return func() error { return unix.IoctlSetTermios(fd, setTermios, before) }, nil
}
