package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// allowOutside is the policy of a host for which the outside is not its own.
func allowOutside(a netip.Addr) error {
	if a == outside4 || a == outside6 {
		return nil
	}
	return errors.New("not the outside")
}

func listenHost(t *testing.T, at netip.Addr) (net.Listener, netip.AddrPort) {
	t.Helper()
	l, err := net.Listen("tcp", netip.AddrPortFrom(at, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, l.Addr().(*net.TCPAddr).AddrPort()
}

func TestEgressTCP(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	f := newFabric(t, Options{Policy: allowOutside})
	create(t, f, front, back)
	a := join(t, f, "a", 5, nil, front)
	b := join(t, f, "b", 5, nil, back)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, at := range []netip.Addr{outside4, outside6} {
		l, to := listenHost(t, at)
		echo(t, l)
		c, err := a.dial(ctx, to.String())
		if err != nil {
			t.Fatal(err)
		}
		big := strings.Repeat("y", 4<<20)
		if got := ask(t, c, big); got != at.String()+" "+strings.ToUpper(big) {
			t.Errorf("%s: answer of %d bytes", to, len(got))
		}
		if c, err := b.dial(ctx, to.String()); err == nil {
			c.Close()
			t.Errorf("%s was reached from an internal network", to)
		}
		l.Close()
		if c, err := a.dial(ctx, to.String()); err == nil {
			c.Close()
			t.Errorf("%s accepted with nobody listening", to)
		} else if !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v, want refused", to, err)
		}
	}
	if s := f.Stats().Networks["front"].Gateway; s.Connections != 2 || s.Failed != 2 {
		t.Errorf("counted %+v", s)
	}
	if s := f.Stats().Networks["back"].Gateway; s.Refused != 2 {
		t.Errorf("counted %+v", s)
	}
}

// TestEgressRefusesTheHost uses the real policy: the same addresses are the
// host's own there.
func TestEgressRefusesTheHost(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	f := newFabric(t, Options{})
	create(t, f, front)
	a := join(t, f, "a", 5, nil, front)
	l, to := listenHost(t, netip.IPv6Unspecified())
	echo(t, l)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, at := range []netip.Addr{outside4, outside6, addr("169.254.169.254"), addr("240.0.0.1"), addr("64:ff9b::c633:6401"), addr("2002:c633:6401::1")} {
		if c, err := a.dial(ctx, netip.AddrPortFrom(at, to.Port()).String()); err == nil {
			c.Close()
			t.Errorf("%s was reached", at)
		} else if !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v, want refused", at, err)
		}
	}
	if n := f.Stats().Networks["front"].Gateway.Connections; n != 0 {
		t.Errorf("%d connections", n)
	}
}

// TestReset: a side that breaks off breaks off the other.
func TestReset(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	f := newFabric(t, Options{Policy: allowOutside})
	create(t, f, front)
	a := join(t, f, "a", 5, nil, front)
	l, to := listenHost(t, outside4)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, end := range []string{"host", "detach"} {
		c, err := a.dial(ctx, to.String())
		if err != nil {
			t.Fatal(err)
		}
		h, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		h.SetDeadline(time.Now().Add(patience))
		c.SetDeadline(time.Now().Add(patience))
		switch end {
		case "host":
			h.(*net.TCPConn).SetLinger(0)
			h.Close()
			if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) || strings.Contains(err.Error(), "timeout") {
				t.Errorf("the machine read %v, want a reset", err)
			}
		case "detach":
			if err := f.Detach("a", "front", "a"); err != nil {
				t.Fatal(err)
			}
			if _, err := h.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the host read %v, want a reset", err)
			}
		}
		c.Close()
		h.Close()
	}
}

func TestEgressUDP(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	f := newFabric(t, Options{Policy: allowOutside})
	create(t, f, front)
	a := join(t, f, "a", 5, nil, front)
	for _, tc := range []struct {
		at   netip.Addr
		from string
	}{{outside4, "10.1.0.5:4000"}, {outside6, "[fd01::5]:4000"}} {
		h, err := net.ListenPacket("udp", netip.AddrPortFrom(tc.at, 0).String())
		if err != nil {
			t.Fatal(err)
		}
		c := a.udp(tc.from, h.LocalAddr().String())
		c.SetDeadline(time.Now().Add(patience))
		h.SetDeadline(time.Now().Add(patience))
		buf := make([]byte, 1<<16)
		for _, size := range []int{5, 1400, 40000} {
			c.Write(make([]byte, size))
			n, from, err := h.ReadFrom(buf)
			if err != nil || n != size {
				t.Fatalf("%s: %d bytes of %d: %v", tc.at, n, size, err)
			}
			if _, err := h.WriteTo(buf[:n], from); err != nil {
				t.Fatal(err)
			}
			if n, err := c.Read(buf); err != nil || n != size {
				t.Fatalf("%s: back %d bytes of %d: %v", tc.at, n, size, err)
			}
		}
		to := h.LocalAddr().String()
		h.Close()
		// The open flow's host socket learns that nobody listens, and so does
		// the machine.
		c.Write([]byte("anyone?"))
		if err := c.refusal(); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v, want refused", to, err)
		}
		c.Close()
	}
	// Refused by policy: the answer is port unreachable.
	c := a.udp("10.1.0.5:4001", "192.0.2.1:9")
	c.Write([]byte("x"))
	if err := c.refusal(); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("%v, want refused", err)
	}
}

// TestPublishKeepsSource: the service sees a client's own address, except
// where its answers would not come back.
func TestPublishKeepsSource(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	f := newFabric(t, Options{Policy: allowOutside})
	create(t, f, front, back)
	m := join(t, f, "b", 6, nil, front)
	in := join(t, f, "c", 6, nil, back)
	echo(t, m.listen("10.1.0.6:80"))
	echo(t, m.listen("[fd01::6]:80"))
	echo(t, in.listen("10.2.0.6:80"))
	for i, tc := range []struct {
		network, target string
		host, client    netip.Addr
		masquerade      bool
		want            string
	}{
		{"front", "10.1.0.6:80", outside4, client4, false, "203.0.113.9 HI"},
		{"front", "10.1.0.6:80", outside4, client4, true, "10.1.0.1 HI"},
		{"front", "[fd01::6]:80", outside6, outside6, false, "2001:db8::1 HI"},
		{"front", "[fd01::6]:80", outside4, client4, false, "fd01::1 HI"},
		{"front", "10.1.0.6:80", loopback, loopback, false, "10.1.0.1 HI"},
		{"back", "10.2.0.6:80", outside4, client4, false, "10.2.0.1 HI"},
	} {
		l, to := listenHost(t, tc.host)
		if err := f.Publish(Publish{
			ID: fmt.Sprint(i), Network: tc.network, Proto: "tcp", Target: netip.MustParseAddrPort(tc.target),
			Listener: l, Masquerade: tc.masquerade,
		}); err != nil {
			t.Fatal(err)
		}
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(tc.client, 0)), Timeout: patience}
		c, err := d.Dial("tcp", to.String())
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(t, c.(*net.TCPConn), "hi"); got != tc.want {
			t.Errorf("%s from %s: got %q, want %q", tc.target, tc.client, got, tc.want)
		}
	}
}

var loopback = addr("127.0.0.1")

func TestPublishUDP(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	f := newFabric(t, Options{})
	create(t, f, front)
	m := join(t, f, "b", 6, nil, front)
	for _, target := range []string{"10.1.0.6:53", "[fd01::6]:53"} {
		service := m.udp(target, "")
		done := make(chan struct{})
		go func() { // answers each datagram with the address it came from
			defer close(done)
			buf := make([]byte, 100)
			for {
				n, from, err := service.ReadFrom(buf)
				if err != nil {
					return
				}
				u := from.(*net.UDPAddr).AddrPort()
				service.WriteTo([]byte(u.Addr().Unmap().String()+" "+string(buf[:n])), net.UDPAddrFromAddrPort(netip.AddrPortFrom(u.Addr().Unmap(), u.Port())))
			}
		}()
		defer func() { service.Close(); <-done }()
	}
	for i, tc := range []struct {
		network, listen string
		target          string
		host, client    netip.Addr
		want            string
	}{
		{"udp4", "0.0.0.0:0", "10.1.0.6:53", outside4, client4, "203.0.113.9 "},
		{"udp", "[::]:0", "10.1.0.6:53", outside4, client4, "203.0.113.9 "},
		{"udp", "[::]:0", "10.1.0.6:53", loopback, loopback, "10.1.0.1 "},
		{"udp6", "[::]:0", "[fd01::6]:53", outside6, outside6, "2001:db8::1 "},
		{"udp6", "[::1]:0", "[fd01::6]:53", netip.IPv6Loopback(), netip.IPv6Loopback(), "fd01::1 "},
	} {
		l, err := net.ListenPacket(tc.network, tc.listen)
		if err != nil {
			t.Fatal(err)
		}
		port := l.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		id := fmt.Sprint(i)
		if err := f.Publish(Publish{ID: id, Network: "front", Proto: "udp", Target: netip.MustParseAddrPort(tc.target), Packet: l}); err != nil {
			t.Fatal(err)
		}
		// Two clients, each connected: an answer from another address than the
		// one asked would not arrive.
		var clients []*net.UDPConn
		for range 2 {
			c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(tc.client, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(tc.host, port)))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			clients = append(clients, c)
		}
		for round := range 2 {
			for j, c := range clients {
				text := fmt.Sprint(round, j)
				if _, err := c.Write([]byte(text)); err != nil {
					t.Fatal(err)
				}
				buf := make([]byte, 100)
				n, err := c.Read(buf)
				if err != nil {
					t.Fatalf("%s to %s: %v", tc.client, tc.host, err)
				}
				if got := string(buf[:n]); got != tc.want+text {
					t.Errorf("%s to %s: got %q, want %q", tc.client, tc.host, got, tc.want+text)
				}
			}
		}
		if err := f.Unpublish(id); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPing: an echo request goes out by an unprivileged socket where the host
// allows them, and is never answered by the gateway for somebody else.
func TestPing(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	f := newFabric(t, Options{Policy: allowOutside})
	create(t, f, front)
	a := join(t, f, "a", 5, nil, front)
	const unreachable = "unreachable"
	for _, allowed := range []bool{false, true} {
		if allowed { // a new namespace allows nobody
			if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 0"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for _, tc := range []struct {
			to   netip.Addr
			want string
		}{
			{addr("10.1.0.1"), "reply"},
			{addr("fd01::1"), "reply"},
			{outside4, map[bool]string{true: "reply", false: unreachable}[allowed]},
			{outside6, map[bool]string{true: "reply", false: unreachable}[allowed]},
			{addr("192.0.2.1"), unreachable},
			{addr("2001:db8:9::1"), unreachable},
		} {
			if got := a.ping(tc.to); got != tc.want {
				t.Errorf("ping %s with sockets allowed %t: %s, want %s", tc.to, allowed, got, tc.want)
			}
		}
	}
}

// ping sends one echo request and tells what came back.
func (m *machine) ping(to netip.Addr) string {
	m.t.Helper()
	var wq waiter.Queue
	transport, kind := icmp.ProtocolNumber4, byte(8)
	if !to.Is4() {
		transport, kind = icmp.ProtocolNumber6, 128
	}
	ep, terr := m.stack.NewEndpoint(transport, protocol(to), &wq)
	if terr != nil {
		m.t.Fatal(terr)
	}
	defer ep.Close()
	if terr := ep.Connect(tcpip.FullAddress{Addr: tcpip.AddrFromSlice(to.AsSlice())}); terr != nil {
		m.t.Fatal(terr)
	}
	message := append([]byte{kind, 0, 0, 0, 0, 0, 0, 1}, "payload"...)
	if _, terr := ep.Write(bytes.NewReader(message), tcpip.WriteOptions{}); terr != nil {
		m.t.Fatal(terr)
	}
	deadline := time.After(patience)
	for {
		select {
		case b := <-m.tap:
			switch {
			case to.Is4() && b[0]>>4 == 4 && b[9] == 1:
				if b[20] == 0 && bytes.Equal(b[12:16], to.AsSlice()) && bytes.HasSuffix(b, []byte("payload")) {
					return "reply"
				}
				if b[20] == 3 && bytes.Equal(b[28+16:28+20], to.AsSlice()) && checksum.Checksum(b[20:], 0) == 0xffff {
					return "unreachable"
				}
			case !to.Is4() && b[0]>>4 == 6 && b[6] == 58:
				if b[40] == 129 && bytes.Equal(b[8:24], to.AsSlice()) && bytes.HasSuffix(b, []byte("payload")) {
					return "reply"
				}
				if b[40] == 1 && bytes.Equal(b[48+24:48+40], to.AsSlice()) {
					return "unreachable"
				}
			}
		case <-deadline:
			return "nothing"
		}
	}
}
