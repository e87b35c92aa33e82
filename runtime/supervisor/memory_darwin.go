package supervisor

import "golang.org/x/sys/unix"

// hostMemoryMiB is this host's memory.
func hostMemoryMiB() int {
	n, err := unix.SysctlUint64("hw.memsize")
	if err != nil {
		return 0
	}
	return int(n >> 20)
}
