package gateway

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// dialTimeout bounds a connection attempt on the host; a machine's own
	// kernel gives up after about 130 s (tcp_syn_retries), people earlier.
	dialTimeout = 60 * time.Second

	// maxUDPFlows bounds the flows of a network: each costs a host socket.
	maxUDPFlows = 4096

	// A flow ends after silence: sooner while nothing has come back (Linux's
	// nf_conntrack_udp_timeout and nf_conntrack_udp_timeout_stream).
	udpIdle         = 30 * time.Second
	udpIdleAnswered = 120 * time.Second
)

// egressTCP carries one connection of a machine, whose SYN was received: the
// host's side is dialled first, and only its success is answered.
func (g *Gateway) egressTCP(r *tcp.ForwarderRequest) {
	id := r.ID()
	from := netip.AddrPortFrom(fromAddress(id.RemoteAddress), id.RemotePort)
	dst := netip.AddrPortFrom(fromAddress(id.LocalAddress), id.LocalPort)
	to, err := g.destination(from.Addr(), dst)
	if err != nil {
		g.stats.refused.Add(1)
		g.log.Debug("connection refused", "from", from, "to", dst, "reason", err)
		r.Complete(true)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	done, ok := g.flows.dial(&g.wg, from.Addr(), cancel)
	if !ok {
		g.stats.refused.Add(1)
		r.Complete(false) // the machine's kernel tries again
		return
	}
	host, err := dialTCP(ctx, to)
	done()
	if err != nil {
		g.stats.failed.Add(1)
		g.log.Debug("connection not made", "from", from, "to", dst, "error", err)
		r.Complete(true)
		return
	}
	var wq waiter.Queue
	ep, terr := r.CreateEndpoint(&wq)
	r.Complete(terr != nil)
	if terr != nil {
		reset(host)
		return
	}
	machine := &streamConn{TCPConn: gonet.NewTCPConn(&wq, ep), ep: ep}
	done, ok = g.flows.add(&g.wg, from.Addr(), func() { reset(host); machine.reset() })
	if !ok {
		reset(host)
		machine.reset()
		return
	}
	defer done()
	g.stats.connections.Add(1)
	relay(hostConn{host}, machine)
}

// dialTCP connects to the first of to that accepts.
func dialTCP(ctx context.Context, to []netip.AddrPort) (*net.TCPConn, error) {
	var d net.Dialer
	var first error
	for _, dst := range to {
		c, err := d.DialContext(ctx, "tcp", dst.String())
		if err == nil {
			return c.(*net.TCPConn), nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// streamConn is a TCP connection in the stack.
type streamConn struct {
	*gonet.TCPConn
	ep tcpip.Endpoint
}

func (c *streamConn) reset() { c.ep.Abort() }

// hostConn is a TCP connection of the host.
type hostConn struct{ *net.TCPConn }

func (c hostConn) reset() { reset(c.TCPConn) }

func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	c.Close()
}

// egressUDP starts a flow with its first datagram. It is called while a frame
// is being received, and does not wait. Not handled means that the stack
// answers port unreachable.
func (g *Gateway) egressUDP(r *udp.ForwarderRequest) (handled bool) {
	id := r.ID()
	from := netip.AddrPortFrom(fromAddress(id.RemoteAddress), id.RemotePort)
	dst := netip.AddrPortFrom(fromAddress(id.LocalAddress), id.LocalPort)
	to, err := g.destination(from.Addr(), dst)
	if err != nil {
		g.stats.refused.Add(1)
		g.log.Debug("datagram refused", "from", from, "to", dst, "reason", err)
		return false
	}
	if g.udpOpen.Add(1) > maxUDPFlows {
		g.udpOpen.Add(-1)
		g.stats.refused.Add(1)
		return false
	}
	host, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to[0]))
	if err != nil {
		g.udpOpen.Add(-1)
		g.stats.failed.Add(1)
		return false
	}
	var wq waiter.Queue
	ep, terr := r.CreateEndpoint(&wq)
	if terr != nil {
		g.udpOpen.Add(-1)
		host.Close()
		return true
	}
	machine := gonet.NewUDPConn(&wq, ep)
	end := sync.OnceFunc(func() { host.Close(); machine.Close() })
	done, ok := g.flows.add(&g.wg, from.Addr(), end)
	if !ok {
		g.udpOpen.Add(-1)
		end()
		return true
	}
	g.stats.udpFlows.Add(1)
	go func() {
		defer done()
		defer g.udpOpen.Add(-1)
		if err := relayDatagrams(machine, host, end); errors.Is(err, errUnreachable) {
			g.unreachableUDP(from, dst)
		}
	}()
	return true
}

// dial opens a TCP connection in the network, from an address that need not
// be the Gateway's own. Its errors are those of the far side's answer.
func (g *Gateway) dial(ctx context.Context, from, to netip.AddrPort) (*streamConn, error) {
	var wq waiter.Queue
	ep, err := g.stack.NewEndpoint(tcp.ProtocolNumber, protocolOf(to.Addr()), &wq)
	if err != nil {
		return nil, stackError(err)
	}
	entry, connected := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	if err := bind(ep, from); err != nil {
		ep.Close()
		return nil, stackError(err)
	}
	err = ep.Connect(toFull(to))
	if _, started := err.(*tcpip.ErrConnectStarted); started {
		select {
		case <-connected:
			err = ep.LastError()
		case <-ctx.Done():
			ep.Abort()
			return nil, ctx.Err()
		}
	}
	if err != nil {
		ep.Close()
		return nil, stackError(err)
	}
	return &streamConn{TCPConn: gonet.NewTCPConn(&wq, ep), ep: ep}, nil
}

// bind binds to from, or to another port where that one is taken.
func bind(ep tcpip.Endpoint, from netip.AddrPort) tcpip.Error {
	full := toFull(from)
	err := ep.Bind(full)
	if _, taken := err.(*tcpip.ErrPortInUse); taken && full.Port != 0 {
		full.Port = 0
		err = ep.Bind(full)
	}
	return err
}

// dialUDP is dial for datagrams; nothing is sent.
func (g *Gateway) dialUDP(from, to netip.AddrPort) (*gonet.UDPConn, error) {
	var wq waiter.Queue
	ep, err := g.stack.NewEndpoint(udp.ProtocolNumber, protocolOf(to.Addr()), &wq)
	if err != nil {
		return nil, stackError(err)
	}
	if err = bind(ep, from); err == nil {
		err = ep.Connect(toFull(to))
	}
	if err != nil {
		ep.Close()
		return nil, stackError(err)
	}
	return gonet.NewUDPConn(&wq, ep), nil
}

func stackError(err tcpip.Error) error { return errors.New(err.String()) }
