package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// TTL is how long, in seconds, a client may keep the address of an
	// endpoint. Replicas come and go, and asking again costs a frame; docker
	// says 600, which is felt when a replica is replaced.
	TTL = 1

	// queryTimeout bounds the work on one query; resolvers in clients give up
	// after 5 s as well (resolv.conf(5), timeout).
	queryTimeout = 5 * time.Second

	// maxInFlight bounds the queries of one network being relayed at a time.
	maxInFlight = 512

	// maxStreams bounds its TCP connections, and streamIdle their silence
	// (RFC 7766 asks for seconds).
	maxStreams = 64
	streamIdle = 10 * time.Second

	maxMessage = 65535
)

// Zone is what a Server knows by itself. Names are lower case without the
// final dot. Its methods are called from many goroutines.
type Zone interface {
	// Addrs are the addresses that name stands for when client asks; known
	// tells an unknown name from one that has no address.
	Addrs(client netip.Addr, name string) (addrs []netip.Addr, known bool)

	// Name is the name of the endpoint at addr, "" if it has none; owned tells
	// whether addr lies in a network, whose addresses nobody else knows.
	Name(client, addr netip.Addr) (name string, owned bool)

	// Forwards tells whether client may learn names of the outside.
	Forwards(client netip.Addr) bool
}

// Stats count what a Server did.
type Stats struct {
	Answered  uint64 // from the Zone, "no such name" included
	Forwarded uint64 // by the host's resolvers
	Failed    uint64 // no resolver answered
	Refused   uint64 // malformed, or more at a time than allowed
}

// Server answers queries on the sockets given to Serve.
type Server struct {
	zone     Zone
	upstream Upstream
	log      *slog.Logger

	ctx      context.Context // ends with Close: what queries in flight wait on
	cancel   context.CancelFunc
	inFlight chan struct{}
	streams  chan struct{}
	wg       sync.WaitGroup

	rotation                             atomic.Uint32 // shifts the order of several addresses
	answered, forwarded, failed, refused atomic.Uint64

	mu      sync.Mutex // guards what follows
	sockets map[io.Closer]struct{}
	closed  bool
}

// NewServer makes a Server of zone, relaying to upstream. A nil log discards.
func NewServer(zone Zone, upstream Upstream, log *slog.Logger) *Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Server{
		zone: zone, upstream: upstream, log: log, ctx: ctx, cancel: cancel,
		inFlight: make(chan struct{}, maxInFlight), streams: make(chan struct{}, maxStreams),
		sockets: make(map[io.Closer]struct{}),
	}
}

// Serve starts to answer on a datagram socket and a listener, and returns.
// Both are the Server's from then on, and closed with it; either may be nil.
func (s *Server) Serve(packets net.PacketConn, streams net.Listener) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	if packets != nil {
		s.sockets[packets] = struct{}{}
		s.wg.Go(func() { s.servePackets(packets) })
	}
	if streams != nil {
		s.sockets[streams] = struct{}{}
		s.wg.Go(func() { s.serveStreams(streams) })
	}
	return nil
}

// Close closes the sockets, cancels the queries in flight, and waits for all.
func (s *Server) Close() error {
	s.cancel()
	s.mu.Lock()
	s.closed = true
	for c := range s.sockets {
		c.Close()
	}
	s.sockets = nil
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

// Stats reads the counters.
func (s *Server) Stats() Stats {
	return Stats{Answered: s.answered.Load(), Forwarded: s.forwarded.Load(), Failed: s.failed.Load(), Refused: s.refused.Load()}
}

func (s *Server) servePackets(c net.PacketConn) {
	buf := make([]byte, maxMessage)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			if s.ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				s.log.Error("name service ended", "error", err)
			}
			return
		}
		udp, ok := from.(*net.UDPAddr)
		if !ok || !s.acquire() {
			s.refused.Add(1)
			continue // the client asks again
		}
		query, client := append([]byte(nil), buf[:n]...), udp.AddrPort().Addr().Unmap()
		s.wg.Go(func() {
			defer s.release()
			if reply := s.reply(query, client, false); reply != nil {
				if _, err := c.WriteTo(reply, from); err != nil {
					s.log.Debug("name answer not sent", "to", from, "error", err)
				}
			}
		})
	}
}

func (s *Server) acquire() bool {
	select {
	case s.inFlight <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s *Server) release() { <-s.inFlight }

func (s *Server) serveStreams(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			if s.ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				s.log.Error("name service over TCP ended", "error", err)
			}
			return
		}
		select {
		case s.streams <- struct{}{}:
		default:
			s.refused.Add(1)
			c.Close()
			continue
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			c.Close()
			<-s.streams
			return
		}
		s.sockets[c] = struct{}{}
		s.wg.Go(func() { s.serveStream(c) })
		s.mu.Unlock()
	}
}

// serveStream answers the queries of one connection, one after the other.
func (s *Server) serveStream(c net.Conn) {
	defer func() {
		c.Close()
		s.mu.Lock()
		delete(s.sockets, c)
		s.mu.Unlock()
		<-s.streams
	}()
	tcp, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return
	}
	client := tcp.AddrPort().Addr().Unmap()
	for {
		if err := c.SetDeadline(time.Now().Add(streamIdle)); err != nil {
			return
		}
		query, err := readStream(c)
		if err != nil {
			return
		}
		if !s.acquire() {
			s.refused.Add(1)
			return
		}
		reply := s.reply(query, client, true)
		s.release()
		if reply == nil {
			return
		}
		if err := writeStream(c, reply); err != nil {
			return
		}
	}
}

// readStream and writeStream carry messages on a stream, each after its
// length (RFC 1035, 4.2.2).
func readStream(r io.Reader) ([]byte, error) {
	var n [2]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(n[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

func writeStream(w io.Writer, b []byte) error {
	if len(b) > maxMessage {
		return errors.New("message too long")
	}
	_, err := w.Write(append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(b)), uint16(len(b))), b...))
	return err
}
