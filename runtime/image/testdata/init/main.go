//go:build linux

// Command init is the only process of a test's machine: it mounts the disk it is
// given as EROFS and writes to the console what it finds there.
package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stackvm/stack/runtime/image/erofstest"
)

func main() {
	if err := run(); err != nil {
		fmt.Printf("\nFAULT %q\n", err.Error())
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func run() error {
	for _, dir := range []string{"/dev", "/mnt"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("devtmpfs", "/dev", "devtmpfs", 0, ""); err != nil && err != unix.EBUSY {
		return fmt.Errorf("devtmpfs: %w", err)
	}
	if err := unix.Mount("/dev/vda", "/mnt", "erofs", unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("erofs: %w", err)
	}
	files, err := erofstest.Walk("/mnt")
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, line := range erofstest.Lines(files) {
		fmt.Fprintf(&b, "\nFILE %q", line)
	}
	fmt.Printf("%s\nEND\n", b.String())
	return nil
}
