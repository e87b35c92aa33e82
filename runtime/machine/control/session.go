package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/stackvm/stack/guest/wire"
)

// Session is the standard streams of an exec or an attached container. The
// methods that send may be called concurrently with Run and each other.
type Session struct {
	s *stream

	mu sync.Mutex // one frame at a time
}

// Attach connects to a container's standard streams from now on. The session
// ends with ctx.
func (c *Client) Attach(ctx context.Context, attach wire.Attach) (*Session, error) {
	s, err := c.begin(ctx, wire.OpAttach, attach, nil)
	if err != nil {
		return nil, err
	}
	return &Session{s: s}, nil
}

// Accept waits until somebody connects to a socket of a container and returns the
// stream for wire.Relay, which the caller closes. It ends with ctx.
func (c *Client) Accept(ctx context.Context, accept wire.Accept) (io.ReadWriteCloser, error) {
	s, err := c.begin(ctx, wire.OpAccept, accept, nil)
	if err != nil {
		return nil, err
	}
	return relayed{s}, nil
}

// relayed is a stream of frames that is closed once.
type relayed struct{ *stream }

func (r relayed) Close() error {
	r.SetDeadline(past) // whoever reads or writes it
	r.close()
	return nil
}

// Exec runs a command in a running container. Detached, the session is nil;
// otherwise it ends with ctx, and the command with it.
func (c *Client) Exec(ctx context.Context, exec wire.Exec) (*Session, wire.ExecStarted, error) {
	var r wire.ExecStarted
	s, err := c.begin(ctx, wire.OpExec, exec, &r)
	if err != nil {
		return nil, wire.ExecStarted{}, err
	}
	if exec.Detach {
		s.close()
		return nil, r, nil
	}
	return &Session{s: s}, r, nil
}

// Write sends bytes to standard input.
func (s *Session) Write(b []byte) (int, error) {
	if err := s.send(wire.FrameStdin, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// CloseStdin ends standard input.
func (s *Session) CloseStdin() error { return s.send(wire.FrameStdinEOF, nil) }

// Resize tells the terminal's new size.
func (s *Session) Resize(size wire.WindowSize) error {
	b, err := json.Marshal(size)
	if err != nil {
		return err
	}
	return s.send(wire.FrameResize, b)
}

// Signal sends a signal, by name.
func (s *Session) Signal(name string) error { return s.send(wire.FrameSignal, []byte(name)) }

func (s *Session) send(kind wire.FrameKind, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := wire.WriteFrame(s.s, kind, b); err != nil {
		return fmt.Errorf("machine: sending to a process: %w", s.s.cause(err))
	}
	return nil
}

// Run writes what the process writes until it ends, and returns how it ended.
func (s *Session) Run(stdout, stderr io.Writer) (wire.ExitStatus, error) {
	var buf []byte
	for {
		kind, b, err := wire.ReadFrame(s.s, &buf)
		if err != nil {
			return wire.ExitStatus{}, fmt.Errorf("machine: reading from a process: %w", s.s.cause(err))
		}
		switch kind {
		case wire.FrameStdout:
			_, err = stdout.Write(b)
		case wire.FrameStderr:
			_, err = stderr.Write(b)
		case wire.FrameExit:
			var exit wire.ExitStatus
			if err := json.Unmarshal(b, &exit); err != nil {
				return wire.ExitStatus{}, fmt.Errorf("machine: decoding an exit status: %w", err)
			}
			exit.Error = printable(exit.Error)
			return exit, nil
		default:
			err = errors.New("the machine's agent broke the protocol: a frame that only the host sends")
		}
		if err != nil {
			return wire.ExitStatus{}, err
		}
	}
}

// Close lets go of the session; the command of an exec loses its streams.
func (s *Session) Close() error {
	s.s.close()
	return nil
}
