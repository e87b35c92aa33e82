package gateway

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/stackvm/stack/network/ethernet"
)

const (
	// pingIdle ends a ping whose answers stay away.
	pingIdle = 30 * time.Second

	// maxPings bounds those of a network at a time: each costs a host socket.
	maxPings = 256
)

// pingKey is one ping program's run towards one address.
type pingKey struct {
	from, to netip.Addr
	id       uint16
}

// pings are the echo requests on their way by the host's unprivileged ICMP
// sockets.
type pings struct {
	mu   sync.Mutex // guards open
	open map[pingKey]net.Conn
}

// ping passes an echo request on. The host's kernel gives it another
// identifier, the socket's own; the answer gets the machine's back. Where the
// host does not allow such sockets (net.ipv4.ping_group_range), the answer is
// that there is no way.
func (g *Gateway) ping(f ethernet.Frame, packet, echo []byte) {
	from, to := addressesOf(packet)
	if _, err := g.destination(from, netip.AddrPortFrom(to, 0)); err != nil {
		g.stats.refused.Add(1)
		g.noRoute(f, packet)
		return
	}
	key := pingKey{from, to, binary.BigEndian.Uint16(echo[4:])}
	g.pings.mu.Lock()
	c := g.pings.open[key]
	if c == nil && len(g.pings.open) < maxPings {
		c = g.startPingLocked(key, append(net.HardwareAddr(nil), f.Source()...))
	}
	g.pings.mu.Unlock()
	if c == nil {
		g.noRoute(f, packet)
		return
	}
	_ = c.SetReadDeadline(time.Now().Add(pingIdle))
	if _, err := c.Write(echo); err != nil && !errors.Is(err, net.ErrClosed) {
		g.stats.failed.Add(1)
		g.noRoute(f, packet)
	}
}

func (g *Gateway) noRoute(f ethernet.Frame, packet []byte) {
	if packet[0]>>4 == 4 {
		g.unreachable(f, packet, icmpUnreachable, icmpCodeNet)
	} else {
		g.unreachable(f, packet, icmp6Unreachable, icmp6CodeNoRoute)
	}
}

// startPingLocked opens the socket of a ping and reads its answers until it is
// idle. It returns nil where that is not possible.
func (g *Gateway) startPingLocked(key pingKey, machine net.HardwareAddr) net.Conn {
	c, err := dialPing(key.to)
	if err != nil {
		g.log.Debug("ping not sent", "to", key.to, "error", err)
		return nil
	}
	end := sync.OnceFunc(func() { c.Close() })
	done, ok := g.flows.add(&g.wg, key.from, end)
	if !ok {
		end()
		return nil
	}
	if g.pings.open == nil {
		g.pings.open = make(map[pingKey]net.Conn)
	}
	g.pings.open[key] = c
	go func() {
		defer done()
		defer func() {
			g.pings.mu.Lock()
			delete(g.pings.open, key)
			g.pings.mu.Unlock()
			end()
		}()
		buf := datagrams.Get().(*[maxDatagram]byte)
		defer datagrams.Put(buf)
		for {
			n, err := c.Read(buf[:])
			if errno := syscall.Errno(0); errors.As(err, &errno) && errno != 0 {
				continue // an ICMP error about an earlier request: the machine waits for the next answer
			}
			if err != nil {
				if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed) {
					g.log.Debug("ping ended", "to", key.to, "error", err)
				}
				return
			}
			message := buf[:n]
			reply := byte(icmpEchoReply)
			if !key.to.Is4() {
				reply = icmp6EchoReply
			}
			if n < 8 || message[0] != reply {
				continue
			}
			binary.BigEndian.PutUint16(message[4:], key.id)
			g.sendICMP(machine, key.to, key.from, message)
		}
	}()
	return c
}
