//go:build linux

package netlink

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"testing"
)

// The kernel's own answer lists what listens here, and no connection.
func TestSockets(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	all, _, err := Sockets(nil)
	if err != nil {
		t.Skipf("this kernel cannot be asked for its sockets: %v", err)
	}
	has := func(a net.Addr, udp bool) bool {
		at := netip.MustParseAddrPort(a.String())
		return slices.ContainsFunc(all, func(s Socket) bool { return s.Addr == at && s.UDP == udp })
	}
	if !has(l.Addr(), false) || !has(u.LocalAddr(), true) || has(c.LocalAddr(), false) {
		t.Errorf("%v, %v and not %v in %v", l.Addr(), u.LocalAddr(), c.LocalAddr(), all)
	}
}

// Whatever the kernel says is taken apart without going beyond it.
func FuzzParseSocket(f *testing.F) {
	message := make([]byte, diagMessageLen)
	message[0], message[5] = 2, 80
	f.Add(message)
	f.Add(append(bytes.Clone(message), 5, 0, diagV6Only, 0, 1))
	f.Add([]byte{10})
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, ok := parseSocket(b); ok && (s.Addr.Port() == 0 || s.Addr.Addr().Is4In6()) {
			t.Errorf("%v", s)
		}
	})
}
