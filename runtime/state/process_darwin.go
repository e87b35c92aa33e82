package state

import (
	"sync"

	"golang.org/x/sys/unix"
)

// HostBoot is the boot session of this host.
var HostBoot = sync.OnceValue(func() string {
	s, err := unix.Sysctl("kern.bootsessionuuid")
	if err != nil {
		return ""
	}
	return s
})

// StartTime is the start of a process in microseconds of Unix time, 0 when
// there is none.
func StartTime(pid int) uint64 {
	info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil {
		return 0
	}
	t := info.Proc.P_starttime
	return uint64(t.Sec)*1e6 + uint64(t.Usec)
}

// ProcessAlive reports whether pid is still the process that started then,
// since which boot of the host.
func ProcessAlive(pid int, startTime uint64, hostBoot string) bool {
	return pid > 0 && startTime != 0 && hostBoot == HostBoot() && StartTime(pid) == startTime
}
