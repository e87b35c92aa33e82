package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

const (
	// publishTimeout bounds a connection attempt to a machine, which answers
	// at once unless it is stopped or swamped.
	publishTimeout = 30 * time.Second

	// acceptPause follows a failed accept, which is most often a lack of
	// descriptors: those waiting in the queue cannot be served any earlier.
	acceptPause = 100 * time.Millisecond
)

// Publication leads connections or datagrams to the host into the network.
type Publication struct {
	gateway    *Gateway
	target     netip.AddrPort
	keepSource bool
	closer     interface{ Close() error }
	packets    *net.UDPConn // of a UDP publication

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex // guards what follows
	conns map[*flow]struct{}
	flows map[udpKey]*udpFlow
}

// PublishTCP accepts connections from l and carries each to target. l is the
// Publication's from then on; connections that waited in its queue are served
// first. With keepSource the service sees the client's own address wherever
// answers to it come back here, which takes the target's default route to lead
// to this Gateway; otherwise the Gateway's.
func (g *Gateway) PublishTCP(l net.Listener, target netip.AddrPort, keepSource bool) *Publication {
	p := g.newPublication(l, target, keepSource)
	p.wg.Go(func() { p.accept(l) })
	return p
}

// PublishUDP is PublishTCP for datagrams: a flow for each client.
func (g *Gateway) PublishUDP(c net.PacketConn, target netip.AddrPort, keepSource bool) (*Publication, error) {
	u, ok := c.(*net.UDPConn)
	if !ok {
		return nil, fmt.Errorf("publishing %s: %T is not a UDP socket", target, c)
	}
	if err := askDestination(u); err != nil {
		return nil, fmt.Errorf("publishing %s: %w", target, err)
	}
	p := g.newPublication(c, target, keepSource)
	p.packets = u
	p.flows = make(map[udpKey]*udpFlow)
	p.wg.Go(p.receive)
	return p, nil
}

func (g *Gateway) newPublication(c interface{ Close() error }, target netip.AddrPort, keepSource bool) *Publication {
	p := &Publication{
		gateway: g, target: netip.AddrPortFrom(target.Addr().Unmap(), target.Port()),
		keepSource: keepSource && !g.cfg.Internal, closer: c, conns: make(map[*flow]struct{}),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Close closes the listener, ends its connections, and waits for them.
func (p *Publication) Close() error {
	p.cancel()
	err := p.closer.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil // its owner was faster
	}
	p.mu.Lock()
	var all []func()
	for fl := range p.conns {
		all = append(all, fl.abort)
	}
	p.mu.Unlock()
	for _, abort := range all {
		abort()
	}
	p.wg.Wait()
	return err
}

func (p *Publication) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			if p.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			p.gateway.log.Warn("accepting a published connection", "target", p.target, "error", err)
			select {
			case <-time.After(acceptPause):
				continue
			case <-p.ctx.Done():
				return
			}
		}
		tcp, ok := c.(*net.TCPConn)
		if !ok {
			p.gateway.log.Error("published listener gives no TCP connections", "target", p.target)
			c.Close()
			return
		}
		p.wg.Go(func() { p.carry(tcp) })
	}
}

// carry connects one client. One that cannot be connected is reset, which is
// what it would have got from the service's own machine.
func (p *Publication) carry(client *net.TCPConn) {
	g := p.gateway
	ctx, cancel := context.WithTimeout(p.ctx, publishTimeout)
	defer cancel()
	done, ok := p.add(cancel)
	if !ok {
		reset(client)
		return
	}
	machine, err := p.dial(ctx, addrPortOf(client.RemoteAddr()))
	done()
	if err != nil {
		g.stats.failed.Add(1)
		g.log.Debug("published connection not made", "from", client.RemoteAddr(), "to", p.target, "error", err)
		reset(client)
		return
	}
	done, ok = p.add(func() { reset(client); machine.reset() })
	if !ok {
		reset(client)
		machine.reset()
		return
	}
	defer done()
	g.stats.published.Add(1)
	relay(hostConn{client}, machine)
}

func (p *Publication) dial(ctx context.Context, client netip.AddrPort) (*streamConn, error) {
	from, err := p.source(client)
	if err != nil {
		return nil, err
	}
	return p.gateway.dial(ctx, from, p.target)
}

// add registers a connection with the Publication and with the target's
// machine; it refuses when either is gone.
func (p *Publication) add(abort func()) (done func(), ok bool) {
	fl := &flow{abort}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		return nil, false
	}
	gone, ok := p.gateway.flows.add(&p.gateway.wg, p.target.Addr(), abort)
	if !ok {
		return nil, false
	}
	p.conns[fl] = struct{}{}
	return func() {
		p.mu.Lock()
		delete(p.conns, fl)
		p.mu.Unlock()
		gone()
	}, true
}

// source is the address a client's connection has in the network: its own if
// answers to it come back to the Gateway, which the target sends there only
// what is neither on one of our networks nor on no network at all.
func (p *Publication) source(client netip.AddrPort) (netip.AddrPort, error) {
	own, ok := p.gateway.ownFor(p.target.Addr())
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("the network has no address of the family of %s", p.target)
	}
	a := client.Addr().Unmap()
	if !p.keepSource || a.Is4() != own.Is4() || a.Zone() != "" || !a.IsGlobalUnicast() || p.gateway.cfg.InFabric(a) {
		return netip.AddrPortFrom(own, 0), nil
	}
	return netip.AddrPortFrom(a, client.Port()), nil
}

func addrPortOf(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.AddrPort()
	case *net.UDPAddr:
		return a.AddrPort()
	}
	return netip.AddrPort{}
}

// udpKey is a client and the address of the host it sent to, from which it
// expects the answers.
type udpKey struct {
	client netip.AddrPort
	host   string // as the kernel's control message puts it
}

type udpFlow struct {
	conn *gonet.UDPConn
	idle *idle
}

// receive hands each datagram to its client's flow. Writing into the stack
// does not block: a full queue drops.
func (p *Publication) receive() {
	buf := make([]byte, maxDatagram)
	oob := make([]byte, controlLen)
	for {
		n, oobn, _, client, err := p.packets.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			if p.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			continue // an ICMP error about an earlier answer
		}
		f := p.flow(udpKey{client, string(destinationOf(oob[:oobn]))})
		if f == nil {
			continue
		}
		f.idle.touch(false)
		if _, err := f.conn.Write(buf[:n]); err != nil {
			p.gateway.log.Debug("published datagram not sent", "from", client, "to", p.target, "error", err)
		}
	}
}

// flow is the client's flow, begun if need be; nil if that is not possible.
func (p *Publication) flow(key udpKey) *udpFlow {
	p.mu.Lock()
	f := p.flows[key]
	p.mu.Unlock()
	if f != nil {
		return f
	}
	g := p.gateway
	if g.udpOpen.Add(1) > maxUDPFlows {
		g.udpOpen.Add(-1)
		g.stats.refused.Add(1)
		return nil
	}
	from, err := p.source(key.client)
	var conn *gonet.UDPConn
	if err == nil {
		conn, err = g.dialUDP(from, p.target)
	}
	if err != nil {
		g.udpOpen.Add(-1)
		g.stats.failed.Add(1)
		g.log.Debug("published flow not begun", "from", key.client, "to", p.target, "error", err)
		return nil
	}
	end := sync.OnceFunc(func() { conn.Close() })
	done, ok := p.add(end)
	if !ok {
		g.udpOpen.Add(-1)
		end()
		return nil
	}
	g.stats.udpFlows.Add(1)
	f = &udpFlow{conn: conn, idle: newIdle(end)}
	p.mu.Lock()
	p.flows[key] = f
	p.mu.Unlock()
	p.wg.Go(func() {
		defer done()
		defer g.udpOpen.Add(-1)
		defer f.idle.stop()
		defer end()
		p.answer(key, f)
		p.mu.Lock()
		delete(p.flows, key)
		p.mu.Unlock()
	})
	return f
}

// answer sends what the service answers from the address the client sent to.
func (p *Publication) answer(key udpKey, f *udpFlow) {
	buf := datagrams.Get().(*[maxDatagram]byte)
	defer datagrams.Put(buf)
	for {
		n, err := f.conn.Read(buf[:])
		if err != nil {
			return // closed, idle, or nobody listens
		}
		f.idle.touch(true)
		if _, _, err := p.packets.WriteMsgUDPAddrPort(buf[:n], []byte(key.host), key.client); err != nil {
			p.gateway.log.Debug("published answer not sent", "to", key.client, "error", err)
		}
	}
}
