//go:build linux

package container

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/stackvm/stack/guest/agent/cgroup"
	"github.com/stackvm/stack/guest/agent/dnsstub"
	"github.com/stackvm/stack/guest/agent/netlink"
	"github.com/stackvm/stack/guest/agent/relay"
	"github.com/stackvm/stack/guest/wire"
)

// ports follows what listens in a container's network namespace. Events only
// wake it: what is told is what the kernel then lists, so that none can be missed
// and a thousand at once are one look.
type ports struct {
	id      string
	ns      *os.File // the container's
	listens *cgroup.Listens
	own     netip.Addr // its first IPv4 address
	gateway netip.Addr
	emit    func(wire.Event)
	woken   chan struct{} // holds a token while a look is due

	relays map[place]*relay.Relay // run's

	mu   sync.Mutex
	last wire.Event
	due  bool // last is to be told again, whatever is found
}

// place is a port that is listened on, as a key.
type place struct {
	udp bool
	at  netip.AddrPort
}

// tellPorts starts to follow the container's ports, if that is asked for.
func (c *Container) tellPorts() error {
	if !c.spec.TellPorts || c.spec.JoinNetwork != "" || len(c.spec.Interfaces) == 0 {
		return nil
	}
	p := &ports{
		id: c.spec.ID, ns: c.net, emit: c.set.machine.Emit, woken: make(chan struct{}, 1), relays: make(map[place]*relay.Relay),
		last: wire.Event{Kind: wire.EventPorts, Container: c.spec.ID, At: time.Now()},
	}
	addrs, gateways, err := parseAddrs(c.spec.Interfaces[0])
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if a.Addr().Is4() && !p.own.IsValid() {
			p.own = a.Addr()
		}
	}
	for _, g := range gateways {
		if g.Is4() {
			p.gateway = g
		}
	}
	if p.listens, err = c.set.listens(); err != nil {
		return err
	}
	ends, err := netlink.WatchEnds(c.net)
	if err != nil {
		return err
	}
	stop, closing := p.listens.Watch(p.wake), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for ends.Wait() == nil {
			p.wake()
		}
	})
	wg.Go(func() { p.run(closing) })
	c.do(func() error {
		stop()
		close(closing)
		err := ends.Close()
		wg.Wait()
		return err
	})
	c.ports = p
	return nil
}

func (p *ports) wake() {
	select {
	case p.woken <- struct{}{}:
	default:
	}
}

// retell has the present ports told as the container starts, when the host has
// forgotten those of its last run.
func (p *ports) retell() {
	p.mu.Lock()
	p.due = true
	p.mu.Unlock()
	p.wake()
}

// event is what was last told.
func (p *ports) event() wire.Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

func (p *ports) run(closing <-chan struct{}) {
	defer func() {
		for _, r := range p.relays {
			r.Close()
		}
	}()
	for {
		select {
		case <-p.woken:
		case <-closing:
			return
		}
		if err := p.look(); err != nil {
			fmt.Fprintln(os.Stderr, "agent: following ports:", err)
		}
	}
}

// look tells the host of the present ports, if they are others than before.
func (p *ports) look() error {
	sockets, more, err := netlink.Sockets(p.ns)
	if err != nil {
		return err
	}
	sockets = slices.DeleteFunc(sockets, func(s netlink.Socket) bool {
		return p.ours(s) || s.UDP && !p.listens.Asked(s.Addr.Port())
	})
	all := outward(sockets)
	e := wire.Event{Kind: wire.EventPorts, Container: p.id, At: time.Now(), PortsLeft: more + max(0, len(all)-wire.MaxListening)}
	all = all[:min(len(all), wire.MaxListening)]
	wanted := make(map[place]bool)
	for _, o := range all {
		port := wire.ListeningPort{Protocol: "tcp", Addr: o.addr, Port: o.to.Port()}
		if o.udp {
			port.Protocol = "udp"
		}
		if o.relayed {
			at := place{o.udp, o.to}
			r, err := p.relay(at)
			if err != nil { // the others are told of all the same
				fmt.Fprintln(os.Stderr, "agent: following ports:", err)
				continue
			}
			wanted[at], port.Relay = true, r.Port
		}
		e.Ports = append(e.Ports, port)
	}
	for at, r := range p.relays {
		if !wanted[at] {
			r.Close()
			delete(p.relays, at)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.due && slices.Equal(e.Ports, p.last.Ports) && e.PortsLeft == p.last.PortsLeft {
		return nil
	}
	p.last, p.due = e, false
	p.emit(e)
	return nil
}

// ours tells the sockets of the agent itself.
func (p *ports) ours(s netlink.Socket) bool {
	if s.Addr.Addr() == dnsstub.Addr {
		return true
	}
	for at, r := range p.relays {
		if at.udp == s.UDP && s.Addr == netip.AddrPortFrom(p.own, r.Port) {
			return true
		}
	}
	return false
}

func (p *ports) relay(at place) (*relay.Relay, error) {
	if r := p.relays[at]; r != nil {
		return r, nil
	}
	start := relay.TCP
	if at.udp {
		start = relay.UDP
	}
	r, err := start(p.ns, p.own, p.gateway, at.at)
	if err == nil {
		p.relays[at] = r
	}
	return r, err
}

// opening is an address and port that the host is to listen on.
type opening struct {
	udp     bool
	addr    netip.Addr
	to      netip.AddrPort // the socket
	relayed bool           // the socket is not reached by the container's IPv4 address
}

// outward is what the host listens on for these sockets, each address and port
// once, in order: by port, so that the highest are left out of too many.
func outward(sockets []netlink.Socket) []opening {
	any4, any6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	var all []opening
	for _, s := range sockets {
		a := s.Addr.Addr()
		add := func(addr netip.Addr, relayed bool) { all = append(all, opening{s.UDP, addr, s.Addr, relayed}) }
		switch {
		case a == any6 && !s.V6Only:
			add(any4, false)
			add(any6, false)
		case a.IsLoopback():
			add(a, true)
		case a.Is6():
			add(any6, true)
		default: // an address of its interface's is none of the host's
			add(any4, false)
		}
	}
	slices.SortFunc(all, func(a, b opening) int {
		return cmp.Or(cmp.Compare(a.to.Port(), b.to.Port()), compareBool(a.udp, b.udp), a.addr.Compare(b.addr), compareBool(a.relayed, b.relayed), a.to.Compare(b.to))
	})
	all = slices.CompactFunc(all, func(a, b opening) bool {
		return a.udp == b.udp && a.addr == b.addr && a.to.Port() == b.to.Port()
	})
	// The host cannot listen on one address of a port it listens on altogether.
	whole := make(map[place]bool)
	for _, o := range all {
		if o.addr.IsUnspecified() {
			whole[place{o.udp, netip.AddrPortFrom(o.addr, o.to.Port())}] = true
		}
	}
	return slices.DeleteFunc(all, func(o opening) bool {
		every := any6
		if o.addr.Is4() {
			every = any4
		}
		return !o.addr.IsUnspecified() && whole[place{o.udp, netip.AddrPortFrom(every, o.to.Port())}]
	})
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
