//go:build linux

package port

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/stackvm/stack/guest/agent/uevent"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// Open waits for the virtio port called name and opens it.
func Open(ctx context.Context, name string) (*os.File, error) {
	var device string
	err := uevent.Wait(ctx, func() (bool, error) {
		var err error
		device, err = find(name)
		return device != "", err
	})
	if err != nil {
		return nil, fmt.Errorf("port %s: %w", name, err)
	}
	fd, err := unix.Open("/dev/"+device, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("port %s: opening %s: %w", name, device, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func find(name string) (string, error) {
	const class = "/sys/class/virtio-ports"
	entries, err := os.ReadDir(class)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	for _, e := range entries {
		text, err := os.ReadFile(class + "/" + e.Name() + "/name")
		if err == nil && strings.TrimSpace(string(text)) == name {
			return e.Name(), nil
		}
	}
	return "", nil
}

// Stream is what a port is made of: *os.File of a virtio port, or one end of a
// socket in tests.
type Stream interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// Serve answers greetings on stream and calls session with the Conn of each, in
// a goroutine, until ctx ends; it closes stream then. A session is over when its
// Conn fails; Serve waits for it to return before it begins the next one, which
// therefore must not block on anything but its Conn.
func Serve(ctx context.Context, stream Stream, key wire.Key, session func(*Conn)) error {
	defer stream.Close()
	defer context.AfterFunc(ctx, func() { stream.SetReadDeadline(time.Unix(1, 0)) })()
	var current *Conn
	over := func() {
		if current != nil {
			current.end()
			<-current.returned
			current = nil
		}
	}
	defer over()

	scan := scanner{key: key[:]}
	buf := make([]byte, 32<<10) // virtio-serial moves at most this much at a time
	for {
		n, err := read(stream, buf)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, io.EOF) {
			over() // the host hung up; it may come back
			scan = scanner{key: key[:]}
			if err := awaitHost(stream); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("reading from the host: %w", err)
		}
		for in := buf[:n]; len(in) > 0; {
			var before []byte
			var nonce []byte
			before, nonce, in = scan.next(in)
			if current != nil && len(before) > 0 {
				current.deliver(before)
			}
			if nonce == nil {
				continue
			}
			over()
			stream.SetWriteDeadline(time.Time{})
			if _, err := stream.Write(append(bytes.Clone(key[:]), nonce...)); err != nil {
				return fmt.Errorf("answering the host: %w", err)
			}
			c := newConn(stream)
			current = c
			go func() {
				defer close(c.returned)
				defer c.Close()
				session(c)
			}()
		}
	}
}

// nonceLen is the part of a greeting behind the key.
const nonceLen = 16

// scanner finds greetings in a stream cut anywhere.
type scanner struct {
	key   []byte
	tail  []byte // the last len(key)-1 bytes seen
	nonce []byte // being collected, after a key
	found bool
}

// next returns what precedes the first greeting that completes in b, its nonce,
// and what follows; a nil nonce means that all of b is before.
func (s *scanner) next(b []byte) (before, nonce, after []byte) {
	if !s.found {
		at := s.find(b)
		if at < 0 {
			s.remember(b)
			return b, nil, nil
		}
		before, b = b[:at], b[at:]
		s.found, s.tail = true, s.tail[:0]
	}
	n := min(nonceLen-len(s.nonce), len(b))
	s.nonce = append(s.nonce, b[:n]...)
	b = b[n:]
	if len(s.nonce) < nonceLen {
		return before, nil, nil
	}
	nonce, s.nonce, s.found = s.nonce, nil, false
	return before, nonce, b
}

// find returns the index in b just behind the first key, which may have begun in
// the tail, or -1.
func (s *scanner) find(b []byte) int {
	if len(s.tail) > 0 {
		seam := append(bytes.Clone(s.tail), b[:min(len(b), len(s.key)-1)]...)
		if i := bytes.Index(seam, s.key); i >= 0 {
			return i + len(s.key) - len(s.tail)
		}
	}
	if i := bytes.Index(b, s.key); i >= 0 {
		return i + len(s.key)
	}
	return -1
}

func (s *scanner) remember(b []byte) {
	keep := len(s.key) - 1
	if len(b) >= keep {
		s.tail = append(s.tail[:0], b[len(b)-keep:]...)
		return
	}
	s.tail = append(s.tail, b...)
	if over := len(s.tail) - keep; over > 0 {
		s.tail = append(s.tail[:0], s.tail[over:]...)
	}
}

// read is one read; a port whose host is absent gives io.EOF.
func read(r io.Reader, buf []byte) (int, error) {
	n, err := r.Read(buf)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// awaitHost returns when the host may have connected again. A virtio port
// without a host is readable, with nothing to read, so the next change of its
// state is waited for instead.
func awaitHost(stream Stream) error {
	f, ok := stream.(*os.File)
	if !ok {
		return io.EOF // a socket does not come back
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(polled, 0)
		return err == nil && n > 0 && polled[0].Revents&unix.POLLHUP == 0 && polled[0].Revents&unix.POLLIN != 0
	})
}

// ErrOver is what a Conn returns after its session has ended.
var ErrOver = errors.New("session is over")

// Conn is one session's use of a port. It implements io.ReadWriteCloser.
type Conn struct {
	stream   Stream
	returned chan struct{} // closed when the session's function has returned

	mu      sync.Mutex
	changed sync.Cond // in or ended changed
	in      []byte    // delivered, not yet read
	ended   bool

	writing sync.Mutex // held during a write; taken before mu
}

// maxPending bounds what waits for a session that does not read; the port is
// then not read either, so the host waits.
const maxPending = 256 << 10

func newConn(stream Stream) *Conn {
	c := &Conn{stream: stream, returned: make(chan struct{})}
	c.changed.L = &c.mu
	return c
}

// deliver hands b to the reader, or drops it when the session is over.
func (c *Conn) deliver(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.ended && len(c.in) > 0 && len(c.in)+len(b) > maxPending {
		c.changed.Wait()
	}
	if !c.ended {
		c.in = append(c.in, b...)
		c.changed.Broadcast()
	}
}

// Read returns what the host sent, or ErrOver.
func (c *Conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.in) == 0 {
		if c.ended {
			return 0, ErrOver
		}
		c.changed.Wait()
	}
	n := copy(p, c.in)
	c.in = c.in[n:]
	if len(c.in) == 0 {
		c.in = nil
	}
	c.changed.Broadcast()
	return n, nil
}

// Write sends p to the host, or returns ErrOver.
func (c *Conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	ended := c.ended
	c.mu.Unlock()
	if ended {
		return 0, ErrOver
	}
	n, err := c.stream.Write(p)
	if err != nil {
		c.mu.Lock()
		ended = c.ended
		c.mu.Unlock()
		if ended {
			err = ErrOver
		}
	}
	return n, err
}

// Close ends the session from inside; the port stays.
func (c *Conn) Close() error {
	c.mu.Lock()
	c.ended = true
	c.in = nil
	c.changed.Broadcast()
	c.mu.Unlock()
	return nil
}

// end ends the session from outside and returns when no write of it is under way.
func (c *Conn) end() {
	c.Close()
	// Half a message may stay behind on the stream: the host discards until the
	// answer to its greeting.
	c.stream.SetWriteDeadline(time.Unix(1, 0))
	c.writing.Lock()
	c.stream.SetWriteDeadline(time.Time{})
	c.writing.Unlock()
}
