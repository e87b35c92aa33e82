package dns

import (
	"net/netip"
	"strings"
)

// maxServers is how many nameserver lines a C library heeds (MAXNS in
// resolv.h).
const maxServers = 3

// parseResolvConf lists the nameservers of a resolv.conf(5); without any, the
// host itself, as a C library does.
func parseResolvConf(data []byte, port uint16) []netip.AddrPort {
	var servers []netip.AddrPort
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" || len(servers) == maxServers {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil && !a.IsMulticast() {
			servers = append(servers, netip.AddrPortFrom(a, port))
		}
	}
	if servers == nil {
		servers = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)}
	}
	return servers
}
