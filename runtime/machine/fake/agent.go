package fake

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/stackvm/stack/guest/wire"
)

// errGreeted ends a session whose port carried the next greeting.
var errGreeted = errors.New("greeted again")

// session is a port between one greeting and the next. What it reads passes
// through until the key goes by; what it writes stops with Close, so that
// nothing of it follows the next greeting's echo.
type session struct {
	conn net.Conn
	key  wire.Key
	in   *bufio.Reader
	tail []byte // the last bytes read: less than a key, or the key that ended the session

	mu     sync.Mutex
	closed bool
}

// await answers the next greeting on a port. The last session, when there was
// one, may have read a part of it, at most the whole key.
func await(conn net.Conn, key wire.Key, in *bufio.Reader, last *session) (*session, error) {
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	var r io.Reader = in
	if last != nil {
		r = io.MultiReader(bytes.NewReader(last.tail), in)
	}
	if err := wire.Answer(readWriter{r, conn}, key); err != nil {
		return nil, err
	}
	return &session{conn: conn, key: key, in: in}, nil
}

type readWriter struct {
	io.Reader
	io.Writer
}

func (s *session) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if len(s.tail) == len(s.key) { // readers read on after an error
		return 0, errGreeted
	}
	if _, err := s.in.Peek(1); err != nil {
		return 0, err
	}
	got, _ := s.in.Peek(min(len(b), s.in.Buffered()))
	window := append(s.tail, got...)
	if i := bytes.Index(window, s.key[:]); i >= 0 {
		_, _ = s.in.Discard(i + len(s.key) - len(s.tail))
		s.tail = s.key[:]
		return 0, errGreeted
	}
	n := copy(b, got)
	_, _ = s.in.Discard(n)
	s.tail = append([]byte(nil), window[max(0, len(window)-len(s.key)+1):]...)
	return n, nil
}

func (s *session) Write(b []byte) (int, error) {
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return 0, net.ErrClosed
	}
	return s.conn.Write(b)
}

func (s *session) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.conn.SetDeadline(past)
}

// serveControl serves one session after the other until the machine ends.
func (g *Guest) serveControl() {
	in := bufio.NewReaderSize(g.control, 64<<10)
	var s *session
	for {
		var err error
		if s, err = await(g.control, g.config.Key, in, s); err != nil {
			return
		}
		cfg := yamux.DefaultConfig()
		cfg.EnableKeepAlive = false
		cfg.ConnectionWriteTimeout = time.Hour
		cfg.LogOutput, cfg.Logger = nil, log.New(io.Discard, "", 0)
		mux, err := yamux.Server(s, cfg)
		if err != nil {
			return
		}
		var streams sync.WaitGroup
		stop := make(chan struct{})
		g.wg.Go(func() {
			select {
			case <-g.ctx.Done():
				mux.Close()
			case <-stop:
			}
		})
		for {
			stream, err := mux.AcceptStream()
			if err != nil {
				break
			}
			streams.Go(func() { g.serveStream(stream) })
		}
		mux.Close()
		close(stop)
		streams.Wait()
	}
}

// serveStream answers the one request of a stream.
func (g *Guest) serveStream(s *yamux.Stream) {
	defer s.Close()
	var req wire.Request
	if err := wire.ReadMessage(s, &req); err != nil {
		return
	}
	if req.Op == wire.OpAccept { // which is answered when there is something to say
		g.accept(s, req)
		return
	}
	result, after, err := g.handle(req)
	var reply wire.Reply
	if err != nil {
		var fault *wire.Error
		if !errors.As(err, &fault) {
			fault = &wire.Error{Code: wire.CodeInvalid, Message: err.Error()}
		}
		reply.Error = fault
	} else if result != nil {
		if reply.Body, err = json.Marshal(result); err != nil {
			return
		}
	}
	if wire.WriteMessage(s, reply) == nil && reply.Error == nil && after != nil {
		after(s)
	}
}

func fault(code wire.ErrorCode, format string, args ...any) error {
	return &wire.Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// handle carries out one request. after, when not nil, has the stream once the
// reply is out.
func (g *Guest) handle(req wire.Request) (result any, after func(*yamux.Stream), err error) {
	switch req.Op {
	case wire.OpHello:
		return body(req, g.doHello)
	case wire.OpEvents:
		return nil, g.serveEvents, nil
	case wire.OpShutdown:
		var s wire.Shutdown
		if err := decode(req, &s); err != nil {
			return nil, nil, err
		}
		return g.shutdown(s), g.farewell, nil
	case wire.OpSync:
		return nil, nil, nil
	case wire.OpStats:
		return g.stats(), nil, nil
	case wire.OpCreate:
		return body(req, g.create)
	case wire.OpStart:
		return body(req, g.start)
	case wire.OpStop:
		return body(req, g.stop)
	case wire.OpSignal:
		return body(req, g.signal)
	case wire.OpPause:
		return body(req, func(ref wire.ContainerRef) (any, error) { return nil, g.setPaused(ref.ID, true) })
	case wire.OpUnpause:
		return body(req, func(ref wire.ContainerRef) (any, error) { return nil, g.setPaused(ref.ID, false) })
	case wire.OpRemove:
		return body(req, g.removeContainer)
	case wire.OpTop:
		return body(req, g.top)
	case wire.OpAttach:
		return g.attach(req)
	case wire.OpExec:
		return g.exec(req)
	case wire.OpPut:
		return g.put(req)
	case wire.OpGet:
		return g.get(req)
	case wire.OpStat:
		return body(req, g.stat)
	case wire.OpVolumePut:
		return g.putVolume(req)
	case wire.OpVolumeGet:
		return g.getVolume(req)
	case wire.OpServe:
		return body(req, g.serve)
	case wire.OpConnect:
		return body(req, g.connect)
	case wire.OpCut:
		return body(req, g.disconnect)
	case wire.OpHosts:
		return body(req, g.setHosts)
	case wire.OpInvalidate:
		return body(req, func(c wire.ShareChanges) (any, error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.changes = append(g.changes, c)
			return nil, nil
		})
	}
	return nil, nil, fault(wire.CodeUnknownOp, "unknown operation %q", req.Op)
}

func decode(req wire.Request, v any) error {
	if err := json.Unmarshal(req.Body, v); err != nil {
		return fault(wire.CodeInvalid, "%s: %v", req.Op, err)
	}
	return nil
}

func body[T any](req wire.Request, do func(T) (any, error)) (any, func(*yamux.Stream), error) {
	var v T
	if err := decode(req, &v); err != nil {
		return nil, nil, err
	}
	result, err := do(v)
	return result, nil, err
}

func (g *Guest) doHello(h wire.Hello) (any, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(h.Entropy) < 32 {
		return nil, fault(wire.CodeInvalid, "hello: %d bytes of entropy, want 32", len(h.Entropy))
	}
	g.hello = h
	return wire.HelloReply{
		Protocol: wire.Protocol, Agent: "fake", Kernel: "0.0-fake", BootID: g.boot,
		MemoryKiB: int64(g.config.MemoryMiB) << 10, Uptime: int64(time.Since(g.record.Started)),
	}, nil
}

// serveEvents sends a snapshot, then changes, until the stream or machine ends.
func (g *Guest) serveEvents(s *yamux.Stream) {
	ch := make(chan wire.Event, 1024)
	g.mu.Lock()
	var snapshot []wire.Event
	for _, id := range g.order {
		snapshot = append(snapshot, g.containers[id].snapshotLocked()...)
	}
	g.watchers[ch] = struct{}{}
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		delete(g.watchers, ch)
		g.mu.Unlock()
	}()
	for _, e := range append(snapshot, wire.Event{Kind: wire.EventReady, At: time.Now()}) {
		if wire.WriteMessage(s, e) != nil {
			return
		}
	}
	gone := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // the host's closing is an end of file
		_, _ = io.Copy(io.Discard, s)
		close(gone)
	})
	defer wg.Wait()
	defer s.SetReadDeadline(past)
	for {
		select {
		case e := <-ch:
			if wire.WriteMessage(s, e) != nil {
				return
			}
		case <-gone:
			return
		case <-g.ctx.Done():
			return
		}
	}
}

// emitLocked reports a change to every subscriber.
func (g *Guest) emitLocked(e wire.Event) {
	if e.At.IsZero() {
		e.At = time.Now()
	}
	for ch := range g.watchers {
		select {
		case ch <- e:
		default: // a thousand behind: a test that does not read
			delete(g.watchers, ch)
		}
	}
}

func (g *Guest) shutdown(s wire.Shutdown) wire.Farewell {
	g.mu.Lock()
	g.stopped = true
	running := slices.Clone(g.order)
	g.mu.Unlock()
	farewell := wire.Farewell{Containers: map[string]wire.ExitStatus{}}
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, id := range running {
		wg.Go(func() {
			_, _ = g.stop(wire.Stop{ID: id, Grace: s.Grace})
			g.mu.Lock()
			c := g.containers[id]
			g.mu.Unlock()
			if c == nil {
				return
			}
			if exit := g.exitOf(c); exit != nil {
				mu.Lock()
				farewell.Containers[id] = *exit
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	g.out.drain(time.Second)
	return farewell
}

// farewell ends the machine after the reply to a shutdown.
func (g *Guest) farewell(s *yamux.Stream) {
	// As the real agent: the reply has arrived when the host closes its side too.
	s.Close()
	if s.SetReadDeadline(time.Now().Add(farewellWait)) == nil {
		_, _ = s.Read(make([]byte, 1))
	}
	g.end(cleanExit)
}

// farewellWait bounds the wait for a host that does not close.
const farewellWait = 2 * time.Second

func (g *Guest) stats() wire.Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	total := int64(g.config.MemoryMiB) << 20
	st := wire.Stats{
		At: time.Now(), AgentRSS: 8 << 20, MemTotal: total, MemFree: total / 2,
		Containers: map[string]wire.ContainerStats{},
	}
	for id, c := range g.containers {
		if c.state == wire.StateRunning {
			st.Containers[id] = wire.ContainerStats{MemoryBytes: 1 << 20, MemoryLimit: c.spec.Limits.MemoryBytes, PIDs: 1}
		}
	}
	return st
}

// put unpacks a tar stream into the container's files.
func (g *Guest) put(req wire.Request) (any, func(*yamux.Stream), error) {
	var a wire.Archive
	if err := decode(req, &a); err != nil {
		return nil, nil, err
	}
	c, err := g.find(a.ID)
	if err != nil {
		return nil, nil, err
	}
	return nil, func(s *yamux.Stream) {
		var reply wire.Reply
		if err := c.files.unpack(a.Path, tar.NewReader(s)); err != nil {
			reply.Error = &wire.Error{Code: wire.CodeInvalid, Message: err.Error()}
		}
		_, _ = io.Copy(io.Discard, s)
		_ = wire.WriteMessage(s, reply)
	}, nil
}

func (g *Guest) get(req wire.Request) (any, func(*yamux.Stream), error) {
	var a wire.Archive
	if err := decode(req, &a); err != nil {
		return nil, nil, err
	}
	c, err := g.find(a.ID)
	if err != nil {
		return nil, nil, err
	}
	stat, err := c.files.stat(a.Path)
	if err != nil {
		return nil, nil, err
	}
	return stat, func(s *yamux.Stream) { _ = c.files.pack(a.Path, s) }, nil
}

func (g *Guest) stat(a wire.Archive) (any, error) {
	c, err := g.find(a.ID)
	if err != nil {
		return nil, err
	}
	return c.files.stat(a.Path)
}
