//go:build linux

package container

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// outputs are those who are sent what a container writes, beside its log.
type outputs struct {
	mu   sync.Mutex
	list map[*output]struct{}
}

// output is one attached host stream. Frames on it are written one at a time.
type output struct {
	mu sync.Mutex
	w  io.Writer
}

func (o *output) frame(kind wire.FrameKind, p []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return wire.WriteFrame(o.w, kind, p)
}

// exit sends the last frame.
func (o *output) exit(status wire.ExitStatus) error {
	body, err := json.Marshal(status)
	if err != nil {
		return err
	}
	return o.frame(wire.FrameExit, body)
}

func (os *outputs) add(o *output) {
	os.mu.Lock()
	defer os.mu.Unlock()
	if os.list == nil {
		os.list = make(map[*output]struct{})
	}
	os.list[o] = struct{}{}
}

func (os *outputs) remove(o *output) {
	os.mu.Lock()
	defer os.mu.Unlock()
	delete(os.list, o)
}

// send gives p to everyone attached, waiting for each; one that fails is
// dropped.
func (os *outputs) send(kind wire.FrameKind, p []byte) {
	os.mu.Lock()
	list := make([]*output, 0, len(os.list))
	for o := range os.list {
		list = append(list, o)
	}
	os.mu.Unlock()
	for _, o := range list {
		if o.frame(kind, p) != nil {
			os.remove(o)
		}
	}
}

// stdio is the agent's end of a workload's standard streams: three pipes, or a
// terminal.
type stdio struct {
	in       *os.File // nil: /dev/null
	out, err *os.File // err is nil with a terminal
	tty      *os.File // in and out at once
	child    [3]*os.File

	pumps sync.WaitGroup

	inMu sync.Mutex // guards in against a close during a write
}

// newStdio makes the pipes of a workload that runs as uid.
func newStdio(stdin bool, uid int) (*stdio, error) {
	s := new(stdio)
	pipe := func() (r, w *os.File, err error) {
		r, w, err = os.Pipe()
		if err == nil && uid != 0 {
			// The workload may open /dev/stdout, which leads here by an inode.
			err = errors.Join(chown(r, uid), chown(w, uid))
		}
		return r, w, err
	}
	var err error
	if stdin {
		s.child[0], s.in, err = pipe()
	}
	if err == nil {
		s.out, s.child[1], err = pipe()
	}
	if err == nil {
		s.err, s.child[2], err = pipe()
	}
	if err != nil {
		s.closeChild()
		s.close()
		return nil, err
	}
	return s, nil
}

func chown(f *os.File, uid int) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var chownErr error
	if err := raw.Control(func(fd uintptr) { chownErr = unix.Fchown(int(fd), uid, -1) }); err != nil {
		return err
	}
	return chownErr
}

func terminalStdio(tty *os.File) *stdio { return &stdio{in: tty, out: tty, tty: tty} }

// closeChild closes the workload's ends in the agent.
func (s *stdio) closeChild() {
	for i, f := range s.child {
		if f != nil {
			f.Close()
			s.child[i] = nil
		}
	}
}

// pump reads the workload's output until it ends; sink is given what was read
// of either stream, by one goroutine for each.
func (s *stdio) pump(sink func(kind wire.FrameKind) func([]byte)) {
	for kind, f := range map[wire.FrameKind]*os.File{wire.FrameStdout: s.out, wire.FrameStderr: s.err} {
		if f == nil {
			continue
		}
		write := sink(kind)
		s.pumps.Go(func() {
			buf := make([]byte, 16<<10)
			for {
				n, err := f.Read(buf)
				if n > 0 {
					write(buf[:n])
				}
				if errors.Is(err, os.ErrDeadlineExceeded) {
					leftover(f, buf, write)
				}
				if err != nil { // a terminal ends with EIO
					break
				}
			}
			write(nil)
		})
	}
}

// drain waits for the pumps of a workload that ended. Whoever inherited its
// streams may hold them open: what is in them by then is read, and no more.
func (s *stdio) drain() {
	const rest = 50 * time.Millisecond // for what is under way in another processor
	for _, f := range []*os.File{s.out, s.err} {
		if f != nil {
			f.SetReadDeadline(time.Now().Add(rest))
		}
	}
	s.pumps.Wait()
}

// leftover reads what f holds without waiting for more, within reason: the
// largest pipe holds a MiB.
func leftover(f *os.File, buf []byte, write func([]byte)) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	for total := 0; total < 1<<20; {
		n := 0
		_ = raw.Control(func(fd uintptr) { n, _ = unix.Read(int(fd), buf) })
		if n <= 0 {
			return
		}
		write(buf[:n])
		total += n
	}
}

func (s *stdio) close() {
	s.closeStdin()
	for _, f := range []*os.File{s.out, s.err} {
		if f != nil {
			f.Close()
		}
	}
}

// write sends p to the workload's stdin.
func (s *stdio) write(p []byte) error {
	s.inMu.Lock()
	in := s.in
	s.inMu.Unlock()
	if in == nil {
		return nil // nobody listens, as with /dev/null
	}
	_, err := in.Write(p)
	return err
}

// closeStdin ends the workload's stdin; a terminal has no end.
func (s *stdio) closeStdin() {
	s.inMu.Lock()
	defer s.inMu.Unlock()
	if s.in != nil && s.tty == nil {
		s.in.Close()
		s.in = nil
	}
}

func (s *stdio) resize(size wire.WindowSize) {
	if s.tty == nil {
		return
	}
	raw, err := s.tty.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Cols})
	})
}

// receive acts on the frames a host sends until r fails.
func receive(r io.Reader, stdin bool, s func() *stdio, signal func(string)) error {
	var buf []byte
	for {
		kind, p, err := wire.ReadFrame(r, &buf)
		if err != nil {
			return err
		}
		stdio := s()
		switch kind {
		case wire.FrameStdin:
			if stdin && stdio != nil {
				_ = stdio.write(p) // a workload that closed its stdin does not end the session
			}
		case wire.FrameStdinEOF:
			if stdin && stdio != nil {
				stdio.closeStdin()
			}
		case wire.FrameResize:
			var size wire.WindowSize
			if err := json.Unmarshal(p, &size); err != nil {
				return err
			}
			if stdio != nil {
				stdio.resize(size)
			}
		case wire.FrameSignal:
			signal(string(p))
		}
	}
}
