//go:build linux

package share

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// messageSize is the largest 9P message, in bytes.
const messageSize = 512 << 10

// Client mounts shares below one directory.
type Client struct {
	dir string

	mu      sync.Mutex
	session *yamux.Session
	came    chan struct{} // closed when there is a session; replaced when it ends
	mounts  map[string]*mounted
	next    int
}

type mounted struct {
	dir   string
	users int
	ready chan struct{}
	err   error
}

// New returns a client that mounts below dir, which it makes.
func New(dir string) (*Client, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	return &Client{dir: dir, came: make(chan struct{}), mounts: make(map[string]*mounted)}, nil
}

// Session serves one greeting's session on conn and returns when it ends.
func (c *Client) Session(conn io.ReadWriteCloser) {
	config := yamux.DefaultConfig()
	config.EnableKeepAlive = false
	config.ConnectionWriteTimeout = 24 * time.Hour
	config.StreamOpenTimeout = 0
	config.MaxStreamWindowSize = messageSize
	config.LogOutput = io.Discard
	session, err := yamux.Client(conn, config)
	if err != nil {
		return
	}
	c.mu.Lock()
	c.session = session
	close(c.came)
	c.mu.Unlock()
	<-session.CloseChan()
	c.mu.Lock()
	c.session, c.came = nil, make(chan struct{})
	c.mu.Unlock()
	session.Close()
}

// Mount mounts a share, once however many use it, and returns where; done gives
// up the use.
func (c *Client) Mount(ctx context.Context, name string) (dir string, done func() error, err error) {
	c.mu.Lock()
	m := c.mounts[name]
	if m == nil {
		c.next++
		m = &mounted{dir: c.dir + "/" + strconv.Itoa(c.next), ready: make(chan struct{})}
		c.mounts[name] = m
		c.mu.Unlock()
		m.err = c.mount(ctx, name, m.dir)
		c.mu.Lock()
		if m.err != nil {
			m.err = fmt.Errorf("share %q: %w", name, m.err)
			delete(c.mounts, name)
		}
		close(m.ready)
	}
	m.users++
	c.mu.Unlock()
	<-m.ready
	if m.err != nil {
		return "", nil, m.err
	}
	return m.dir, func() error { return c.release(name, m) }, nil
}

func (c *Client) release(name string, m *mounted) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.users--; m.users > 0 {
		return nil
	}
	delete(c.mounts, name)
	if err := unix.Unmount(m.dir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("share %q: unmounting: %w", name, err)
	}
	return os.Remove(m.dir)
}

// Dir returns where a share is mounted.
func (c *Client) Dir(name string) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.mounts[name]
	if m == nil {
		return "", false
	}
	select {
	case <-m.ready:
		return m.dir, m.err == nil
	default:
		return "", false
	}
}

func (c *Client) mount(ctx context.Context, name, dir string) error {
	stream, err := c.open(ctx, name)
	if err != nil {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		stream.Close()
		return err
	}
	defer unix.Close(pair[0]) // the kernel holds it once mounted
	ours := os.NewFile(uintptr(pair[1]), "share")
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		stream.Close()
		return err
	}
	// Whichever side ends takes the other along.
	go func() {
		_, _ = io.Copy(stream, conn)
		stream.Close()
		conn.Close()
	}()
	go func() {
		_, _ = io.Copy(conn, stream)
		conn.Close()
		stream.Close()
	}()
	err = os.Mkdir(dir, 0o700)
	if err == nil {
		options := fmt.Sprintf("trans=fd,rfdno=%d,wfdno=%d,version=9p2000.L,msize=%d,access=user,cache=none", pair[0], pair[0], messageSize)
		err = unix.Mount(name, dir, "9p", unix.MS_NODEV, options)
	}
	if err != nil {
		conn.Close()
		os.Remove(dir)
		return fmt.Errorf("mounting: %w", err)
	}
	return nil
}

// open opens a share's stream, waiting for the server to be there.
func (c *Client) open(ctx context.Context, name string) (*yamux.Stream, error) {
	for {
		c.mu.Lock()
		session, came := c.session, c.came
		c.mu.Unlock()
		if session == nil {
			select {
			case <-came:
				continue
			case <-ctx.Done():
				return nil, fmt.Errorf("waiting for the host's server: %w", ctx.Err())
			}
		}
		stream, err := session.OpenStream()
		if err != nil {
			if errors.Is(err, yamux.ErrSessionShutdown) && ctx.Err() == nil {
				<-session.CloseChan()
				continue
			}
			return nil, err
		}
		if deadline, ok := ctx.Deadline(); ok {
			stream.SetDeadline(deadline)
		}
		var reply wire.Reply
		err = wire.WriteMessage(stream, wire.ShareOpen{Share: name})
		if err == nil {
			err = wire.ReadMessage(stream, &reply)
		}
		if err == nil && reply.Error != nil {
			err = reply.Error
		}
		if err != nil {
			stream.Close()
			return nil, err
		}
		stream.SetDeadline(time.Time{})
		return stream, nil
	}
}
