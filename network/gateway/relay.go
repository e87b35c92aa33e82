package gateway

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

// stream is one side of a relayed connection.
type stream interface {
	io.Reader
	io.Writer
	CloseWrite() error
	Close() error
	reset()
}

// copyBuffers hold several large segments: each Read from the stack takes as
// much as has arrived.
var copyBuffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// relay copies both ways until both sides have ended, passing on each end by
// itself. A side that breaks off, breaks off the other.
func relay(a, b stream) {
	var wg sync.WaitGroup
	wg.Go(func() { pipe(a, b) })
	pipe(b, a)
	wg.Wait()
	a.Close()
	b.Close()
}

// pipe copies from src to dst to its end.
func pipe(dst, src stream) {
	buf := copyBuffers.Get().(*[256 << 10]byte)
	defer copyBuffers.Put(buf)
	for {
		n, err := src.Read(buf[:])
		if n > 0 {
			if _, werr := dst.Write(buf[:n]); werr != nil {
				dst.reset()
				src.reset()
				return
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			_ = dst.CloseWrite() // fails if dst has ended, which its reader sees too
			return
		case err != nil:
			dst.reset()
			src.reset()
			return
		}
	}
}

// errUnreachable tells that the far side of a flow has no such port.
var errUnreachable = errors.New("port unreachable")

// relayDatagrams copies both ways until the flow is silent or end, which closes
// both sides, was called by another. It returns after both copies have ended.
func relayDatagrams(machine *gonet.UDPConn, host *net.UDPConn, end func()) error {
	idle := newIdle(end)
	defer idle.stop()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer end()
		buf := datagrams.Get().(*[maxDatagram]byte)
		defer datagrams.Put(buf)
		for {
			n, err := machine.Read(buf[:])
			if err != nil {
				return
			}
			idle.touch(false)
			if _, err := host.Write(buf[:n]); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
				if errors.Is(err, net.ErrClosed) {
					return
				}
			}
		}
	})
	err := func() error {
		defer end()
		buf := datagrams.Get().(*[maxDatagram]byte)
		defer datagrams.Put(buf)
		for {
			n, err := host.Read(buf[:])
			if errors.Is(err, syscall.ECONNREFUSED) {
				return errUnreachable
			}
			if err != nil {
				return err
			}
			idle.touch(true)
			if _, err := machine.Write(buf[:n]); err != nil {
				return err
			}
		}
	}()
	wg.Wait()
	return err
}

const maxDatagram = 65535

var datagrams = sync.Pool{New: func() any { return new([maxDatagram]byte) }}

// idle ends a flow that has been silent. Datagrams only note the time; the
// timer looks at it when it fires.
type idle struct {
	end      func()
	last     atomic.Int64 // nanoseconds since start
	answered atomic.Bool
	start    time.Time

	mu      sync.Mutex // guards what follows
	timer   *time.Timer
	stopped bool
}

func newIdle(end func()) *idle {
	i := &idle{end: end, start: time.Now()}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.timer = time.AfterFunc(udpIdle, i.check)
	return i
}

func (i *idle) touch(answer bool) {
	i.last.Store(int64(time.Since(i.start)))
	if answer {
		i.answered.Store(true)
	}
}

func (i *idle) check() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.stopped {
		return
	}
	limit := udpIdle
	if i.answered.Load() {
		limit = udpIdleAnswered
	}
	if left := limit - (time.Since(i.start) - time.Duration(i.last.Load())); left > 0 {
		i.timer.Reset(left)
		return
	}
	i.end()
}

func (i *idle) stop() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.stopped = true
	i.timer.Stop()
}
