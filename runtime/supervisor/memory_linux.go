package supervisor

import "golang.org/x/sys/unix"

// hostMemoryMiB is this host's memory.
func hostMemoryMiB() int {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	return int(uint64(info.Totalram) * uint64(info.Unit) >> 20)
}
