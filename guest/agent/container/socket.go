//go:build linux

package container

import (
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// socket is a unix socket in a container whose connections the host takes. While
// none waits for them, they wait in the kernel.
type socket struct {
	l     *net.UnixListener
	conns chan *net.UnixConn
	done  chan struct{} // closed with the listener
	loop  sync.WaitGroup
}

// socket makes the socket that is mounted, with the owner and mode of the host's.
func (c *Container) socket(m *wire.Mount) (*os.File, error) {
	path := fmt.Sprintf("%s/%s/socket%d", Dir, c.spec.ID, len(c.sockets))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	s := &socket{l: l, conns: make(chan *net.UnixConn), done: make(chan struct{})}
	s.loop.Go(s.accept)
	c.do(s.close)
	if err := os.Chown(path, m.UID, m.GID); err != nil {
		return nil, err
	}
	if err := os.Chmod(path, os.FileMode(m.Mode&0o777)); err != nil {
		return nil, err
	}
	if c.sockets == nil {
		c.sockets = make(map[string]*socket)
	}
	c.sockets[m.Target] = s
	return os.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
}

func (s *socket) accept() {
	for {
		conn, err := s.l.AcceptUnix()
		if err != nil {
			return // closed
		}
		select {
		case s.conns <- conn:
		case <-s.done:
			conn.Close()
			return
		}
	}
}

func (s *socket) close() error {
	close(s.done)
	err := s.l.Close()
	s.loop.Wait()
	return err
}

// Accept returns the next connection to a socket of the container, nil once gone is
// closed. It fails when the container is removed.
func (c *Container) Accept(target string, gone <-chan struct{}) (*net.UnixConn, error) {
	s := c.sockets[target]
	if s == nil {
		return nil, &wire.Error{Code: wire.CodeNotFound, Message: fmt.Sprintf("container %s has no socket at %.100q", c.spec.Name, target)}
	}
	select {
	case conn := <-s.conns:
		return conn, nil
	case <-s.done:
		return nil, &wire.Error{Code: wire.CodeNotFound, Message: fmt.Sprintf("container %s was removed", c.spec.Name)}
	case <-gone:
		return nil, nil //nolint:nilnil // nobody waits for it
	}
}
