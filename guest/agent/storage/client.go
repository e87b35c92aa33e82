//go:build linux

package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/stackvm/stack/guest/agent/disk"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// Client mounts volumes that another machine serves, below one directory.
type Client struct {
	dir string

	mu     sync.Mutex // held while mounting: what one machine mounts comes from one server
	link   link
	mounts map[string]*mounted // by serial
}

type mounted struct {
	dir   string
	users int
}

// NewClient returns a client that mounts below dir.
func NewClient(dir string) *Client {
	return &Client{dir: dir, mounts: map[string]*mounted{}}
}

// Mount mounts a volume, once however many use it, and returns where; done gives
// up the use. It waits for the server as long as ctx does.
func (c *Client) Mount(ctx context.Context, at *wire.Storage, serial string) (dir string, done func() error, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.mounts[serial]
	if m == nil {
		m = &mounted{dir: filepath.Join(c.dir, serial)}
		if err := c.mount(ctx, at, serial, m.dir); err != nil {
			return "", nil, fmt.Errorf("volume %q of the storage machine: %w", serial, err)
		}
		c.mounts[serial] = m
	}
	m.users++
	return m.dir, func() error { return c.release(serial, m) }, nil
}

func (c *Client) mount(ctx context.Context, at *wire.Storage, serial, dir string) error {
	if strings.Trim(serial, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || serial == "" {
		return errors.New("not a serial")
	}
	addrs, err := prefixes(&at.Interface)
	if err != nil {
		return err
	}
	if c.link.is == nil {
		// The server tells machines apart by it; host names may be equal.
		if err := os.WriteFile("/sys/fs/nfs/net/nfs_client/identifier", []byte(at.Client), 0); err != nil {
			return err
		}
	}
	if err := c.link.up(&at.Interface); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// Hard: a container sees no error while the server restarts, it waits. What
	// another machine made is seen within a second, and a name that is missing is
	// asked for each time: a local disk would have it at once.
	options := fmt.Sprintf("vers=4.2,proto=tcp,hard,sec=sys,timeo=%d,retrans=2,actimeo=1,lookupcache=positive,addr=%s,clientaddr=%s",
		timeoutDeciseconds, at.Server, addrs[0].Addr())
	for {
		err := unix.Mount(at.Server+":/"+serial, dir, "nfs4", unix.MS_NODEV, options)
		if err == nil {
			return nil
		}
		if !awaits(err) || ctx.Err() != nil {
			os.Remove(dir)
			return fmt.Errorf("mounting: %w", err)
		}
		select { // the server is just starting: the host started it before us
		case <-time.After(retryMount):
		case <-ctx.Done():
		}
	}
}

const (
	// A request without an answer makes the client connect again: the server it was
	// sent to may be dead, and its successor knows nothing of the connection.
	timeoutDeciseconds = 100
	retryMount         = 100 * time.Millisecond
)

// awaits tells whether an error may pass: nobody listens yet. What is not exported
// will not be.
func awaits(err error) bool {
	for _, e := range []unix.Errno{unix.ECONNREFUSED, unix.ETIMEDOUT, unix.EHOSTUNREACH, unix.EIO, unix.EINTR, unix.EAGAIN} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (c *Client) release(serial string, m *mounted) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.users--; m.users > 0 {
		return nil
	}
	delete(c.mounts, serial)
	err := unmount(m.dir)
	if err != nil {
		return fmt.Errorf("volume %q of the storage machine: %w", serial, err)
	}
	return os.Remove(m.dir)
}

// unmount tells whether all that was written has reached the server's disk.
func unmount(dir string) error {
	err := disk.Sync(dir)
	if e := unix.Unmount(dir, 0); e != nil {
		err = errors.Join(err, fmt.Errorf("unmounting: %w", e))
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	}
	return err
}
