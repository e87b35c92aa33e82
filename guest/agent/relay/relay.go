//go:build linux

package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/stackvm/stack/guest/agent/netlink"
)

const (
	maxConns = 1024             // at once; a client beyond them is cut off
	maxFlows = 256              // UDP clients at once
	idle     = 90 * time.Second // of a UDP client; docker's proxy waits as long
	maxUDP   = 64 << 10
)

// Relay is one port that leads to another.
type Relay struct {
	// Port is where it takes connections or datagrams.
	Port uint16

	ns     *os.File // the caller's
	from   netip.Addr
	to     netip.AddrPort
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	conns map[io.Closer]struct{}          // the listening one too
	flows map[netip.AddrPort]*net.UDPConn // of UDP clients
}

// TCP leads connections that come from an address to some port of at, both of
// the namespace ns, to another place in it. ns stays open until Close.
func TCP(ns *os.File, at, from netip.Addr, to netip.AddrPort) (*Relay, error) {
	r := newRelay(ns, from, to)
	var l *net.TCPListener
	err := netlink.In(ns, func() (err error) {
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(at, 0)))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("relaying to %s: %w", to, err)
	}
	r.Port = uint16(l.Addr().(*net.TCPAddr).Port)
	r.conns[l] = struct{}{}
	r.wg.Go(func() { r.accept(l) })
	return r, nil
}

// UDP is TCP for datagrams.
func UDP(ns *os.File, at, from netip.Addr, to netip.AddrPort) (*Relay, error) {
	r := newRelay(ns, from, to)
	var c *net.UDPConn
	err := netlink.In(ns, func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 0)))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("relaying to %s/udp: %w", to, err)
	}
	r.Port = uint16(c.LocalAddr().(*net.UDPAddr).Port)
	r.conns[c] = struct{}{}
	r.wg.Go(func() { r.receive(c) })
	return r, nil
}

func newRelay(ns *os.File, from netip.Addr, to netip.AddrPort) *Relay {
	r := &Relay{ns: ns, from: from, to: to, conns: make(map[io.Closer]struct{}), flows: make(map[netip.AddrPort]*net.UDPConn)}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Close ends the relay and every connection through it.
func (r *Relay) Close() {
	r.cancel()
	r.mu.Lock()
	for c := range r.conns {
		c.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
}

// hold registers a connection for Close; one too many, or too late, is closed.
func (r *Relay) hold(c io.Closer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil || len(r.conns) > maxConns {
		c.Close()
		return false
	}
	r.conns[c] = struct{}{}
	return true
}

func (r *Relay) letGo(c io.Closer) {
	c.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
}

func (r *Relay) dial(network string) (c net.Conn, err error) {
	err = netlink.In(r.ns, func() (err error) {
		var d net.Dialer
		c, err = d.DialContext(r.ctx, network, r.to.String())
		return err
	})
	return c, err
}

func (r *Relay) accept(l *net.TCPListener) {
	for {
		c, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // the client went away
		}
		if c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap() != r.from || !r.hold(c) {
			c.Close()
			continue
		}
		r.wg.Go(func() {
			defer r.letGo(c)
			r.carry(c)
		})
	}
}

// carry copies both ways until both sides said all, or one broke off.
func (r *Relay) carry(client *net.TCPConn) {
	c, err := r.dial("tcp")
	if err != nil {
		_ = client.SetLinger(0) // refused, as it would be without a relay
		return
	}
	if !r.hold(c) {
		return
	}
	defer r.letGo(c)
	server := c.(*net.TCPConn)
	var wg sync.WaitGroup
	pipe := func(to, from *net.TCPConn) {
		if _, err := io.Copy(to, from); err != nil {
			_ = to.SetLinger(0)
			to.Close()
			from.Close()
			return
		}
		_ = to.CloseWrite()
	}
	wg.Go(func() { pipe(server, client) })
	pipe(client, server)
	wg.Wait()
}

func (r *Relay) receive(c *net.UDPConn) {
	buf := make([]byte, maxUDP)
	for {
		n, client, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || client.Addr().Unmap() != r.from {
			continue
		}
		if flow := r.flow(c, client); flow != nil {
			flow.SetReadDeadline(time.Now().Add(idle))
			_, _ = flow.Write(buf[:n]) // what is lost is lost, as on any wire
		}
	}
}

// flow is a client's socket to the place led to, nil when there can be none.
func (r *Relay) flow(c *net.UDPConn, client netip.AddrPort) *net.UDPConn {
	r.mu.Lock()
	flow, many := r.flows[client], len(r.flows) >= maxFlows
	r.mu.Unlock()
	if flow != nil || many {
		return flow
	}
	conn, err := r.dial("udp")
	if err != nil || !r.hold(conn) {
		return nil
	}
	flow = conn.(*net.UDPConn)
	flow.SetReadDeadline(time.Now().Add(idle))
	r.mu.Lock()
	r.flows[client] = flow
	r.mu.Unlock()
	r.wg.Go(func() {
		defer r.letGo(flow)
		buf := make([]byte, maxUDP)
		for {
			n, err := flow.Read(buf)
			if err != nil { // idle, closed, or nobody listens any more
				break
			}
			flow.SetReadDeadline(time.Now().Add(idle))
			_, _ = c.WriteToUDPAddrPort(buf[:n], client)
		}
		r.mu.Lock()
		delete(r.flows, client)
		r.mu.Unlock()
	})
	return flow
}
