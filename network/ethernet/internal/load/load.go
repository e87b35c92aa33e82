//go:build linux

// Package load drives a switch with frames over datagram socket pairs, for
// benchmarks: the same sender and receiver for every switch compared.
//
// Run owns the goroutines it starts and returns after they have ended.
package load

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// VLAN is the identifier in the tag of every frame sent.
const VLAN = 1

// MAC and IP of the sender and of the receiver.
var (
	SenderMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	ReceiverMAC = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	SenderIP    = [4]byte{10, 0, 0, 1}
	ReceiverIP  = [4]byte{10, 0, 0, 2}
)

// Pair makes a socket pair with buffers of the given size in bytes on both
// ends, as setsockopt takes it. Both files are the caller's.
func Pair(buffers int) (ours, machine *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	for _, fd := range fds {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, buffers)
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffers)
	}
	return os.NewFile(uintptr(fds[0]), "switch end"), os.NewFile(uintptr(fds[1]), "machine end"), nil
}

// Frame is an IPv4 frame of size bytes, its tag included, from the sender to
// the receiver; Reverse gives one the other way.
func Frame(size int) []byte {
	f := make([]byte, size)
	copy(f, ReceiverMAC)
	copy(f[6:], SenderMAC)
	binary.BigEndian.PutUint32(f[12:], 0x8100<<16|VLAN)
	binary.BigEndian.PutUint16(f[16:], 0x0800)
	f[18] = 0x45
	copy(f[30:], SenderIP[:])
	copy(f[34:], ReceiverIP[:])
	return f
}

// Reverse swaps the addresses of a Frame.
func Reverse(f []byte) []byte {
	out := append([]byte(nil), f...)
	copy(out, f[6:12])
	copy(out[6:], f[:6])
	copy(out[30:], f[34:38])
	copy(out[34:], f[30:34])
	return out
}

// window is the number of bytes on their way in a windowed benchmark, about
// what one TCP connection between two guests allows.
const window = 1 << 20

// Benchmark sends b.N frames of size bytes from from to to, and reports rates
// and the processor time of the whole process, sender and receiver included.
// Unless windowed, the sender floods without regard to losses.
func Benchmark(b *testing.B, from, to *os.File, size int, windowed bool) {
	b.Helper()
	frames := 0
	if windowed {
		frames = max(1, window/size)
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	before, start := processorTime(), time.Now()
	sent, err := Run(from, to, Frame(size), b.N, frames)
	elapsed, used := time.Since(start), processorTime()-before
	if err != nil {
		b.Fatal(err)
	}
	bytes := float64(b.N) * float64(size)
	b.ReportMetric(float64(b.N)/elapsed.Seconds(), "frames/s")
	b.ReportMetric(bytes*8/1e9/elapsed.Seconds(), "Gbit/s")
	b.ReportMetric(used.Seconds()/(bytes/1e9), "cpu-s/GB")
	b.ReportMetric(100*(1-float64(b.N)/float64(sent)), "lost-%")
}

func processorTime() time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// Run sends copies of frame into from until want of them came out of to.
// At most window frames are on their way at once; 0 sends without regard to
// what arrives. It returns the number sent.
func Run(from, to *os.File, frame []byte, want, window int) (sent int64, err error) {
	out, err := from.SyscallConn()
	if err != nil {
		return 0, err
	}
	in, err := to.SyscallConn()
	if err != nil {
		return 0, err
	}
	var (
		received atomic.Int64
		stop     atomic.Bool
		credit   = make(chan struct{}, 1)
		wg       sync.WaitGroup
	)
	give := func() {
		select {
		case credit <- struct{}{}:
		default:
		}
	}
	wg.Go(func() {
		defer func() { stop.Store(true); give() }()
		m := newMessages(frame, true)
		for received.Load() < int64(want) {
			n, e := m.call(in.Read, unix.SYS_RECVMMSG, batch)
			if e != nil {
				err = fmt.Errorf("receiving: %w", e)
				return
			}
			received.Add(int64(n))
			give()
		}
	})
	m := newMessages(frame, false)
	var sendErr error
	for !stop.Load() {
		n := batch
		if window > 0 {
			n = min(n, window-int(sent-received.Load()))
			if left := int64(want) - sent; int64(n) > left {
				n = int(left)
			}
			if n <= 0 {
				<-credit
				continue
			}
		}
		var k int
		if k, sendErr = m.call(out.Write, unix.SYS_SENDMMSG, n); sendErr != nil {
			break
		}
		sent += int64(k)
	}
	if sendErr != nil {
		return sent, fmt.Errorf("sending: %w", sendErr)
	}
	wg.Wait()
	return sent, err
}

const batch = 32

type message struct {
	hdr unix.Msghdr
	len uint32
}

type messages struct {
	m   [batch]message
	iov [batch]unix.Iovec
}

func newMessages(frame []byte, own bool) *messages {
	m := new(messages)
	for i := range m.m {
		f := frame
		if own {
			f = make([]byte, len(frame)+64)
		}
		m.iov[i].Base = unsafe.SliceData(f)
		m.iov[i].SetLen(len(f))
		m.m[i].hdr.Iov = &m.iov[i]
		m.m[i].hdr.SetIovlen(1)
	}
	return m
}

func (m *messages) call(wait func(func(uintptr) bool) error, call uintptr, n int) (done int, err error) {
	var errno syscall.Errno
	e := wait(func(fd uintptr) bool {
		r, _, e := unix.RawSyscall6(call, fd, uintptr(unsafe.Pointer(&m.m[0])), uintptr(n), unix.MSG_DONTWAIT, 0, 0)
		done, errno = int(r), e
		return e != unix.EAGAIN
	})
	if e != nil {
		return 0, e
	}
	if errno != 0 {
		return 0, errno
	}
	return done, nil
}
