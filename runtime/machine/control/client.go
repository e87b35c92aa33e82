package control

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/hashicorp/yamux"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/machine/muxguard"
)

// ErrBusy is returned when a session has wire.MaxStreams calls under way.
var ErrBusy = fmt.Errorf("the machine has %d calls under way", wire.MaxStreams)

const (
	// A paused machine does not read; a write to it waits this long before it
	// counts as failed. Contexts end calls long before.
	writeTimeout = 10 * time.Minute
	// How long a stream that the host has closed waits for the agent's side.
	closeTimeout = 5 * time.Minute

	maxText   = 4096 // bytes of an error, message or probe output that are kept
	maxNameID = 64   // bytes of an id
)

// Client is a session with an agent. Its methods may be called concurrently.
type Client struct {
	session *yamux.Session
	wg      sync.WaitGroup // every goroutine of the session

	mu  sync.Mutex
	err error // why the session ended
}

// Open greets the agent on conn and says hello, filling in what hello leaves
// out: the protocol, the time, fresh entropy. ctx bounds the opening only. One
// session at a time may be open on a connection; conn stays the caller's and is
// not to be read or written until Close has returned.
func Open(ctx context.Context, conn net.Conn, key wire.Key, hello wire.Hello) (*Client, wire.HelloReply, error) {
	p, err := attach(ctx, conn, key)
	if err != nil {
		return nil, wire.HelloReply{}, err
	}
	cfg := yamux.DefaultConfig()
	cfg.EnableKeepAlive = false // it would end the session of a paused machine
	cfg.ConnectionWriteTimeout = writeTimeout
	cfg.StreamOpenTimeout = 0 // a paused machine acknowledges late; contexts bound calls
	cfg.StreamCloseTimeout = closeTimeout
	cfg.LogOutput = nil
	cfg.Logger = log.New(io.Discard, "", 0)
	c := &Client{}
	session, err := yamux.Client(muxguard.New(p, false, c.note), cfg)
	if err != nil {
		p.Close()
		return nil, wire.HelloReply{}, fmt.Errorf("opening a session with the machine: %w", err)
	}
	c.session = session

	hello.Protocol = wire.Protocol
	if len(hello.Entropy) == 0 {
		hello.Entropy = make([]byte, 64)
		rand.Read(hello.Entropy)
	}
	if hello.Now.IsZero() {
		hello.Now = time.Now()
	}
	var reply wire.HelloReply
	if err := c.Call(ctx, wire.OpHello, hello, &reply); err != nil {
		c.Close()
		return nil, wire.HelloReply{}, err
	}
	reply.Agent, reply.Kernel, reply.BootID = printable(reply.Agent), printable(reply.Kernel), printable(reply.BootID)
	if reply.Protocol != wire.Protocol {
		c.Close()
		return nil, reply, fmt.Errorf("the machine's agent %s speaks protocol %d, this program %d: rebuild the guest or restart the machine",
			reply.Agent, reply.Protocol, wire.Protocol)
	}
	return c, reply, nil
}

// Close ends the session and returns when its goroutines have ended. What was
// under way fails with net.ErrClosed or the like.
func (c *Client) Close() error {
	if !c.session.IsClosed() {
		c.note(net.ErrClosed)
	}
	c.session.Close()
	c.wg.Wait()
	return nil
}

// Done is closed when the session has ended, whoever ended it.
func (c *Client) Done() <-chan struct{} { return c.session.CloseChan() }

// Err is why the session ended; nil while it lasts.
func (c *Client) Err() error {
	select {
	case <-c.Done():
	default:
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		return errors.New("the machine's agent ended the session")
	}
	return c.err
}

// note keeps the first reason for the session's end.
func (c *Client) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

// Call sends one request and decodes its reply into result, which may be nil.
// It is for operations without a stream behind the reply.
func (c *Client) Call(ctx context.Context, op wire.Op, body, result any) error {
	s, err := c.begin(ctx, op, body, result)
	if err != nil {
		return err
	}
	s.close()
	return nil
}

// stream is one call's, closed when its context ends.
type stream struct {
	*yamux.Stream
	client *Client
	stop   func() bool
	ctx    context.Context // the call's: the stream is the call
}

// begin opens a stream and exchanges request and reply. On success the stream is
// the caller's to close, and ends with ctx.
func (c *Client) begin(ctx context.Context, op wire.Op, body, result any) (_ *stream, err error) {
	req := wire.Request{Op: op}
	if body != nil {
		if req.Body, err = json.Marshal(body); err != nil {
			return nil, fmt.Errorf("machine: %s: %w", op, err)
		}
	}
	s, err := c.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("machine: %s: %w", op, err)
	}
	if err := wire.WriteMessage(s, req); err != nil {
		s.close()
		return nil, fmt.Errorf("machine: %s: %w", op, s.cause(err))
	}
	if err := s.reply(result); err != nil {
		s.close()
		return nil, fmt.Errorf("machine: %s: %w", op, err)
	}
	return s, nil
}

func (c *Client) open(ctx context.Context) (*stream, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if c.session.NumStreams() >= wire.MaxStreams {
		return nil, ErrBusy
	}
	type opened struct {
		s   *yamux.Stream
		err error
	}
	// Opening writes, and a machine that does not read blocks that.
	ch := make(chan opened)
	c.wg.Go(func() {
		s, err := c.session.OpenStream()
		select {
		case ch <- opened{s, err}:
		case <-ctx.Done():
			if err == nil {
				s.Close()
			}
		}
	})
	select {
	case o := <-ch:
		if o.err != nil {
			if err := c.Err(); err != nil {
				return nil, err
			}
			return nil, o.err
		}
		return &stream{
			Stream: o.s, client: c, ctx: ctx,
			stop: context.AfterFunc(ctx, func() { o.s.SetDeadline(past) }),
		}, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// reply reads a Reply and decodes its body.
func (s *stream) reply(result any) error {
	var r wire.Reply
	if err := wire.ReadMessage(s, &r); err != nil {
		return s.cause(err)
	}
	if r.Error != nil {
		r.Error.Message = printable(r.Error.Message)
		return r.Error
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(r.Body, result); err != nil {
		return fmt.Errorf("decoding the reply: %w", err)
	}
	return nil
}

// cause turns the error of a read or write into what stands behind it.
func (s *stream) cause(err error) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, yamux.ErrSessionShutdown) || errors.Is(err, yamux.ErrStreamClosed) {
		if sessionErr := s.client.Err(); sessionErr != nil {
			return sessionErr
		}
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// close lets go of the stream without waiting for the machine to read.
func (s *stream) close() {
	s.stop()
	s.client.wg.Go(func() { s.Stream.Close() })
}

// printable removes what a hostile agent could steer a terminal with, and bounds
// the length.
func printable(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, strings.ToValidUTF8(s, "\uFFFD"))
}
