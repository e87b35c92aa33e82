package ethernet

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// machineEnd is the other end of a trunk.
type machineEnd struct {
	t    *testing.T
	conn *net.UnixConn
	ours *os.File
}

func newEnd(t *testing.T) *machineEnd {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds { // what a stock kernel grants at most
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 212992)
	}
	theirs := os.NewFile(uintptr(fds[1]), "machine")
	defer theirs.Close()
	c, err := net.FileConn(theirs)
	if err != nil {
		t.Fatal(err)
	}
	e := &machineEnd{t: t, conn: c.(*net.UnixConn), ours: os.NewFile(uintptr(fds[0]), "trunk")}
	t.Cleanup(func() { e.conn.Close(); e.ours.Close() })
	return e
}

func (e *machineEnd) send(f Frame) {
	e.t.Helper()
	e.conn.SetWriteDeadline(time.Now().Add(patience))
	if _, err := e.conn.Write(f); err != nil {
		e.t.Fatal(err)
	}
}

func (e *machineEnd) receive() Frame {
	e.t.Helper()
	buf := make([]byte, 1<<17)
	e.conn.SetReadDeadline(time.Now().Add(patience))
	n, err := e.conn.Read(buf)
	if err != nil {
		e.t.Fatal(err)
	}
	return buf[:n]
}

func newSwitch(t *testing.T, networks ...string) *Switch {
	t.Helper()
	s := New(Options{SocketBuffer: 212992})
	t.Cleanup(func() { s.Close() })
	for _, n := range networks {
		if err := s.AddNetwork(n, MaxMTU, false); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func attach(t *testing.T, s *Switch, machine, network string, vlan uint16, hw net.HardwareAddr, addrs ...netip.Addr) {
	t.Helper()
	if err := s.Attach(machine, Pin{Network: network, VLAN: vlan, MAC: hw, Addrs: addrs}); err != nil {
		t.Fatal(err)
	}
}

func plug(t *testing.T, s *Switch, machine string) *machineEnd {
	t.Helper()
	e := newEnd(t)
	if err := s.Plug(machine, e.ours); err != nil {
		t.Fatal(err)
	}
	return e
}

// dropped sums a reason over a machine's endpoints and trunk.
func dropped(s *Switch, machine string, r Reason) uint64 {
	st := s.Stats()
	n := st.Trunks[machine].Dropped[r.String()]
	for _, e := range st.Endpoints {
		if e.Machine == machine {
			n += e.Dropped[r.String()]
		}
	}
	return n
}

// On an isolated network machines reach the host alone, by whatever kind of frame.
func TestIsolated(t *testing.T) {
	s := New(Options{SocketBuffer: 212992})
	t.Cleanup(func() { s.Close() })
	if err := s.AddNetwork("n", MaxMTU, true); err != nil {
		t.Fatal(err)
	}
	attach(t, s, "a", "n", 3, macA, ipA)
	attach(t, s, "b", "n", 4, macB, ipB)
	a, b := plug(t, s, "a"), plug(t, s, "b")
	h, hw := &host{got: make(chan struct{}, 10)}, net.HardwareAddr{2, 0, 0, 0, 0, 1}
	to, err := s.AttachHost("n", hw, h)
	if err != nil {
		t.Fatal(err)
	}
	a.send(frame(macB, macA, 3, typeIPv4, packet4(ipA, ipB)))
	a.send(frame(broadcast, macA, 3, typeARP, arpPacket(1, macA, ipA, ipB)))
	a.send(frame(hw, macA, 3, typeIPv4, packet4(ipA, ipB)))
	for range 2 {
		<-h.got
	}
	if n := dropped(s, "a", DropIsolated); n != 1 {
		t.Errorf("%d frames to another machine were dropped, want 1", n)
	}
	// The first that comes to b is the host's.
	reply := frame(macB, hw, 4, typeIPv4, packet4(ipA, ipB, 7))
	to.Send(reply)
	if got := b.receive(); !bytes.Equal(got, reply) {
		t.Errorf("got %x", got)
	}
}

func TestForward(t *testing.T) {
	s := newSwitch(t, "n")
	attach(t, s, "a", "n", 3, macA, ipA)
	attach(t, s, "b", "n", 7, macB, ipB)
	a, b := plug(t, s, "a"), plug(t, s, "b")
	for _, size := range []int{0, 100, 1480, 9000, MaxMTU - 20} {
		payload := packet4(ipA, ipB, bytes.Repeat([]byte{byte(size)}, size)...)
		a.send(frame(macB, macA, 3, typeIPv4, payload))
		if got, want := b.receive(), frame(macB, macA, 7, typeIPv4, payload); !bytes.Equal(got, want) {
			t.Errorf("payload of %d: got %x..., want %x...", size, got[:20], want[:20])
		}
	}
	a.send(frame(broadcast, macA, 3, typeARP, arpPacket(1, macA, ipA, ipB)))
	if got := b.receive(); got.Type() != typeARP || got.VLAN() != 7 {
		t.Errorf("got %x", got)
	}
	b.send(frame(macA, macB, 7, typeIPv4, packet4(ipB, ipA)))
	if got := a.receive(); got.VLAN() != 3 {
		t.Errorf("got %x: the broadcast came back to its sender, or the VLAN is wrong", got)
	}
}

// TestDrops sends what must not pass, then what must: that the second arrives
// first shows that the first did not.
func TestDrops(t *testing.T) {
	s := New(Options{})
	defer s.Close()
	for n, mtu := range map[string]int{"n": 1500, "other": 1500} {
		if err := s.AddNetwork(n, mtu, false); err != nil {
			t.Fatal(err)
		}
	}
	attach(t, s, "a", "n", 1, macA, ipA)
	attach(t, s, "a", "other", 2, macA, ipA)
	attach(t, s, "b", "n", 1, macB, ipB)
	attach(t, s, "c", "other", 1, macB, ipB)
	a, b, c := plug(t, s, "a"), plug(t, s, "b"), plug(t, s, "c")
	good := packet4(ipA, ipB)
	untagged := append(append(append(Frame{}, macB...), macA...), append([]byte{8, 0}, good...)...)
	for _, tc := range []struct {
		name string
		f    Frame
		want Reason
	}{
		{"a VLAN the trunk does not have", frame(macB, macA, 9, typeIPv4, good), DropVLAN},
		{"VLAN 0", frame(macB, macA, 0, typeIPv4, good), DropVLAN},
		{"VLAN 4095", frame(macB, macA, 4095, typeIPv4, good), DropVLAN},
		{"untagged", untagged, DropVLAN},
		{"another's MAC", frame(macB, macB, 1, typeIPv4, good), DropMAC},
		{"another's IP", frame(macB, macA, 1, typeIPv4, packet4(ipB, ipB)), DropSource},
		{"another's ARP", frame(broadcast, macA, 1, typeARP, arpPacket(2, macA, ipB, ipA)), DropSource},
		{"over the MTU", frame(macB, macA, 1, typeIPv4, packet4(ipA, ipB, make([]byte, 1481)...)), DropOversize},
		{"nobody's MAC", frame(net.HardwareAddr{2, 9, 9, 9, 9, 9}, macA, 1, typeIPv4, good), DropUnknown},
		{"its own MAC", frame(macA, macA, 1, typeIPv4, good), DropUnknown},
		{"a cut frame", frame(macB, macA, 1, typeIPv4, nil)[:17], DropMalformed},
	} {
		before := dropped(s, "a", tc.want)
		a.send(tc.f)
		a.send(frame(macB, macA, 1, typeIPv4, packet4(ipA, ipB, []byte(tc.name)...)))
		a.send(frame(macB, macA, 2, typeIPv4, packet4(ipA, ipB, []byte(tc.name)...)))
		for _, end := range []*machineEnd{b, c} {
			if got := end.receive(); !bytes.HasSuffix(got, []byte(tc.name)) {
				t.Errorf("%s passed", tc.name)
			}
		}
		if n := dropped(s, "a", tc.want) - before; n != 1 {
			t.Errorf("%s: counted %d times as %s", tc.name, n, tc.want)
		}
	}
}

func TestAttachRefuses(t *testing.T) {
	s := newSwitch(t, "n")
	attach(t, s, "a", "n", 1, macA, ipA)
	for _, tc := range []struct {
		p    Pin
		want string
	}{
		{Pin{Network: "n", VLAN: 1, MAC: macB}, "VLAN 1 is in use"},
		{Pin{Network: "n", VLAN: 2, MAC: macA}, "MAC 02:00:00:00:00:0a is in use"},
		{Pin{Network: "n", VLAN: 2, MAC: macB, Addrs: []netip.Addr{ipA}}, "address 10.0.0.10 is in use"},
		{Pin{Network: "x", VLAN: 2, MAC: macB}, "no such network"},
		{Pin{Network: "n", VLAN: 0, MAC: macB}, "VLAN 0 is not between"},
		{Pin{Network: "n", VLAN: 4095, MAC: macB}, "VLAN 4095 is not between"},
		{Pin{Network: "n", VLAN: 2, MAC: broadcast}, "not a unicast MAC"},
		{Pin{Network: "n", VLAN: 2, MAC: macB[:5]}, "not a unicast MAC"},
		{Pin{Network: "n", VLAN: 2, MAC: macB, Addrs: []netip.Addr{netip.MustParseAddr("224.0.0.1")}}, "not a host address"},
	} {
		if err := s.Attach("a", tc.p); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %q", tc.p, err, tc.want)
		}
	}
	if err := s.RemoveNetwork("n"); err == nil {
		t.Error("a network in use was removed")
	}
	if err := s.Detach("a", 1); err != nil {
		t.Error(err)
	}
	if err := s.RemoveNetwork("n"); err != nil {
		t.Error(err)
	}
	if st := s.Stats(); len(st.Trunks) != 0 || len(st.Endpoints) != 0 {
		t.Errorf("left: %+v", st)
	}
}

// TestDetach: an endpoint that is gone neither sends nor receives.
func TestDetach(t *testing.T) {
	s := newSwitch(t, "n")
	macC := net.HardwareAddr{2, 0, 0, 0, 0, 0xc}
	attach(t, s, "a", "n", 1, macA, ipA)
	attach(t, s, "b", "n", 1, macB, ipB)
	attach(t, s, "c", "n", 1, macC)
	a, b, c := plug(t, s, "a"), plug(t, s, "b"), plug(t, s, "c")
	a.send(frame(macB, macA, 1, typeIPv4, packet4(ipA, ipB)))
	b.receive()
	if err := s.Detach("b", 1); err != nil {
		t.Fatal(err)
	}
	a.send(frame(macB, macA, 1, typeIPv4, packet4(ipA, ipB)))
	b.send(frame(macC, macB, 1, typeIPv4, packet4(ipB, ipA)))
	a.send(frame(macC, macA, 1, typeIPv4, packet4(ipA, ipB)))
	if got := c.receive(); !bytes.Equal(got.Source(), macA) {
		t.Error("a detached endpoint sent")
	}
	if n := dropped(s, "a", DropUnknown); n != 1 {
		t.Errorf("dropped %d as unknown", n)
	}
	if got := mustNothing(b); got != nil {
		t.Errorf("a detached endpoint received %x", got)
	}
}

// mustNothing returns what lies in the socket without waiting.
func mustNothing(e *machineEnd) Frame {
	buf := make([]byte, 1<<17)
	raw, err := e.conn.SyscallConn()
	if err != nil {
		e.t.Fatal(err)
	}
	n := 0
	raw.Control(func(fd uintptr) { n, _, _ = unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT) })
	if n <= 0 {
		return nil
	}
	return buf[:n]
}

// TestStalledReceiver: a machine that takes nothing loses frames, delays
// nobody, and gets what it has kept room for, in order, when it goes on.
func TestStalledReceiver(t *testing.T) {
	s := newSwitch(t, "n")
	macC := net.HardwareAddr{2, 0, 0, 0, 0, 0xc}
	attach(t, s, "a", "n", 1, macA, ipA)
	attach(t, s, "b", "n", 1, macB, ipB)
	attach(t, s, "c", "n", 1, macC)
	a, b, c := plug(t, s, "a"), plug(t, s, "b"), plug(t, s, "c")
	const sent = 400
	large := func(i int) []byte {
		return packet4(ipA, ipB, append([]byte{byte(i >> 8), byte(i)}, make([]byte, 60000)...)...)
	}
	for i := range sent {
		a.send(frame(macB, macA, 1, typeIPv4, large(i)))
	}
	a.send(frame(macC, macA, 1, typeIPv4, packet4(ipA, ipB)))
	c.receive()
	lost := dropped(s, "b", DropFull)
	if lost == 0 || lost > sent-maxBacklog/(64<<10)/2 {
		t.Errorf("%d of %d frames were lost", lost, sent)
	}
	last := -1
	for range sent - int(lost) {
		f := b.receive()
		if i := int(f[38])<<8 | int(f[39]); i <= last {
			t.Fatalf("frame %d after %d", i, last)
		} else {
			last = i
		}
	}
	// And the trunk is as before.
	a.send(frame(macB, macA, 1, typeIPv4, packet4(ipA, ipB, []byte("after")...)))
	if got := b.receive(); !bytes.HasSuffix(got, []byte("after")) {
		t.Error("the frame after the stall is another")
	}
	if n := dropped(s, "b", DropFull); n != lost {
		t.Errorf("%d more lost", n-lost)
	}
}

// TestStalledSwitch: while nobody reads the trunk, its other end is not
// writable, so that a QEMU waiting for that sleeps.
func TestStalledSwitch(t *testing.T) {
	e := newEnd(t)
	raw, err := e.conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		f := frame(macB, macA, 1, typeIPv4, packet4(ipA, ipB, make([]byte, 60000)...))
		var err error
		for range 1000 {
			if err = unix.Sendto(int(fd), f, unix.MSG_DONTWAIT, nil); err != nil {
				break
			}
		}
		if !errors.Is(err, unix.EAGAIN) {
			t.Errorf("the socket never filled: %v", err)
			return
		}
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if n, err := unix.Poll(p, 0); n != 0 || err != nil {
			t.Errorf("poll: %d %v: a full socket is writable", n, err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestReplug: the trunk outlives a switch; what was sent in between arrives.
func TestReplug(t *testing.T) {
	a, b := newEnd(t), newEnd(t)
	for round := range 3 {
		a.send(frame(macB, macA, 1, typeIPv4, packet4(ipA, ipB, byte(round))))
		s := newSwitch(t, "n")
		attach(t, s, "b", "n", 1, macB, ipB)
		attach(t, s, "a", "n", 1, macA, ipA)
		// The receiver first: what is for a machine that is not plugged is dropped.
		for _, e := range []struct {
			name string
			end  *machineEnd
		}{{"b", b}, {"a", a}} {
			if err := s.Plug(e.name, e.end.ours); err != nil {
				t.Fatal(err)
			}
		}
		if round == 0 { // once more, onto itself
			if err := s.Plug("b", b.ours); err != nil {
				t.Fatal(err)
			}
		}
		if got := b.receive(); got[len(got)-1] != byte(round) {
			t.Errorf("round %d: got %x", round, got)
		}
		if err := s.Unplug("a"); err != nil {
			t.Fatal(err)
		}
		if err := s.Unplug("a"); err == nil {
			t.Error("unplugged twice")
		}
		s.Close()
	}
}

func TestPlugRefusesOtherSockets(t *testing.T) {
	s := newSwitch(t)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		f := os.NewFile(uintptr(fd), "stream")
		defer f.Close()
		if err := s.Plug("a", f); err == nil {
			t.Error("a stream socket was plugged")
		}
	}
	if len(s.Stats().Trunks) != 0 {
		t.Error("a trunk is left")
	}
}

// host counts what the switch gives it.
type host struct {
	mu     sync.Mutex
	frames []Frame
	got    chan struct{}
}

func (h *host) Receive(f Frame) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.frames = append(h.frames, bytes.Clone(f))
	h.got <- struct{}{}
}

func TestHost(t *testing.T) {
	s := newSwitch(t, "n", "other")
	attach(t, s, "a", "n", 5, macA, ipA)
	attach(t, s, "b", "other", 5, macA, ipA)
	a, b := plug(t, s, "a"), plug(t, s, "b")
	h := &host{got: make(chan struct{}, 10)}
	hw := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	to, err := s.AttachHost("n", hw, h)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.AttachHost("n", hw, h); err == nil {
		t.Error("two hosts with one MAC")
	}
	b.send(frame(hw, macA, 5, typeIPv4, packet4(ipA, ipB))) // another network
	a.send(frame(hw, macA, 5, typeIPv4, packet4(ipA, ipB)))
	a.send(frame(broadcast, macA, 5, typeARP, arpPacket(1, macA, ipA, ipB)))
	for range 2 {
		select {
		case <-h.got:
		case <-time.After(patience):
			t.Fatal("the host received nothing")
		}
	}
	if h.frames[0].Type() != typeIPv4 || h.frames[1].Type() != typeARP {
		t.Errorf("received %x", h.frames)
	}
	head := frame(macA, hw, 0, typeIPv4, nil)
	to.Send(head, packet4(ipB, ipA), []byte("tail"))
	if got, want := a.receive(), frame(macA, hw, 5, typeIPv4, append(packet4(ipB, ipA), "tail"...)); !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
	to.Send(frame(allNodes, hw, 0, typeIPv6, packet6(ip6B, ip6A, 6)))
	if got := a.receive(); got.Type() != typeIPv6 {
		t.Errorf("got %x", got)
	}
	to.Send([]byte("short"))
	to.Send(frame(macB, hw, 0, typeIPv4, packet4(ipB, ipA)))
	if got := mustNothing(b); got != nil {
		t.Errorf("another network received %x", got)
	}
}

// TestForwardProperty: over random networks, each frame arrives exactly where
// it belongs and nowhere else.
func TestForwardProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := New(Options{})
		defer s.Close()
		networks := rapid.IntRange(1, 3).Draw(rt, "networks")
		for n := range networks {
			if err := s.AddNetwork(fmt.Sprint(n), 1500, false); err != nil {
				rt.Fatal(err)
			}
		}
		type place struct {
			machine, network int
			vlan             uint16
			mac              net.HardwareAddr
			ip               netip.Addr
		}
		var places []place
		var ends []*machineEnd
		for m := range rapid.IntRange(2, 4).Draw(rt, "machines") {
			for n := range networks {
				if !rapid.Bool().Draw(rt, "attached") {
					continue
				}
				p := place{m, n, uint16(100*m + n + 1), net.HardwareAddr{2, 0, 0, 0, byte(n), byte(m)}, netip.AddrFrom4([4]byte{10, 0, byte(n), byte(m + 1)})}
				if err := s.Attach(fmt.Sprint(m), Pin{Network: fmt.Sprint(n), VLAN: p.vlan, MAC: p.mac, Addrs: []netip.Addr{p.ip}}); err != nil {
					rt.Fatal(err)
				}
				places = append(places, p)
			}
			e := newEnd(t)
			defer e.ours.Close()
			defer e.conn.Close()
			if err := s.Plug(fmt.Sprint(m), e.ours); err != nil {
				rt.Fatal(err)
			}
			ends = append(ends, e)
		}
		if len(places) == 0 {
			return
		}
		for i := range rapid.IntRange(1, 10).Draw(rt, "frames") {
			from := rapid.SampledFrom(places).Draw(rt, "from")
			to := rapid.SampledFrom(places).Draw(rt, "to")
			dst := to.mac
			all := rapid.Bool().Draw(rt, "broadcast")
			if all {
				dst = broadcast
			}
			ends[from.machine].send(frame(dst, from.mac, from.vlan, typeIPv4, packet4(from.ip, to.ip, byte(i))))
			for _, p := range places {
				if p.network != from.network || p.machine == from.machine || !all && !bytes.Equal(p.mac, dst) {
					continue
				}
				got := ends[p.machine].receive()
				if got.VLAN() != p.vlan || got[len(got)-1] != byte(i) {
					rt.Fatalf("machine %d got %x, want VLAN %d", p.machine, got, p.vlan)
				}
			}
		}
		s.Close() // waits for the readers: nothing is on its way any more
		for m, e := range ends {
			if f := mustNothing(e); f != nil {
				rt.Fatalf("machine %d got a frame too many: %x", m, f)
			}
		}
	})
}
