//go:build linux

package dnsstub

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/stackvm/stack/guest/agent/netlink"
)

// upstream is one server over UDP. A single socket serves all queries to it,
// told apart by numbers of our own.
type upstream struct {
	conn *net.UDPConn

	mu      sync.Mutex
	waiting map[uint16]chan<- []byte
}

// upstreamOf returns the server's socket, opened in the container's namespace
// when it is first asked.
func (s *Stub) upstreamOf(server netip.Addr) (*upstream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, net.ErrClosed
	}
	if u := s.upstreams[server]; u != nil {
		return u, nil
	}
	u := &upstream{waiting: make(map[uint16]chan<- []byte)}
	err := netlink.In(s.ns, func() (err error) {
		u.conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(server, port)))
		return err
	})
	if err != nil {
		return nil, err
	}
	s.upstreams[server] = u
	s.wg.Go(func() {
		u.read()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.upstreams, server)
	})
	return u, nil
}

func (u *upstream) read() {
	defer u.conn.Close()
	buf := make([]byte, maxUDP)
	for {
		n, err := u.conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < headerLen {
			continue // nobody listens there at the moment: it is asked again
		}
		id := binary.BigEndian.Uint16(buf)
		u.mu.Lock()
		waiting := u.waiting[id]
		delete(u.waiting, id)
		u.mu.Unlock()
		if waiting != nil {
			waiting <- slices.Clone(buf[:n]) // has room for one
		}
	}
}

// register numbers a query.
func (u *upstream) register() (uint16, <-chan []byte, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.waiting) > 4*maxQueries {
		return 0, nil, errors.New("too many queries")
	}
	for {
		id := uint16(rand.Uint32())
		if _, taken := u.waiting[id]; !taken {
			c := make(chan []byte, 1)
			u.waiting[id] = c
			return id, c, nil
		}
	}
}

func (u *upstream) unregister(id uint16) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.waiting, id)
}

func (s *Stub) exchangeUDP(ctx context.Context, server netip.Addr, query []byte) ([]byte, error) {
	u, err := s.upstreamOf(server)
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", server, err)
	}
	// One number for all attempts: the answer to the first may be the one that comes.
	id, reply, err := u.register()
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", server, err)
	}
	defer u.unregister(id)
	message := slices.Clone(query)
	binary.BigEndian.PutUint16(message, id)
	retry := time.NewTicker(retryEvery)
	defer retry.Stop()
	for {
		_, _ = u.conn.Write(message) // an error is as a lost packet
		select {
		case r := <-reply:
			copy(r, query[:2])
			return r, nil
		case <-retry.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("asking %s: %w", server, ctx.Err())
		}
	}
}

func (s *Stub) exchangeTCP(ctx context.Context, server netip.Addr, query []byte) ([]byte, error) {
	retry := time.NewTicker(retryEvery)
	defer retry.Stop()
	for {
		reply, err := s.onceTCP(ctx, server, query)
		if err == nil {
			return reply, nil
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("asking %s: %w", server, err)
		}
	}
}

func (s *Stub) onceTCP(ctx context.Context, server netip.Addr, query []byte) ([]byte, error) {
	var conn net.Conn
	if err := netlink.In(s.ns, func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", netip.AddrPortFrom(server, port).String())
		return err
	}); err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	if err := writeStream(conn, query); err != nil {
		return nil, err
	}
	reply, err := readStream(conn)
	if err == nil && (reply[0] != query[0] || reply[1] != query[1]) {
		err = errors.New("reply to another query")
	}
	return reply, err
}
