package dns

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Upstream resolves the names of the outside.
type Upstream interface {
	// Exchange returns the answer to a query, both whole messages in wire form
	// and the answer with the query's identifier. It returns by the end of ctx.
	Exchange(ctx context.Context, query []byte) ([]byte, error)
}

const (
	// hedge is how long one resolver is given before the next is asked too.
	hedge = time.Second

	// udpTimeout ends the wait for a datagram lost on its way; TCP is tried then.
	udpTimeout = 3 * time.Second

	resolverPort = 53
)

// Host asks the resolvers in the host's resolv.conf, looking for changes of
// the file at each query. The zero Host reads /etc/resolv.conf.
type Host struct {
	Path string // of the file; "" is /etc/resolv.conf
	Port uint16 // of the resolvers; 0 is 53

	mu      sync.Mutex // guards what follows
	stamp   fileStamp
	servers []netip.AddrPort
}

type fileStamp struct {
	modified time.Time
	size     int64
}

// Exchange implements Upstream. It asks the first resolver, after a second of
// silence or at a failure also the next, and takes the first good answer.
func (h *Host) Exchange(ctx context.Context, query []byte) ([]byte, error) {
	if len(query) < headerLen {
		return nil, errors.New("asking the host's resolvers: the message is no query")
	}
	servers, err := h.resolvers()
	if err != nil {
		return nil, fmt.Errorf("asking the host's resolvers: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	type result struct {
		reply []byte
		err   error
	}
	results := make(chan result, len(servers))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	timer := time.NewTimer(hedge)
	defer timer.Stop()
	next, pending := 0, 0
	ask := func() {
		if next == len(servers) {
			return
		}
		server := servers[next]
		next++
		pending++
		timer.Reset(hedge)
		wg.Go(func() {
			reply, err := exchange(ctx, server, query)
			results <- result{reply, err}
		})
	}
	ask()
	var second []byte // the best of the bad answers
	for pending > 0 {
		select {
		case <-timer.C:
			ask()
		case r := <-results:
			pending--
			switch {
			case r.err != nil:
				err = r.err
			case !failure(r.reply):
				return r.reply, nil
			default:
				second = r.reply
			}
			ask()
		}
	}
	if second != nil {
		return second, nil
	}
	return nil, fmt.Errorf("asking the host's resolvers: %w", err)
}

// failure tells that another resolver may do better.
func failure(reply []byte) bool {
	switch reply[3] & 0x0f {
	case dns.RcodeServerFailure, dns.RcodeRefused, dns.RcodeNotImplemented:
		return true
	}
	return false
}

// exchange asks one resolver over UDP, and over TCP if the answer was cut or
// did not come. The identifier on the wire is a random one.
func exchange(ctx context.Context, server netip.AddrPort, query []byte) ([]byte, error) {
	sent := append([]byte(nil), query...)
	if _, err := rand.Read(sent[:2]); err != nil {
		return nil, err
	}
	restore := func(reply []byte) []byte {
		copy(reply, query[:2])
		return reply
	}
	cut, err := exchangeUDP(ctx, server, sent)
	if err == nil && cut[2]&flagTC == 0 {
		return restore(cut), nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	reply, tcpErr := exchangeTCP(ctx, server, sent)
	switch {
	case tcpErr == nil:
		return restore(reply), nil
	case err == nil:
		return restore(cut), nil // the client sees that it is cut
	}
	return nil, err
}

func exchangeUDP(ctx context.Context, server netip.AddrPort, query []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, udpTimeout)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", server.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if _, err := c.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, maxMessage)
	for {
		n, err := c.Read(buf)
		if err != nil {
			if ctx.Err() != nil {
				err = fmt.Errorf("resolver %s: no answer: %w", server, context.Cause(ctx))
			}
			return nil, err
		}
		if answers(query, buf[:n]) {
			return append([]byte(nil), buf[:n]...), nil
		} // else a forged or late datagram
	}
}

func exchangeTCP(ctx context.Context, server netip.AddrPort, query []byte) ([]byte, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", server.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if err := writeStream(c, query); err != nil {
		return nil, err
	}
	reply, err := readStream(c)
	if err != nil {
		return nil, err
	}
	if !answers(query, reply) {
		return nil, fmt.Errorf("resolver %s: the answer is to another question", server)
	}
	return reply, nil
}

// resolvers are the servers of the file as it is now. A file that cannot be
// read while it is being replaced leaves the last ones in force.
func (h *Host) resolvers() ([]netip.AddrPort, error) {
	path := h.Path
	if path == "" {
		path = "/etc/resolv.conf"
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	info, err := os.Stat(path)
	switch {
	case err == nil:
		stamp := fileStamp{info.ModTime(), info.Size()}
		if h.servers != nil && stamp == h.stamp {
			return h.servers, nil
		}
		var data []byte
		if data, err = os.ReadFile(path); err == nil {
			h.servers, h.stamp = parseResolvConf(data, h.port()), stamp
		}
	case errors.Is(err, fs.ErrNotExist) && h.servers == nil:
		h.servers = parseResolvConf(nil, h.port())
	}
	if h.servers == nil {
		return nil, err
	}
	return h.servers, nil
}

func (h *Host) port() uint16 {
	if h.Port == 0 {
		return resolverPort
	}
	return h.Port
}

// Shared lets queries that are the same but for their identifier share one
// exchange. Besides the load, it breaks the loop in which a host's resolver is
// a published port of a machine that asks us: the second round waits for the
// first, and both end with its time.
func Shared(u Upstream) Upstream { return &shared{upstream: u, flights: make(map[string]*flight)} }

type shared struct {
	upstream Upstream

	mu      sync.Mutex // guards flights
	flights map[string]*flight
}

type flight struct {
	done  chan struct{}
	reply []byte
	err   error
}

func (s *shared) Exchange(ctx context.Context, query []byte) ([]byte, error) {
	if len(query) < headerLen {
		return nil, errors.New("the message is no query")
	}
	key := string(query[2:])
	s.mu.Lock()
	f := s.flights[key]
	first := f == nil
	if first {
		f = &flight{done: make(chan struct{})}
		s.flights[key] = f
	}
	s.mu.Unlock()
	if first {
		f.reply, f.err = s.upstream.Exchange(ctx, query)
		s.mu.Lock()
		delete(s.flights, key)
		s.mu.Unlock()
		close(f.done)
	} else {
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if f.err != nil {
		return nil, f.err
	}
	reply := append([]byte(nil), f.reply...)
	if len(reply) >= 2 {
		copy(reply, query[:2])
	}
	return reply, nil
}
