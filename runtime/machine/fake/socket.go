package fake

import (
	"context"
	"net"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/stackvm/stack/guest/wire"
)

// dialled is a connection to a socket of a container.
type dialled struct {
	target string
	conn   *net.UnixConn
}

// Dial connects to a socket of a container, as one of its processes would. It
// returns once the host has taken the connection.
func (g *Guest) Dial(ctx context.Context, name, target string) (*net.UnixConn, error) {
	g.mu.Lock()
	c := g.namedLocked(name)
	g.mu.Unlock()
	if c == nil {
		return nil, fault(wire.CodeNotFound, "no container %s", name)
	}
	f, theirs, err := pair(unix.SOCK_STREAM, "socket")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	ours, err := net.FileConn(f)
	if err != nil {
		theirs.Close()
		return nil, err
	}
	select {
	case c.dialled <- dialled{target, theirs.(*net.UnixConn)}:
		return ours.(*net.UnixConn), nil
	case <-ctx.Done():
		ours.Close()
		theirs.Close()
		return nil, context.Cause(ctx)
	}
}

// accept gives the host the next connection to a socket of a container.
func (g *Guest) accept(s *yamux.Stream, req wire.Request) {
	refuse := func(err *wire.Error) { _ = wire.WriteMessage(s, wire.Reply{Error: err}) }
	var a wire.Accept
	if decode(req, &a) != nil {
		refuse(&wire.Error{Code: wire.CodeInvalid})
		return
	}
	c, err := g.find(a.ID)
	if err != nil {
		refuse(&wire.Error{Code: wire.CodeNotFound, Message: err.Error()})
		return
	}
	select {
	case d := <-c.dialled:
		if d.target != a.Target || wire.WriteMessage(s, wire.Reply{}) != nil {
			d.conn.Close()
			return
		}
		_ = wire.Relay(s, d.conn)
	case <-c.gone:
		refuse(&wire.Error{Code: wire.CodeNotFound, Message: "removed"})
	case <-s.Session().CloseChan():
	case <-g.ctx.Done():
	}
}
