package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"

	mobyterm "github.com/moby/term"
	"golang.org/x/term"

	"github.com/stackvm/stack/guest/wire"
)

// session is a connection to a command's standard streams.
type session struct {
	conn  net.Conn
	tty   bool
	stdin io.Reader // nil: none
	out   io.Writer
	err   io.Writer
	// openStdin leaves the command's stdin open when ours ends.
	openStdin bool
	// detach, typed on the terminal, ends the session and leaves the command.
	detach []byte
	// forward are the signals passed on instead of ending the program; with a
	// terminal the keys do that.
	forward []os.Signal
}

// run moves bytes until the command has ended, and returns how. The terminal is
// as before when it returns, whatever happened.
func (s *session) run(ctx context.Context) (wire.ExitStatus, error) {
	defer s.conn.Close()
	w := &frameWriter{w: s.conn}

	if f, ok := s.stdin.(*os.File); ok && s.tty && term.IsTerminal(int(f.Fd())) {
		before, err := term.MakeRaw(int(f.Fd()))
		if err != nil {
			return wire.ExitStatus{}, fmt.Errorf("putting the terminal into raw mode: %w", err)
		}
		defer func() { _ = term.Restore(int(f.Fd()), before) }()
	}
	if s.tty {
		stop := s.followSize(w)
		defer stop()
	}
	if len(s.forward) > 0 {
		stop := forwardSignals(w, s.forward)
		defer stop()
	}
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	if s.stdin != nil {
		stdin := s.stdin
		if s.tty && len(s.detach) > 0 {
			stdin = mobyterm.NewEscapeProxy(stdin, s.detach)
		}
		go func() { // ends with the program: a read of standard input cannot be cancelled
			buf := make([]byte, 32<<10)
			for {
				n, err := stdin.Read(buf)
				if n > 0 && w.write(wire.FrameStdin, buf[:n]) != nil {
					return
				}
				if errors.As(err, new(mobyterm.EscapeError)) {
					leave(errDetached)
					return
				}
				if err != nil {
					if !s.openStdin {
						_ = w.write(wire.FrameStdinEOF, nil) // the connection's reader reports a broken one
					}
					return
				}
			}
		}()
	}
	defer context.AfterFunc(ctx, func() { s.conn.Close() })()
	return s.receive(ctx)
}

// errDetached ends a session whose user typed the keys for it.
var errDetached = errors.New("detached")

// detachKeys are the keys that end a session: as given, as docker's
// configuration has them, or docker's own.
func detachKeys(given string) ([]byte, error) {
	keys, err := mobyterm.ToBytes(cmp.Or(given, dockerConfig().DetachKeys, "ctrl-p,ctrl-q"))
	if err != nil {
		return nil, fmt.Errorf("--detach-keys %q: %w", given, err)
	}
	return keys, nil
}

func (s *session) receive(ctx context.Context) (wire.ExitStatus, error) {
	var buf []byte
	for {
		kind, payload, err := wire.ReadFrame(s.conn, &buf)
		if err != nil {
			if ctx.Err() != nil {
				return wire.ExitStatus{}, context.Cause(ctx)
			}
			return wire.ExitStatus{}, fmt.Errorf("the connection to the command broke off: %w", err)
		}
		switch kind {
		case wire.FrameStdout:
			_, err = s.out.Write(payload)
		case wire.FrameStderr:
			_, err = s.err.Write(payload)
		case wire.FrameExit:
			var status wire.ExitStatus
			if err := json.Unmarshal(payload, &status); err != nil {
				return status, fmt.Errorf("decoding the command's end: %w", err)
			}
			return status, nil
		default:
			return wire.ExitStatus{}, fmt.Errorf("%w: kind %d from the machine", wire.ErrFrame, kind)
		}
		if err != nil {
			if errors.Is(err, syscall.EPIPE) {
				return wire.ExitStatus{}, exitStatus(128 + int(syscall.SIGPIPE))
			}
			return wire.ExitStatus{}, err
		}
	}
}

// followSize tells the machine the terminal's size, now and after each change.
func (s *session) followSize(w *frameWriter) (stop func()) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	changed <- syscall.SIGWINCH
	return loop(changed, func(os.Signal) {
		width, height := terminalSize(s.out)
		size, err := json.Marshal(wire.WindowSize{Rows: uint16(height), Cols: uint16(width)})
		if err == nil {
			_ = w.write(wire.FrameResize, size) // the connection's reader reports a broken one
		}
	})
}

func forwardSignals(w *frameWriter, signals []os.Signal) (stop func()) {
	got := make(chan os.Signal, 8)
	signal.Notify(got, signals...)
	return loop(got, func(sig os.Signal) {
		if name := signalName(sig); name != "" {
			_ = w.write(wire.FrameSignal, []byte(name))
		}
	})
}

// loop calls fn for every signal until stop, which waits for it.
func loop(signals chan os.Signal, fn func(os.Signal)) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case sig := <-signals:
				fn(sig)
			case <-done:
				return
			}
		}
	})
	return func() {
		signal.Stop(signals)
		close(done)
		wg.Wait()
	}
}

func signalName(sig os.Signal) string {
	switch sig {
	case syscall.SIGINT:
		return "SIGINT"
	case syscall.SIGTERM:
		return "SIGTERM"
	case syscall.SIGHUP:
		return "SIGHUP"
	case syscall.SIGQUIT:
		return "SIGQUIT"
	case syscall.SIGUSR1:
		return "SIGUSR1"
	case syscall.SIGUSR2:
		return "SIGUSR2"
	}
	return ""
}

// frameWriter writes whole frames from several goroutines.
type frameWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (f *frameWriter) write(kind wire.FrameKind, payload []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return wire.WriteFrame(f.w, kind, payload)
}

// status turns the end of a command into this program's.
func status(s wire.ExitStatus, err error) error {
	switch {
	case errors.Is(err, errDetached):
		return nil
	case err != nil:
		return err
	case s.Error != "":
		return failure{errors.New(s.Error), exitStatus(s.Code)}
	case s.Code != 0:
		return exitStatus(s.Code)
	}
	return nil
}

// windowSize is the size of out's terminal, nil without one.
func windowSize(out any) *wire.WindowSize {
	if !isTerminal(out) {
		return nil
	}
	width, height := terminalSize(out)
	return &wire.WindowSize{Rows: uint16(height), Cols: uint16(width)}
}
