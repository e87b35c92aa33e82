package supervisor

import "net/netip"

func portOwner(string, netip.AddrPort) string { return "" }
