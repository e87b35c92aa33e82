package supervisor

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// portOwner names the process that listens on a port, "" when the host does not
// tell: only processes of the same user can be looked into.
func portOwner(proto string, at netip.AddrPort) string {
	inodes := map[string]bool{}
	for _, family := range []string{"", "6"} {
		f, err := os.Open("/proc/net/" + proto + family)
		if err != nil {
			continue
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			fields := strings.Fields(lines.Text())
			if len(fields) < 10 {
				continue
			}
			_, port, ok := strings.Cut(fields[1], ":")
			if n, err := strconv.ParseUint(port, 16, 16); !ok || err != nil || uint16(n) != at.Port() {
				continue
			}
			const listening, unconnected = "0A", "07"
			if fields[3] == listening || proto == "udp" && fields[3] == unconnected {
				inodes["socket:["+fields[9]+"]"] = true
			}
		}
		f.Close()
	}
	if len(inodes) == 0 {
		return ""
	}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil || !inodes[target] {
			continue
		}
		pid := strings.Split(fd, "/")[2]
		name, err := os.ReadFile("/proc/" + pid + "/comm")
		if err != nil {
			continue
		}
		return fmt.Sprintf("process %s (%s)", pid, strings.TrimSpace(string(name)))
	}
	return ""
}
