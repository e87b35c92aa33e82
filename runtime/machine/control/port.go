package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/stackvm/stack/guest/wire"
)

// past is a deadline that ends blocked reads and writes.
var past = time.Unix(1, 0)

// port is a machine's connection for the length of one session. Closing it ends
// blocked reads and writes, by a deadline in the past, and leaves the connection
// open for the next session.
type port struct {
	net.Conn

	mu     sync.Mutex
	closed bool
}

// attach starts a session on conn: whatever deadline the last one left is
// cleared, and the agent greeted, for as long as ctx lasts.
func attach(ctx context.Context, conn net.Conn, key wire.Key) (*port, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("greeting the machine: %w", err)
	}
	p := &port{Conn: conn}
	stop := context.AfterFunc(ctx, func() { p.Close() })
	err := wire.Greet(conn, key)
	if !stop() || err != nil {
		p.Close()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("the machine's agent did not answer: %w", context.Cause(ctx))
		}
		return nil, err
	}
	return p, nil
}

func (p *port) Read(b []byte) (int, error) {
	if p.isClosed() {
		return 0, net.ErrClosed
	}
	return p.Conn.Read(b)
}

func (p *port) Write(b []byte) (int, error) {
	if p.isClosed() {
		return 0, net.ErrClosed
	}
	n, err := p.Conn.Write(b)
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		// The machine has ended. What it said before, a farewell, may still be
		// unread, and the session would end with the error of a write.
		return len(b), nil
	}
	return n, err
}

func (p *port) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// Close ends the session's use of the connection, once.
func (p *port) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	return p.Conn.SetDeadline(past)
}
