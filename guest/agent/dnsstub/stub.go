//go:build linux

package dnsstub

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/stackvm/stack/guest/agent/netlink"
)

// Addr is where containers look for the stub.
var Addr = netip.AddrFrom4([4]byte{127, 0, 0, 11})

const (
	port       = 53
	retryEvery = 300 * time.Millisecond
	giveUp     = 4 * time.Second // before glibc's 5 s
	maxQueries = 256
	headerLen  = 12
	maxUDP     = 4096 // what EDNS clients announce, with room
)

// Stub relays the queries of one network namespace.
type Stub struct {
	ns     *os.File
	udp    *net.UDPConn
	tcp    *net.TCPListener
	cancel context.CancelFunc
	wg     sync.WaitGroup
	slots  chan struct{} // one per query under way

	mu        sync.Mutex
	resolvers []netip.Addr // of the networks
	servers   []netip.Addr // of the user
	upstreams map[netip.Addr]*upstream
	conns     map[net.Conn]struct{}
	closed    bool
}

// New starts a stub in the namespace ns, whose loopback interface is up.
func New(ns *os.File, servers []netip.Addr) (*Stub, error) {
	s := &Stub{
		ns: ns, servers: servers,
		slots:     make(chan struct{}, maxQueries),
		upstreams: make(map[netip.Addr]*upstream),
		conns:     make(map[net.Conn]struct{}),
	}
	err := netlink.In(ns, func() (err error) {
		any := netip.AddrPortFrom(Addr, 0)
		if s.udp, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(any)); err != nil {
			return err
		}
		s.tcp, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(any))
		return err
	})
	if err == nil {
		err = netlink.Redirect(ns, Addr, port, localPort(s.udp.LocalAddr()), localPort(s.tcp.Addr()))
	}
	if err != nil {
		if s.udp != nil {
			s.udp.Close()
		}
		if s.tcp != nil {
			s.tcp.Close()
		}
		return nil, fmt.Errorf("starting the DNS stub: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.wg.Go(func() { s.serveUDP(ctx) })
	s.wg.Go(func() { s.serveTCP(ctx) })
	return s, nil
}

func localPort(a net.Addr) uint16 {
	p, _ := netip.ParseAddrPort(a.String())
	return p.Port()
}

// SetResolvers replaces the networks' resolvers.
func (s *Stub) SetResolvers(resolvers []netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resolvers = slices.Clone(resolvers)
}

// Close ends the stub and waits for its goroutines.
func (s *Stub) Close() error {
	s.cancel()
	s.udp.Close()
	s.tcp.Close()
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
	for _, u := range s.upstreams {
		u.conn.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

func (s *Stub) config() (resolvers, servers []netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.resolvers, s.servers
}

func (s *Stub) serveUDP(ctx context.Context) {
	buf := make([]byte, maxUDP)
	for {
		n, client, err := s.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		if n < headerLen {
			continue
		}
		select {
		case s.slots <- struct{}{}:
		default:
			continue // the client asks again
		}
		query := slices.Clone(buf[:n])
		s.wg.Go(func() {
			defer func() { <-s.slots }()
			ctx, cancel := context.WithTimeout(ctx, giveUp)
			defer cancel()
			_, _ = s.udp.WriteToUDPAddrPort(s.answer(ctx, query, s.exchangeUDP), client)
		})
	}
}

func (s *Stub) serveTCP(ctx context.Context) {
	for {
		c, err := s.tcp.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		if !s.hold(c) {
			continue
		}
		s.wg.Go(func() {
			defer s.letGo(c)
			for {
				c.SetReadDeadline(time.Now().Add(idle))
				query, err := readStream(c)
				if err != nil {
					return
				}
				select {
				case s.slots <- struct{}{}:
				case <-ctx.Done():
					return
				}
				queryCtx, cancel := context.WithTimeout(ctx, giveUp)
				reply := s.answer(queryCtx, query, s.exchangeTCP)
				cancel()
				<-s.slots
				if writeStream(c, reply) != nil {
					return
				}
			}
		})
	}
}

// idle is how long a TCP client may say nothing.
const idle = 10 * time.Second

// hold registers a connection for Close, or closes it.
func (s *Stub) hold(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.conns) >= maxQueries {
		c.Close()
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Stub) letGo(c net.Conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	c.Close()
}

// exchange asks one server until it answers or ctx ends.
type exchange func(ctx context.Context, server netip.Addr, query []byte) ([]byte, error)

// Response codes.
const (
	rcodeSuccess  = 0
	rcodeServFail = 2
	rcodeNXDomain = 3
)

// answer returns the reply to query, whatever happens.
func (s *Stub) answer(ctx context.Context, query []byte, ask exchange) []byte {
	resolvers, servers := s.config()
	asked := query
	if len(servers) > 0 {
		asked = slices.Clone(query)
		asked[2] &^= 1 // recursion desired
	}
	reply := race(ctx, resolvers, asked, ask)
	if len(servers) > 0 {
		if !final(reply, query) {
			if r := inTurn(ctx, servers, query, ask); r != nil {
				reply = r
			}
		}
		if len(reply) >= headerLen {
			reply[2] |= query[2] & 1
		}
	}
	if reply == nil {
		reply = failure(query)
	}
	return reply
}

// final reports whether a network's resolver has settled the query: it knows the
// name, or nobody outside can.
func final(reply, query []byte) bool {
	switch {
	case reply == nil:
		return false
	case rcode(reply) == rcodeSuccess:
		// A referral is not an answer.
		return binary.BigEndian.Uint16(reply[6:]) > 0 || binary.BigEndian.Uint16(reply[8:]) == 0
	case rcode(reply) == rcodeNXDomain:
		return oneLabel(query)
	}
	return false
}

// oneLabel reports whether the name asked for has a single label, as a service's.
func oneLabel(query []byte) bool {
	q := query[headerLen:]
	return len(q) > 0 && q[0] > 0 && q[0] < 64 && len(q) > int(q[0])+1 && q[q[0]+1] == 0
}

func rcode(m []byte) byte { return m[3] & 0xf }

// race asks all servers at once. The first success is the answer; failing that,
// "no such name" is better than any other failure, and any better than none.
func race(ctx context.Context, servers []netip.Addr, query []byte, ask exchange) []byte {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	replies := make(chan []byte, len(servers))
	for _, server := range servers {
		go func() { // ends soon after ctx
			reply, _ := ask(ctx, server, query)
			replies <- reply
		}()
	}
	var best []byte
	for range servers {
		reply := <-replies
		switch {
		case reply == nil:
		case rcode(reply) == rcodeSuccess:
			return reply
		case best == nil || rcode(reply) == rcodeNXDomain:
			best = reply
		}
	}
	return best
}

// inTurn asks servers one after the other, as docker does, until one answers.
func inTurn(ctx context.Context, servers []netip.Addr, query []byte, ask exchange) []byte {
	var last []byte
	for i, server := range servers {
		left := len(servers) - i
		deadline, _ := ctx.Deadline()
		each, cancel := context.WithTimeout(ctx, time.Until(deadline)/time.Duration(left))
		reply, err := ask(each, server, query)
		cancel()
		if err != nil {
			continue
		}
		last = reply
		if rcode(reply) == rcodeSuccess || rcode(reply) == rcodeNXDomain {
			return reply
		}
	}
	return last
}

// failure is the reply of one who could not find out: the query, with the bits
// of a failed response, and without what it carried beside its question.
func failure(query []byte) []byte {
	reply := slices.Clone(query)
	reply[2] |= 0x80
	reply[3] = reply[3]&0xf0 | 0x80 | rcodeServFail
	return reply
}

func readStream(r io.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint16(head[:])
	if n < headerLen {
		return nil, errors.New("short message")
	}
	m := make([]byte, n)
	_, err := io.ReadFull(r, m)
	return m, err
}

func writeStream(w io.Writer, m []byte) error {
	if len(m) > 1<<16-1 {
		return errors.New("long message")
	}
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...))
	return err
}
