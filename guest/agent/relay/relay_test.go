//go:build linux

package relay

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var local = netip.MustParseAddr("127.0.0.1")

// What is said to a relay's port is heard behind it, and the other way round,
// half-closed connections included; nobody but the one client is let in.
func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan struct{})
	go func() {
		defer close(served)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		all, _ := io.ReadAll(c) // until the client has said all
		_, _ = c.Write(bytes.ToUpper(all))
	}()
	to := netip.MustParseAddrPort(l.Addr().String())
	r, err := TCP(nil, local, local, to)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, r.Port)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write([]byte("ping"))
	c.CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "PING" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	<-served

	strange, err := TCP(nil, local, netip.MustParseAddr("192.0.2.1"), to)
	if err != nil {
		t.Fatal(err)
	}
	defer strange.Close()
	d, err := net.Dial("tcp", netip.AddrPortFrom(local, strange.Port).String())
	if err == nil {
		defer d.Close()
		if n, err := d.Read(make([]byte, 1)); err == nil {
			t.Errorf("a stranger read %d bytes", n)
		}
	}
}

// Each UDP client has its own answers.
func TestUDP(t *testing.T) {
	s, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := s.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = s.WriteToUDPAddrPort(bytes.ToUpper(buf[:n]), from)
		}
	}()
	r, err := UDP(nil, local, local, netip.MustParseAddrPort(s.LocalAddr().String()))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, word := range []string{"one", "two"} {
		c, err := net.Dial("udp", netip.AddrPortFrom(local, r.Port).String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, n := range []string{"1", "2"} {
			_, _ = c.Write([]byte(word + n))
			buf := make([]byte, 100)
			got, err := c.Read(buf)
			if want := string(bytes.ToUpper([]byte(word + n))); string(buf[:got]) != want || err != nil {
				t.Errorf("%q, %v; want %q", buf[:got], err, want)
			}
		}
	}
}
