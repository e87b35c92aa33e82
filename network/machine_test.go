package network

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// machine is a guest without a VM: a TCP/IP stack with an interface for each
// VLAN, behind one end of a socket pair.
type machine struct {
	t     testing.TB
	name  string
	ours  *os.File // for Plug
	trunk net.Conn
	stack *stack.Stack
	links map[uint16]*channel.Endpoint
	wg    sync.WaitGroup
	tap   chan []byte // IP packets received, as many as fit
}

func newMachine(t testing.TB, name string) *machine {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(fds[1]), name)
	trunk, err := net.FileConn(theirs)
	if err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	m := &machine{
		t: t, name: name, ours: os.NewFile(uintptr(fds[0]), "trunk of "+name), trunk: trunk,
		links: make(map[uint16]*channel.Endpoint), tap: make(chan []byte, 100),
		stack: stack.New(stack.Options{
			NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
			TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		}),
	}
	t.Cleanup(func() {
		m.ours.Close()
		m.trunk.Close()
		for _, l := range m.links {
			l.Close()
		}
		m.stack.Destroy()
		m.wg.Wait()
	})
	return m
}

// connect makes an interface on a VLAN, with routes by its gateways.
func (m *machine) connect(vlan uint16, mac net.HardwareAddr, mtu int, addrs []netip.Prefix, gateways ...netip.Addr) {
	m.t.Helper()
	first := len(m.links) == 0
	l := channel.New(1024, uint32(mtu+header.EthernetMinimumSize), tcpip.LinkAddress(mac))
	m.links[vlan] = l
	id := tcpip.NICID(vlan)
	if err := m.stack.CreateNIC(id, ethernet.New(l)); err != nil {
		m.t.Fatal(err)
	}
	routes := m.stack.GetRouteTable()
	for _, p := range addrs {
		proto := tcpip.NetworkProtocolNumber(ipv4.ProtocolNumber)
		if !p.Addr().Is4() {
			proto = ipv6.ProtocolNumber
		}
		a := tcpip.ProtocolAddress{Protocol: proto, AddressWithPrefix: tcpip.AddressWithPrefix{
			Address: tcpip.AddrFromSlice(p.Addr().AsSlice()), PrefixLen: p.Bits(),
		}}
		if err := m.stack.AddProtocolAddress(id, a, stack.AddressProperties{}); err != nil {
			m.t.Fatal(err)
		}
		routes = append([]tcpip.Route{{Destination: a.AddressWithPrefix.Subnet(), NIC: id}}, routes...)
	}
	for _, g := range gateways {
		dst := header.IPv4EmptySubnet
		if !g.Is4() {
			dst = header.IPv6EmptySubnet
		}
		routes = append(routes, tcpip.Route{Destination: dst, NIC: id, Gateway: tcpip.AddrFromSlice(g.AsSlice())})
	}
	m.stack.SetRouteTable(routes)
	ctx, cancel := context.WithCancel(m.t.Context())
	m.wg.Go(func() {
		defer cancel()
		for {
			pkt := l.ReadContext(ctx)
			if pkt == nil {
				return
			}
			b := pkt.ToView().AsSlice()
			f := append(append(append([]byte(nil), b[:12]...), 0x81, 0, byte(vlan>>8), byte(vlan)), b[12:]...)
			pkt.DecRef()
			if _, err := m.trunk.Write(f); err != nil {
				return
			}
		}
	})
	if first {
		m.wg.Go(m.receive)
	}
}

func (m *machine) receive() {
	buf := make([]byte, 1<<17)
	for {
		n, err := m.trunk.Read(buf)
		if err != nil {
			for _, l := range m.links {
				l.Close() // ends its pump
			}
			return
		}
		l := m.links[binary.BigEndian.Uint16(buf[14:])]
		if l == nil || n < 18 {
			m.t.Errorf("machine %s got a frame for a VLAN it does not have", m.name)
			continue
		}
		frame := append(append([]byte(nil), buf[:12]...), buf[16:n]...)
		select {
		case m.tap <- bytes.Clone(buf[18:n]):
		default:
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
		l.InjectInbound(0, pkt)
		pkt.DecRef()
	}
}

func full(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{Addr: tcpip.AddrFromSlice(a.Addr().AsSlice()), Port: a.Port()}
}

func protocol(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

func (m *machine) listen(at string) net.Listener {
	m.t.Helper()
	a := netip.MustParseAddrPort(at)
	l, err := gonet.ListenTCP(m.stack, full(a), protocol(a.Addr()))
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { l.Close() })
	return l
}

func (m *machine) dial(ctx context.Context, to string) (*gonet.TCPConn, error) {
	a := netip.MustParseAddrPort(to)
	return gonet.DialContextTCP(ctx, m.stack, full(a), protocol(a.Addr()))
}

// datagrams is a UDP socket that also tells of ICMP errors.
type datagrams struct {
	*gonet.UDPConn
	ep   tcpip.Endpoint
	errs <-chan struct{}
}

// refusal waits for the error that an ICMP message caused.
func (d *datagrams) refusal() error {
	select {
	case <-d.errs:
		if err := d.ep.LastError(); err != nil {
			return errors.New(err.String())
		}
		return nil
	case <-time.After(patience):
		return errors.New("no ICMP error came")
	}
}

// udp opens a socket bound to at; to may be empty.
func (m *machine) udp(at, to string) *datagrams {
	m.t.Helper()
	var wq waiter.Queue
	local := netip.MustParseAddrPort(at)
	ep, err := m.stack.NewEndpoint(udp.ProtocolNumber, protocol(local.Addr()), &wq)
	if err != nil {
		m.t.Fatal(err)
	}
	entry, errs := waiter.NewChannelEntry(waiter.EventErr)
	wq.EventRegister(&entry)
	if err := ep.Bind(full(local)); err != nil {
		m.t.Fatal(err)
	}
	if to != "" {
		if err := ep.Connect(full(netip.MustParseAddrPort(to))); err != nil {
			m.t.Fatal(err)
		}
	}
	d := &datagrams{gonet.NewUDPConn(&wq, ep), ep, errs}
	m.t.Cleanup(func() { d.Close() })
	return d
}
