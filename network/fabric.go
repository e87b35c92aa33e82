package network

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/stackvm/stack/network/dns"
	"github.com/stackvm/stack/network/ethernet"
	"github.com/stackvm/stack/network/gateway"
	"github.com/stackvm/stack/network/ipam"
)

// DefaultMTU is the largest IP packet of a network on QEMU, where a frame is
// one datagram: four times the throughput of 1500 through a TCP/IP stack in
// user space.
const DefaultMTU = ethernet.MaxMTU

// hostNames stand for the host on networks that have access to it. The names
// are Docker Desktop's, which compose files use.
var hostNames = []string{"host.docker.internal", "gateway.docker.internal"}

// Fabric is all virtual networks of one supervisor. Its methods may be called
// from any goroutine.
type Fabric struct {
	opt     Options
	log     *slog.Logger
	ether   *ethernet.Switch
	resolve dns.Upstream

	// changes serialises the methods that change something; it is held while
	// they wait for goroutines to end. Taken before mu.
	changes sync.Mutex
	closed  bool

	mu       sync.RWMutex // guards what follows; for traffic, never held while waiting
	networks map[string]*virtual
	machines map[string]map[place]*endpoint
	byAddr   map[located]*endpoint
	publish  map[string]*publication
}

// Options configure a Fabric.
type Options struct {
	Log *slog.Logger // nil discards

	// MTU is the largest IP packet of networks that do not name theirs;
	// 0 is DefaultMTU.
	MTU int

	// Upstream resolves the names of the outside; nil asks the host's
	// resolvers.
	Upstream dns.Upstream

	// Policy tells why a machine may not reach an address outside the Fabric;
	// nil is gateway.Outside. Addresses of the Fabric's own networks are never
	// reached that way, whatever it says.
	Policy func(netip.Addr) error

	// SocketBuffer is asked for on our end of each trunk; 0 is the switch's
	// default.
	SocketBuffer int
}

// Config describes a network.
type Config struct {
	ID      string
	Name    string         // the second part of names that addresses resolve to; "" leaves it out
	Subnets []netip.Prefix // disjoint
	// Gateways has one address in each subnet. Name service is at port 53 of
	// each, and with HostAccess the host's loopback at every other port.
	Gateways   []netip.Addr
	Internal   bool // no way out, and no names of the outside
	HostAccess bool // to the host's loopback, unless Internal
	Isolated   bool // containers do not reach each other
	MTU        int  // 0 is Options.MTU
}

// Endpoint is a container's place on a network.
type Endpoint struct {
	Network   string
	VLAN      uint16 // of the network on the machine's trunk
	MAC       net.HardwareAddr
	Addrs     []netip.Addr
	LinkLocal []netip.Addr      // further addresses, of no subnet, which no name stands for
	Names     []string          // in full: service, container, aliases, hostname, service.project
	Links     map[string]string // names that only it knows, and whose they are
	Container string
	HostDeny  bool // no way to the host's loopback, and no name for it
}

// Publish leads a port of the host into a network.
type Publish struct {
	ID      string
	Network string
	Proto   string // tcp or udp
	Target  netip.AddrPort

	// Listener is bound to the host's port for tcp, Packet for udp. Both are
	// duplicates, handed over: Unpublish closes them, and connections go on to
	// queue at the original.
	Listener net.Listener
	Packet   net.PacketConn

	// Masquerade shows the service the gateway's address instead of the
	// client's. It is needed where Network does not hold the target's default
	// route: its answers to the client would go another way. Clients on the
	// host's loopback, on another network of the Fabric or of another address
	// family, and those of an internal network are always masqueraded.
	Masquerade bool
}

// Stats are a Fabric's counters.
type Stats struct {
	Ethernet ethernet.Stats
	Networks map[string]NetworkStats // by id
}

// NetworkStats are the counters of what the host does on one network.
type NetworkStats struct {
	Gateway gateway.Stats
	Names   dns.Stats
}

type virtual struct {
	cfg     Config
	gateway *gateway.Gateway
	names   *dns.Server

	// byName is guarded by Fabric.mu.
	byName map[string][]*endpoint // lower case
}

type place struct{ network, container string }

type located struct {
	network string
	addr    netip.Addr
}

type endpoint struct {
	Endpoint
	machine string
}

type publication struct {
	network string
	*gateway.Publication
}

// ErrClosed is returned by the methods of a closed Fabric.
var ErrClosed = errors.New("the networks are closed")

// New makes a Fabric without networks.
func New(opt Options) *Fabric {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.MTU == 0 {
		opt.MTU = DefaultMTU
	}
	if opt.Upstream == nil {
		opt.Upstream = new(dns.Host)
	}
	return &Fabric{
		opt: opt, log: opt.Log, resolve: dns.Shared(opt.Upstream),
		ether:    ethernet.New(ethernet.Options{Log: opt.Log, SocketBuffer: opt.SocketBuffer}),
		networks: make(map[string]*virtual),
		machines: make(map[string]map[place]*endpoint),
		byAddr:   make(map[located]*endpoint),
		publish:  make(map[string]*publication),
	}
}

// Close ends all traffic and returns after the last goroutine has ended. The
// machines' ends of trunks and the originals of published sockets stay open.
func (f *Fabric) Close() error {
	f.changes.Lock()
	defer f.changes.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	err := f.ether.Close()
	for _, p := range f.publish {
		err = errors.Join(err, p.Close())
	}
	for _, n := range f.networks {
		err = errors.Join(err, n.names.Close(), n.gateway.Close())
	}
	return err
}

// Create makes a network with its gateway and name service. Its MAC follows
// from the ID, so machines that outlive a supervisor keep their neighbour.
func (f *Fabric) Create(c Config) error {
	f.changes.Lock()
	defer f.changes.Unlock()
	if f.closed {
		return ErrClosed
	}
	if err := f.create(c); err != nil {
		return fmt.Errorf("creating network %q: %w", c.ID, err)
	}
	return nil
}

func (f *Fabric) create(c Config) error {
	c.Subnets, c.Gateways = slices.Clone(c.Subnets), slices.Clone(c.Gateways)
	if c.MTU == 0 {
		c.MTU = f.opt.MTU
	}
	if f.networks[c.ID] != nil {
		return errors.New("it exists")
	}
	addrs, err := gatewayPrefixes(c)
	if err != nil {
		return err
	}
	mac := ipam.MAC("gateway", c.ID)
	gw, err := gateway.New(gateway.Config{
		MAC: mac, Addrs: addrs, MTU: c.MTU, Internal: c.Internal, HostAccess: c.HostAccess,
		HostDenied: func(from netip.Addr) bool { return f.hostDenied(c.ID, from) },
		Policy:     f.opt.Policy, InFabric: f.contains, Log: f.log.With("network", c.ID),
	})
	if err != nil {
		return err
	}
	n := &virtual{cfg: c, gateway: gw, byName: make(map[string][]*endpoint)}
	n.names = dns.NewServer(zone{f, n}, f.resolve, f.log.With("network", c.ID))
	undo := func() { n.names.Close(); gw.Close() }
	for _, a := range c.Gateways {
		at := netip.AddrPortFrom(a, 53)
		packets, err := gw.ListenUDP(at)
		if err != nil {
			undo()
			return fmt.Errorf("name service: %w", err)
		}
		streams, err := gw.ListenTCP(at)
		if err != nil {
			packets.Close()
			undo()
			return fmt.Errorf("name service: %w", err)
		}
		if err := n.names.Serve(packets, streams); err != nil {
			undo()
			return fmt.Errorf("name service: %w", err)
		}
	}
	if err := f.ether.AddNetwork(c.ID, c.MTU, c.Isolated); err != nil {
		undo()
		return err
	}
	host, err := f.ether.AttachHost(c.ID, mac, gw)
	if err != nil {
		undo()
		return errors.Join(err, f.ether.RemoveNetwork(c.ID))
	}
	gw.Connect(host)
	f.mu.Lock()
	f.networks[c.ID] = n
	f.mu.Unlock()
	return nil
}

// gatewayPrefixes pairs each gateway with the subnet it is in.
func gatewayPrefixes(c Config) ([]netip.Prefix, error) {
	if len(c.Subnets) == 0 || len(c.Subnets) != len(c.Gateways) {
		return nil, fmt.Errorf("%d subnets and %d gateways: one gateway a subnet is needed", len(c.Subnets), len(c.Gateways))
	}
	var out []netip.Prefix
	for i, s := range c.Subnets {
		for _, t := range c.Subnets[:i] {
			if s.Overlaps(t) {
				return nil, fmt.Errorf("subnets %s and %s overlap", t, s)
			}
		}
		j := slices.IndexFunc(c.Gateways, s.Contains)
		if j < 0 {
			return nil, fmt.Errorf("subnet %s has no gateway", s)
		}
		out = append(out, netip.PrefixFrom(c.Gateways[j], s.Bits()))
	}
	return out, nil
}

// Remove ends a network without endpoints, and its publications.
func (f *Fabric) Remove(id string) error {
	f.changes.Lock()
	defer f.changes.Unlock()
	if f.closed {
		return ErrClosed
	}
	n := f.networks[id]
	if n == nil {
		return fmt.Errorf("removing network %q: it does not exist", id)
	}
	if err := f.ether.RemoveNetwork(id); err != nil {
		return fmt.Errorf("removing network: %w", err)
	}
	f.mu.Lock()
	delete(f.networks, id)
	var gone []*publication
	for key, p := range f.publish {
		if p.network == id {
			gone = append(gone, p)
			delete(f.publish, key)
		}
	}
	f.mu.Unlock()
	var err error
	for _, p := range gone {
		err = errors.Join(err, p.Close())
	}
	return errors.Join(err, n.names.Close(), n.gateway.Close())
}

// Plug starts to carry the frames of a machine. trunk is our end of an AF_UNIX
// datagram socket pair, on which one datagram is one 802.1Q-tagged frame; the
// Fabric duplicates it and the caller keeps its own. Frames that waited in it
// are carried first. Plugging a machine again moves it to the new trunk.
// Endpoints may be attached before and after.
func (f *Fabric) Plug(machine string, trunk *os.File) error {
	f.changes.Lock()
	defer f.changes.Unlock()
	if f.closed {
		return ErrClosed
	}
	return f.ether.Plug(machine, trunk)
}

// Unplug stops carrying the frames of a machine. Its endpoints stay attached.
func (f *Fabric) Unplug(machine string) error {
	f.changes.Lock()
	defer f.changes.Unlock()
	if f.closed {
		return ErrClosed
	}
	return f.ether.Unplug(machine)
}

// Attach gives a container of a machine its place on a network, which also
// gives others its names. Attaching it again as it is does nothing.
func (f *Fabric) Attach(machine string, e Endpoint) error {
	f.changes.Lock()
	defer f.changes.Unlock()
	if f.closed {
		return ErrClosed
	}
	if err := f.attach(machine, e); err != nil {
		return fmt.Errorf("attaching container %q: %w", e.Container, err)
	}
	return nil
}

func (f *Fabric) attach(machine string, e Endpoint) error {
	e.MAC, e.Addrs, e.Names = slices.Clone(e.MAC), slices.Clone(e.Addrs), slices.Clone(e.Names)
	links := make(map[string]string, len(e.Links))
	for alias, name := range e.Links {
		links[canonical(alias)] = canonical(name)
	}
	e.Links = links
	if i := slices.IndexFunc(e.LinkLocal, func(a netip.Addr) bool { return !a.IsLinkLocalUnicast() }); i >= 0 {
		return fmt.Errorf("address %s is not link-local", e.LinkLocal[i])
	}
	n := f.networks[e.Network]
	if n == nil {
		return fmt.Errorf("network %q does not exist", e.Network)
	}
	at := place{e.Network, e.Container}
	if old := f.machines[machine][at]; old != nil {
		if old.VLAN == e.VLAN && slices.Equal(old.MAC, e.MAC) && slices.Equal(old.Addrs, e.Addrs) {
			f.setNames(n, old, e.Names)
			f.mu.Lock()
			old.Links = e.Links
			f.mu.Unlock()
			return nil
		}
		return fmt.Errorf("it is on network %q already, with another address", e.Network)
	}
	for i, a := range e.Addrs {
		e.Addrs[i] = a.Unmap()
		if !slices.ContainsFunc(n.cfg.Subnets, func(p netip.Prefix) bool { return p.Contains(e.Addrs[i]) }) {
			return fmt.Errorf("address %s is not on network %q", a, e.Network)
		}
		if slices.Contains(n.cfg.Gateways, e.Addrs[i]) {
			return fmt.Errorf("address %s is the gateway of network %q", a, e.Network)
		}
	}
	if err := f.ether.Attach(machine, ethernet.Pin{Network: e.Network, VLAN: e.VLAN, MAC: e.MAC, Addrs: slices.Concat(e.Addrs, e.LinkLocal)}); err != nil {
		return err
	}
	for i, a := range e.Addrs {
		if err := n.gateway.SetNeighbor(a, e.MAC); err != nil {
			for _, b := range e.Addrs[:i] {
				n.gateway.ForgetNeighbor(b)
			}
			return errors.Join(err, f.ether.Detach(machine, e.VLAN))
		}
	}
	ep := &endpoint{Endpoint: e, machine: machine}
	names := ep.Names
	ep.Names = nil
	f.mu.Lock()
	if f.machines[machine] == nil {
		f.machines[machine] = make(map[place]*endpoint)
	}
	f.machines[machine][at] = ep
	for _, a := range e.Addrs {
		f.byAddr[located{e.Network, a}] = ep
	}
	f.mu.Unlock()
	f.setNames(n, ep, names)
	return nil
}

// Detach takes a container off a network: its names go first, then its
// connections through the gateway, then its place on the switch.
func (f *Fabric) Detach(machine, network, container string) error {
	f.changes.Lock()
	defer f.changes.Unlock()
	if f.closed {
		return ErrClosed
	}
	at := place{network, container}
	ep := f.machines[machine][at]
	if ep == nil {
		return fmt.Errorf("detaching container %q: machine %q has it not on network %q", container, machine, network)
	}
	n := f.networks[network]
	f.setNames(n, ep, nil)
	f.mu.Lock()
	delete(f.machines[machine], at)
	if len(f.machines[machine]) == 0 {
		delete(f.machines, machine)
	}
	for _, a := range ep.Addrs {
		delete(f.byAddr, located{network, a})
	}
	f.mu.Unlock()
	for _, a := range ep.Addrs {
		n.gateway.ForgetNeighbor(a)
	}
	if err := f.ether.Detach(machine, ep.VLAN); err != nil {
		return fmt.Errorf("detaching container %q: %w", container, err)
	}
	return nil
}

// SetNames replaces the names of an attached container: those of a replica
// appear when it has started, and go before it stops.
func (f *Fabric) SetNames(machine, network, container string, names []string) error {
	f.changes.Lock()
	defer f.changes.Unlock()
	if f.closed {
		return ErrClosed
	}
	ep := f.machines[machine][place{network, container}]
	if ep == nil {
		return fmt.Errorf("naming container %q: machine %q has it not on network %q", container, machine, network)
	}
	f.setNames(f.networks[network], ep, names)
	return nil
}

func (f *Fabric) setNames(n *virtual, ep *endpoint, names []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range ep.Names {
		key := canonical(name)
		rest := slices.DeleteFunc(n.byName[key], func(e *endpoint) bool { return e == ep })
		if len(rest) == 0 {
			delete(n.byName, key)
		} else {
			n.byName[key] = rest
		}
	}
	ep.Names = slices.Clone(names)
	for _, name := range ep.Names {
		key := canonical(name)
		if !slices.Contains(n.byName[key], ep) {
			n.byName[key] = append(n.byName[key], ep)
		}
	}
}

// Publish starts to carry what arrives at a port of the host into a network,
// what waits in the socket first.
func (f *Fabric) Publish(p Publish) error {
	f.changes.Lock()
	defer f.changes.Unlock()
	if f.closed {
		return ErrClosed
	}
	if err := f.publishLocked(p); err != nil {
		return fmt.Errorf("publishing %s/%s: %w", p.Target, p.Proto, err)
	}
	return nil
}

func (f *Fabric) publishLocked(p Publish) error {
	n := f.networks[p.Network]
	switch {
	case n == nil:
		return fmt.Errorf("network %q does not exist", p.Network)
	case f.publish[p.ID] != nil:
		return fmt.Errorf("publication %q exists", p.ID)
	case !slices.ContainsFunc(n.cfg.Subnets, func(s netip.Prefix) bool { return s.Contains(p.Target.Addr().Unmap()) }):
		return fmt.Errorf("the address is not on network %q", p.Network)
	}
	var made *gateway.Publication
	switch {
	case p.Proto == "tcp" && p.Listener != nil:
		made = n.gateway.PublishTCP(p.Listener, p.Target, !p.Masquerade)
	case p.Proto == "udp" && p.Packet != nil:
		var err error
		if made, err = n.gateway.PublishUDP(p.Packet, p.Target, !p.Masquerade); err != nil {
			return err
		}
	default:
		return fmt.Errorf("a tcp listener or a udp socket is needed for protocol %q", p.Proto)
	}
	f.mu.Lock()
	f.publish[p.ID] = &publication{p.Network, made}
	f.mu.Unlock()
	return nil
}

// Unpublish closes the socket handed over to Publish and ends its connections.
func (f *Fabric) Unpublish(id string) error {
	f.changes.Lock()
	defer f.changes.Unlock()
	if f.closed {
		return ErrClosed
	}
	f.mu.Lock()
	p := f.publish[id]
	delete(f.publish, id)
	f.mu.Unlock()
	if p == nil {
		return fmt.Errorf("publication %q does not exist", id)
	}
	if err := p.Close(); err != nil {
		return fmt.Errorf("publication %q: %w", id, err)
	}
	return nil
}

// Stats reads all counters, without stopping the traffic.
func (f *Fabric) Stats() Stats {
	f.mu.RLock()
	networks := maps.Clone(f.networks)
	f.mu.RUnlock()
	s := Stats{Ethernet: f.ether.Stats(), Networks: make(map[string]NetworkStats)}
	for id, n := range networks {
		s.Networks[id] = NetworkStats{Gateway: n.gateway.Stats(), Names: n.names.Stats()}
	}
	return s
}

// hostDenied tells an endpoint that may not reach the host.
func (f *Fabric) hostDenied(network string, from netip.Addr) bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	ep := f.byAddr[located{network, from}]
	return ep != nil && ep.HostDeny
}

// contains tells whether an address belongs to some network of the Fabric.
func (f *Fabric) contains(a netip.Addr) bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	for _, n := range f.networks {
		if slices.ContainsFunc(n.cfg.Subnets, func(p netip.Prefix) bool { return p.Contains(a) }) {
			return true
		}
	}
	return false
}
