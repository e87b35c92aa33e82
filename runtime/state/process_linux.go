package state

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
)

// HostBoot is the boot id of this host.
var HostBoot = sync.OnceValue(func() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
})

// StartTime is the start of a process in clock ticks since boot, 0 when there
// is none or it is a zombie.
func StartTime(pid int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The second field, the command, may hold anything but ends at the last ')'.
	end := bytes.LastIndexByte(b, ')')
	if end < 0 {
		return 0
	}
	fields := strings.Fields(string(b[end+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0
	}
	t, err := strconv.ParseUint(fields[19], 10, 64) // field 22
	if err != nil {
		return 0
	}
	return t
}

// ProcessAlive reports whether pid is still the process that started then,
// since which boot of the host.
func ProcessAlive(pid int, startTime uint64, hostBoot string) bool {
	return pid > 0 && startTime != 0 && hostBoot == HostBoot() && StartTime(pid) == startTime
}
