package gateway

import (
	"fmt"
	"net"
	"net/netip"
)

// What no machine reaches, wherever the host's routes lead: the host itself,
// its links, and where clouds keep credentials. RFC 1918 and RFC 4193 ranges
// are open: a company's services live there.
var closed = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "this host (RFC 1122)"},
	{netip.MustParsePrefix("127.0.0.0/8"), "the host's loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local, where clouds serve credentials"},
	{netip.MustParsePrefix("224.0.0.0/3"), "multicast, reserved or broadcast"},
	{netip.MustParsePrefix("::/96"), "unspecified, loopback or IPv4-compatible"},
	{netip.MustParsePrefix("::ffff:0:0/96"), "IPv4-mapped"},
	{netip.MustParsePrefix("64:ff9b::/96"), "IPv4 behind a translator (RFC 6052)"},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "IPv4 behind a translator (RFC 8215)"},
	{netip.MustParsePrefix("2002::/16"), "IPv4 in a tunnel (RFC 3056)"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
	{netip.MustParsePrefix("fd00:ec2::/32"), "where a cloud serves credentials"},
	{netip.MustParsePrefix("fd20:ce::/32"), "where a cloud serves credentials"},
	{netip.MustParsePrefix("100.100.100.200/32"), "where a cloud serves credentials"},
	{netip.MustParsePrefix("168.63.129.16/32"), "where a cloud serves credentials"},
}

// Outside is the Policy of a network that is not internal: everything but the
// host, its links, and the addresses at which clouds serve credentials.
func Outside(a netip.Addr) error {
	a = a.WithZone("")
	for _, c := range closed {
		if c.prefix.Contains(a) {
			return fmt.Errorf("%s is %s", a, c.what)
		}
	}
	if local, err := isHosts(a); err != nil {
		return fmt.Errorf("looking up the route to %s: %w", a, err)
	} else if local {
		return fmt.Errorf("%s is the host's own", a)
	}
	return nil
}

// isHosts tells whether a is an address of the host. The kernel answers by
// what it would do: it sends from the address itself, or it lists it. Nothing
// is sent. An address without a route is nobody's.
func isHosts(a netip.Addr) (bool, error) {
	if c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 9))); err == nil {
		from, ok := c.LocalAddr().(*net.UDPAddr)
		c.Close()
		if ok && from.AddrPort().Addr().Unmap() == a {
			return true, nil
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false, err
	}
	for _, h := range addrs {
		if p, ok := h.(*net.IPNet); ok {
			if b, ok := netip.AddrFromSlice(p.IP); ok && b.Unmap() == a {
				return true, nil
			}
		}
	}
	return false, nil
}
