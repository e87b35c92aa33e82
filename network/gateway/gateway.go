package gateway

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	nic tcpip.NICID = 1

	// maxInFlight bounds connections of a network that are being dialled on
	// the host; a SYN beyond it is dropped and sent again by its machine.
	maxInFlight = 1024

	// maxDialling bounds those of one machine, so that one which dials what
	// does not answer leaves others their share, and maxFlows all that it may
	// keep open: each costs a descriptor of the supervisor.
	maxDialling = maxInFlight / 4
	maxFlows    = 8192

	// maxBuffer is how far the buffer of one TCP connection may grow. gvisor's
	// own 4 MiB is about what one round of large frames fills.
	maxBuffer = 8 << 20
)

// Config describes a Gateway.
type Config struct {
	MAC   net.HardwareAddr
	Addrs []netip.Prefix // its addresses, each with the length of its subnet
	MTU   int            // of IP packets, as of the network

	// Internal networks have no way out and none to the host.
	Internal bool

	// HostAccess lets machines reach the host's loopback through the
	// gateway's own addresses.
	HostAccess bool
	// HostDenied tells a machine that does not reach it although the network
	// does; nil is none.
	HostDenied func(from netip.Addr) bool

	// Policy tells why a machine may not reach an address of the outside.
	// nil is Outside.
	Policy func(netip.Addr) error

	// InFabric tells an address that belongs to some network of ours: no
	// source to keep for a published connection.
	InFabric func(netip.Addr) bool

	Log *slog.Logger // nil discards
}

// Gateway is the host on one network.
type Gateway struct {
	cfg   Config
	log   *slog.Logger
	own   map[netip.Addr]bool
	stack *stack.Stack
	link  *link
	wg    sync.WaitGroup // connections, flows, accept loops
	flows flows

	pings   pings
	udpOpen atomic.Int64
	stats   counters
}

// Stats count what a Gateway did since it was made.
type Stats struct {
	Connections uint64 // TCP, of machines to the outside or the host
	Published   uint64 // TCP, into the network
	UDPFlows    uint64 // both directions
	Refused     uint64 // by the policy, an internal network or a bound
	Failed      uint64 // the far side did not accept
}

type counters struct {
	connections, published, udpFlows, refused, failed atomic.Uint64
}

// New makes a Gateway. It neither receives nor sends before Connect.
func New(cfg Config) (*Gateway, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Policy == nil {
		cfg.Policy = Outside
	}
	if cfg.InFabric == nil {
		cfg.InFabric = func(netip.Addr) bool { return false }
	}
	if len(cfg.MAC) != 6 || len(cfg.Addrs) == 0 {
		return nil, errors.New("a gateway needs a MAC and an address")
	}
	g := &Gateway{
		cfg: cfg, log: cfg.Log, own: make(map[netip.Addr]bool),
		link: newLink(cfg.MAC, cfg.MTU),
		stack: stack.New(stack.Options{
			NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
			TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		}),
	}
	if err := g.configure(); err != nil {
		g.stack.Destroy()
		return nil, err
	}
	return g, nil
}

func (g *Gateway) configure() error {
	sack := tcpip.TCPSACKEnabled(true)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	// RACK waits for reordering that these links do not have.
	recovery := tcpip.TCPRecovery(0)
	for _, o := range []tcpip.SettableTransportProtocolOption{
		&sack, &moderate, &recovery,
		&tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcp.DefaultReceiveBufferSize, Max: maxBuffer},
		&tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcp.DefaultSendBufferSize, Max: maxBuffer},
	} {
		if err := g.stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("setting TCP option %T: %s", o, err)
		}
	}
	if err := g.stack.CreateNIC(nic, g.link); err != nil {
		return fmt.Errorf("making the gateway's interface: %s", err)
	}
	for _, p := range g.cfg.Addrs {
		a := p.Addr().Unmap()
		g.own[a] = true
		pa := tcpip.ProtocolAddress{
			Protocol:          protocolOf(a),
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: toAddress(a), PrefixLen: p.Bits()},
		}
		if err := g.stack.AddProtocolAddress(nic, pa, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("giving the gateway %s: %s", p, err)
		}
	}
	g.stack.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nic},
		{Destination: header.IPv6EmptySubnet, NIC: nic},
	})
	// Machines send to any address through us, and get answers from it.
	if err := g.stack.SetPromiscuousMode(nic, true); err != nil {
		return fmt.Errorf("setting promiscuous mode: %s", err)
	}
	if err := g.stack.SetSpoofing(nic, true); err != nil {
		return fmt.Errorf("setting spoofing: %s", err)
	}
	g.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, tcp.NewForwarder(g.stack, 0, maxInFlight, g.egressTCP).HandlePacket)
	g.stack.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(g.stack, g.egressUDP).HandlePacket)
	return nil
}

// Connect gives the Gateway its way to the switch: the host endpoint for
// which it is the Receiver.
func (g *Gateway) Connect(h Sender) { g.link.sender.Store(&h) }

// Close ends every connection through the Gateway and waits for all. The
// switch must not deliver to it any more.
func (g *Gateway) Close() error {
	g.link.sender.Store(nil)
	g.link.dispatcher.Store(nil)
	g.flows.close()
	g.wg.Wait()
	g.stack.Destroy()
	return nil
}

// SetNeighbor tells the Gateway who has an address, so that it need not ask.
func (g *Gateway) SetNeighbor(a netip.Addr, mac net.HardwareAddr) error {
	if err := g.stack.AddStaticNeighbor(nic, protocolOf(a), toAddress(a), tcpip.LinkAddress(mac)); err != nil {
		return fmt.Errorf("neighbour %s: %s", a, err)
	}
	g.flows.allow(a, mac)
	return nil
}

// ForgetNeighbor takes back SetNeighbor, and ends every connection with the
// address: its machine is gone.
func (g *Gateway) ForgetNeighbor(a netip.Addr) {
	g.flows.abort(a) // first: the resets have to find their way
	if err := g.stack.RemoveNeighbor(nic, protocolOf(a), toAddress(a)); err != nil {
		g.log.Debug("forgetting a neighbour", "addr", a, "error", err.String())
	}
}

// ListenUDP and ListenTCP open a port on one of the Gateway's own addresses,
// for a service to machines.
func (g *Gateway) ListenUDP(at netip.AddrPort) (net.PacketConn, error) {
	full := toFull(at)
	c, err := gonet.DialUDP(g.stack, &full, nil, protocolOf(at.Addr()))
	if err != nil {
		return nil, err
	}
	return packetConn{c}, nil
}

// ListenTCP is like ListenUDP.
func (g *Gateway) ListenTCP(at netip.AddrPort) (net.Listener, error) {
	return gonet.ListenTCP(g.stack, toFull(at), protocolOf(at.Addr()))
}

// packetConn keeps the peer's IPv4 address four bytes long: gvisor's stack
// refuses the mapped form, which the net package produces.
type packetConn struct{ *gonet.UDPConn }

func (c packetConn) WriteTo(b []byte, to net.Addr) (int, error) {
	if u, ok := to.(*net.UDPAddr); ok {
		to = net.UDPAddrFromAddrPort(netip.AddrPortFrom(u.AddrPort().Addr().Unmap(), u.AddrPort().Port()))
	}
	return c.UDPConn.WriteTo(b, to)
}

// Stats reads the counters.
func (g *Gateway) Stats() Stats {
	return Stats{
		Connections: g.stats.connections.Load(), Published: g.stats.published.Load(),
		UDPFlows: g.stats.udpFlows.Load(), Refused: g.stats.refused.Load(), Failed: g.stats.failed.Load(),
	}
}

// destination is where a connection of a machine, from one of its addresses, to
// dst goes on the host, in the order to be tried.
func (g *Gateway) destination(from netip.Addr, dst netip.AddrPort) ([]netip.AddrPort, error) {
	a := dst.Addr()
	if g.cfg.Internal {
		return nil, errors.New("the network is internal")
	}
	if g.own[a] {
		if !g.cfg.HostAccess {
			return nil, errors.New("the network has no access to the host")
		}
		if g.cfg.HostDenied != nil && g.cfg.HostDenied(from) {
			return nil, errors.New("the service has no access to the host")
		}
		v4, v6 := netip.AddrPortFrom(loopback4, dst.Port()), netip.AddrPortFrom(netip.IPv6Loopback(), dst.Port())
		if a.Is4() {
			return []netip.AddrPort{v4, v6}, nil
		}
		return []netip.AddrPort{v6, v4}, nil
	}
	if g.cfg.InFabric(a) {
		return nil, fmt.Errorf("%s is on one of the private networks", a)
	}
	if err := g.cfg.Policy(a); err != nil {
		return nil, err
	}
	return []netip.AddrPort{dst}, nil
}

// ownFor is the Gateway's address of a's family, in a's subnet if there is one.
func (g *Gateway) ownFor(a netip.Addr) (netip.Addr, bool) {
	var found netip.Addr
	for _, p := range g.cfg.Addrs {
		if p.Masked().Contains(a) {
			return p.Addr(), true
		}
		if !found.IsValid() && p.Addr().Is4() == a.Is4() {
			found = p.Addr()
		}
	}
	return found, found.IsValid()
}

// flows are what can be ended, by the neighbour it belongs to.
type flows struct {
	mu     sync.Mutex // guards what follows
	closed bool
	known  map[netip.Addr]*neighbor
}

type neighbor struct {
	mac      net.HardwareAddr
	flows    map[*flow]struct{}
	dialling int
}

type flow struct{ abort func() }

func (f *flows) allow(a netip.Addr, mac net.HardwareAddr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known == nil {
		f.known = make(map[netip.Addr]*neighbor)
	}
	if f.known[a] == nil {
		f.known[a] = &neighbor{flows: make(map[*flow]struct{})}
	}
	f.known[a].mac = append(net.HardwareAddr(nil), mac...)
}

func (f *flows) neighbor(a netip.Addr) (net.HardwareAddr, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.known[a]
	if n == nil {
		return nil, false
	}
	return n.mac, true
}

// add registers what ends a flow with the machine at a, and counts it in wg;
// it refuses when the machine, or the Gateway, is gone, and when the machine has
// too many. done takes it back.
func (f *flows) add(wg *sync.WaitGroup, a netip.Addr, abort func()) (done func(), ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.known[a]
	if f.closed || n == nil || len(n.flows) >= maxFlows {
		return nil, false
	}
	fl := &flow{abort}
	n.flows[fl] = struct{}{}
	wg.Add(1)
	return func() {
		f.mu.Lock()
		delete(n.flows, fl)
		f.mu.Unlock()
		wg.Done()
	}, true
}

// dial is add for the time of dialling.
func (f *flows) dial(wg *sync.WaitGroup, a netip.Addr, abort func()) (done func(), ok bool) {
	f.mu.Lock()
	n := f.known[a]
	if n == nil || n.dialling >= maxDialling {
		f.mu.Unlock()
		return nil, false
	}
	n.dialling++
	f.mu.Unlock()
	less := func() {
		f.mu.Lock()
		n.dialling--
		f.mu.Unlock()
	}
	added, ok := f.add(wg, a, abort)
	if !ok {
		less()
		return nil, false
	}
	return func() { less(); added() }, true
}

// abort ends what belongs to a neighbour, and forgets it. The flows still
// have to take themselves back, so they are ended without the lock.
func (f *flows) abort(a netip.Addr) {
	f.mu.Lock()
	n := f.known[a]
	delete(f.known, a)
	f.mu.Unlock()
	if n != nil {
		f.end(n)
	}
}

func (f *flows) end(n *neighbor) {
	f.mu.Lock()
	all := slices.Collect(maps.Keys(n.flows))
	f.mu.Unlock()
	for _, fl := range all {
		fl.abort()
	}
}

// close ends everything and lets nothing new begin.
func (f *flows) close() {
	f.mu.Lock()
	f.closed = true
	all := slices.Collect(maps.Values(f.known))
	f.mu.Unlock()
	for _, n := range all {
		f.end(n)
	}
}

var loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

func toAddress(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func fromAddress(a tcpip.Address) netip.Addr {
	out, _ := netip.AddrFromSlice(a.AsSlice())
	return out
}

func toFull(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: toAddress(a.Addr()), Port: a.Port()}
}
