package ethernet

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
	"sync/atomic"
)

// Switch forwards frames between the endpoints of each of its networks.
// Its methods may be called from any goroutine, though not from a Receiver.
type Switch struct {
	log          *slog.Logger
	socketBuffer int

	mu       sync.Mutex // guards what follows; forwarding takes no lock
	networks map[string]*network
	trunks   map[string]*trunk
	closed   bool
}

// network is one broadcast domain.
type network struct {
	id       string
	maxFrame int
	isolated bool                    // machines reach the host's endpoints alone
	members  atomic.Pointer[members] // replaced under Switch.mu
}

type members struct {
	byMAC map[mac]*endpoint
	all   []*endpoint
}

// endpoint is a place on a network: of a machine, or of the host.
type endpoint struct {
	network *network
	vlan    uint16
	pin     pin
	addrs   []netip.Addr
	trunk   *trunk // nil for the host
	host    *Host  // nil for a machine
	counters
}

// Pin is what a machine may claim on one network.
type Pin struct {
	Network string
	VLAN    uint16           // of this network on the machine's trunk, 1 to MaxVLAN
	MAC     net.HardwareAddr // unicast
	Addrs   []netip.Addr     // besides the IPv6 link-local address derived from MAC
}

// ErrClosed is returned by the methods of a closed Switch.
var ErrClosed = errors.New("the switch is closed")

// Options configure a Switch.
type Options struct {
	Log *slog.Logger // nil discards

	// SocketBuffer is the size in bytes asked of the kernel for the buffers of
	// our end of each trunk; it grants what net.core.wmem_max and rmem_max
	// allow, 212,992 where nobody raised them. 0 means 4 MiB.
	SocketBuffer int
}

// New makes a Switch without networks and trunks.
func New(opt Options) *Switch {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.SocketBuffer == 0 {
		opt.SocketBuffer = 4 << 20
	}
	return &Switch{
		log: opt.Log, socketBuffer: opt.SocketBuffer,
		networks: make(map[string]*network), trunks: make(map[string]*trunk),
	}
}

// Close unplugs every trunk. It returns after the last goroutine has ended.
func (s *Switch) Close() error {
	s.mu.Lock()
	s.closed = true
	var links []*link
	for _, t := range s.trunks {
		if l := t.link.Swap(nil); l != nil {
			links = append(links, l)
		}
	}
	s.mu.Unlock()
	for _, l := range links {
		l.close()
	}
	return nil
}

// AddNetwork makes a broadcast domain whose frames carry at most mtu bytes,
// up to MaxMTU.
func (s *Switch) AddNetwork(id string, mtu int, isolated bool) error {
	if mtu < 1280 || mtu > MaxMTU { // IPv6 needs 1280 (RFC 8200)
		return fmt.Errorf("network %q: MTU %d is not between 1280 and %d", id, mtu, MaxMTU)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if s.networks[id] != nil {
		return fmt.Errorf("network %q: already on the switch", id)
	}
	n := &network{id: id, maxFrame: HeaderLen + mtu, isolated: isolated}
	n.members.Store(&members{byMAC: make(map[mac]*endpoint)})
	s.networks[id] = n
	return nil
}

// RemoveNetwork ends a broadcast domain that no machine is attached to; its
// host endpoint goes with it.
func (s *Switch) RemoveNetwork(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.networks[id]
	if n == nil {
		return fmt.Errorf("network %q: not on the switch", id)
	}
	for _, ep := range n.members.Load().all {
		if ep.trunk != nil {
			return fmt.Errorf("network %q: machine %q is attached to it", id, ep.trunk.machine)
		}
	}
	n.members.Store(&members{})
	delete(s.networks, id)
	return nil
}

// Plug starts to forward the frames of a machine. trunk is our end of an
// AF_UNIX datagram socket pair; the Switch duplicates it, and the caller keeps
// its own. A machine that is plugged already is moved to the new trunk.
func (s *Switch) Plug(machine string, file *os.File) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	t := s.trunkLocked(machine)
	l, err := openLink(t, file, s)
	if err != nil {
		s.releaseLocked(t)
		return fmt.Errorf("trunk of machine %q: %w", machine, err)
	}
	old := t.link.Swap(l)
	l.start()
	if old != nil {
		old.close()
	}
	return nil
}

// Unplug closes the machine's trunk, and returns after its goroutines have
// ended. Its pins stay until they are detached, so that Plug can follow.
func (s *Switch) Unplug(machine string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.trunks[machine]
	if t == nil {
		return fmt.Errorf("trunk of machine %q: not plugged", machine)
	}
	l := t.link.Swap(nil)
	s.releaseLocked(t)
	if l == nil {
		return fmt.Errorf("trunk of machine %q: not plugged", machine)
	}
	l.close()
	return nil
}

// Attach gives a machine, plugged or not yet, a place on a network.
func (s *Switch) Attach(machine string, p Pin) error {
	ep, err := newEndpoint(p)
	if err != nil {
		return fmt.Errorf("machine %q on network %q: %w", machine, p.Network, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	t := s.trunkLocked(machine)
	defer s.releaseLocked(t)
	if t.at(p.VLAN) != nil {
		return fmt.Errorf("machine %q on network %q: VLAN %d is in use on its trunk", machine, p.Network, p.VLAN)
	}
	ep.trunk = t
	if err := s.joinLocked(p.Network, ep); err != nil {
		return fmt.Errorf("machine %q on network %q: %w", machine, p.Network, err)
	}
	t.setLocked(p.VLAN, ep)
	return nil
}

func newEndpoint(p Pin) (*endpoint, error) {
	switch {
	case p.VLAN < 1 || p.VLAN > MaxVLAN:
		return nil, fmt.Errorf("VLAN %d is not between 1 and %d", p.VLAN, MaxVLAN)
	case len(p.MAC) != 6 || p.MAC[0]&1 != 0 || mac48(p.MAC) == 0:
		return nil, fmt.Errorf("%q is not a unicast MAC address", p.MAC)
	}
	for _, a := range p.Addrs {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
			return nil, fmt.Errorf("%s is not a host address", a)
		}
	}
	m := mac48(p.MAC)
	return &endpoint{vlan: p.VLAN, pin: newPin(m, p.Addrs), addrs: slices.Clone(p.Addrs)}, nil
}

// joinLocked makes ep a member of a network in which nobody else has its
// addresses.
func (s *Switch) joinLocked(id string, ep *endpoint) error {
	n := s.networks[id]
	if n == nil {
		return errors.New("no such network on the switch")
	}
	old := n.members.Load()
	if old.byMAC[ep.pin.mac] != nil {
		return fmt.Errorf("MAC %s is in use", ep.pin.mac.bytes())
	}
	for _, other := range old.all {
		for _, a := range ep.addrs {
			if slices.Contains(other.addrs, a) {
				return fmt.Errorf("address %s is in use", a)
			}
		}
	}
	ep.network = n
	byMAC := maps.Clone(old.byMAC)
	byMAC[ep.pin.mac] = ep
	n.members.Store(&members{byMAC: byMAC, all: append(slices.Clone(old.all), ep)})
	return nil
}

func (s *Switch) leaveLocked(ep *endpoint) {
	old := ep.network.members.Load()
	byMAC := maps.Clone(old.byMAC)
	delete(byMAC, ep.pin.mac)
	all := slices.DeleteFunc(slices.Clone(old.all), func(e *endpoint) bool { return e == ep })
	ep.network.members.Store(&members{byMAC: byMAC, all: all})
}

// Detach takes the endpoint at vlan of the machine's trunk off its network.
func (s *Switch) Detach(machine string, vlan uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.trunks[machine]
	if t == nil || t.at(vlan) == nil {
		return fmt.Errorf("machine %q: nothing is attached at VLAN %d", machine, vlan)
	}
	s.leaveLocked(t.at(vlan))
	t.setLocked(vlan, nil)
	s.releaseLocked(t)
	return nil
}

func (s *Switch) trunkLocked(machine string) *trunk {
	t := s.trunks[machine]
	if t == nil {
		t = &trunk{machine: machine}
		t.vlans.Store(new([]*endpoint))
		s.trunks[machine] = t
	}
	return t
}

// releaseLocked forgets a trunk with neither socket nor pins.
func (s *Switch) releaseLocked(t *trunk) {
	if t.link.Load() == nil && len(*t.vlans.Load()) == 0 {
		delete(s.trunks, t.machine)
	}
}

// EndpointStats are the counters of one endpoint; Machine is empty for the
// network's host endpoint.
type EndpointStats struct {
	Machine, Network string
	VLAN             uint16
	MAC              string
	Counters
}

// Stats are the counters of a Switch, in no order that means anything.
type Stats struct {
	Endpoints []EndpointStats
	// Trunks counts, per machine, what belongs to no endpoint: frames with a
	// VLAN the trunk does not have, and malformed ones.
	Trunks map[string]Counters
}

// Stats reads all counters, without stopping the traffic.
func (s *Switch) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := Stats{Trunks: make(map[string]Counters)}
	for name, t := range s.trunks {
		out.Trunks[name] = t.counters.read()
	}
	for id, n := range s.networks {
		for _, ep := range n.members.Load().all {
			st := EndpointStats{Network: id, VLAN: ep.vlan, MAC: ep.pin.mac.bytes().String(), Counters: ep.counters.read()}
			if ep.trunk != nil {
				st.Machine = ep.trunk.machine
			}
			out.Endpoints = append(out.Endpoints, st)
		}
	}
	return out
}
