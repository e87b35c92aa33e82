//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/containers/gvisor-tap-vsock/pkg/tap"
	"github.com/containers/gvisor-tap-vsock/pkg/types"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/stackvm/stack/network/ethernet"
	"github.com/stackvm/stack/network/ethernet/internal/load"
)

func TestMain(m *testing.M) { os.Exit(load.Main(m)) }

// switches make one with two machines and give these ends of their trunks.
var switches = map[string]func(b *testing.B, buffers int) (from, to *os.File){
	"stack": ours, "gvisor-tap-vsock": theirs, "none": none,
}

// BenchmarkForward forwards from one machine's trunk to another's.
// buffers=212992 is what a stock kernel grants.
func BenchmarkForward(b *testing.B) {
	for _, size := range []int{1514, 9014, 65000} {
		for _, buffers := range []int{212992, 4 << 20} {
			for name, make := range switches {
				b.Run(fmt.Sprintf("frame=%d/buffers=%d/switch=%s", size, buffers, name), func(b *testing.B) {
					from, to := make(b, buffers)
					load.Benchmark(b, from, to, size, true)
				})
			}
		}
	}
}

// BenchmarkAlone measures the switches alone: sender and receiver are another
// process.
func BenchmarkAlone(b *testing.B) {
	for _, size := range []int{1514, 9014, 65000} {
		for _, buffers := range []int{212992, 4 << 20} {
			for name, make := range switches {
				b.Run(fmt.Sprintf("frame=%d/buffers=%d/switch=%s", size, buffers, name), func(b *testing.B) {
					from, to := make(b, buffers)
					load.BenchmarkAlone(b, from, to, size)
				})
			}
		}
	}
}

func pair(b *testing.B, buffers int) (ours, machine *os.File) {
	b.Helper()
	ours, machine, err := load.Pair(buffers)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ours.Close(); machine.Close() })
	return ours, machine
}

func ours(b *testing.B, buffers int) (from, to *os.File) {
	s := ethernet.New(ethernet.Options{SocketBuffer: buffers})
	b.Cleanup(func() { s.Close() })
	if err := s.AddNetwork("n", ethernet.MaxMTU, false); err != nil {
		b.Fatal(err)
	}
	plug := func(name string, mac net.HardwareAddr, ip [4]byte) *os.File {
		end, machine := pair(b, buffers)
		if err := s.Attach(name, ethernet.Pin{Network: "n", VLAN: load.VLAN, MAC: mac, Addrs: []netip.Addr{netip.AddrFrom4(ip)}}); err != nil {
			b.Fatal(err)
		}
		if err := s.Plug(name, end); err != nil {
			b.Fatal(err)
		}
		return machine
	}
	return plug("a", load.SenderMAC, load.SenderIP), plug("b", load.ReceiverMAC, load.ReceiverIP)
}

// none is the floor of every switch over unix datagrams: a thread that moves
// frames from one trunk to the other in batches and looks at none of them.
func none(b *testing.B, buffers int) (from, to *os.File) {
	in, from := pair(b, buffers)
	out, to := pair(b, buffers)
	fds := [2]int{int(in.Fd()), int(out.Fd())}
	for _, fd := range fds {
		if err := unix.SetNonblock(fd, false); err != nil {
			b.Fatal(err)
		}
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: it blocks in system calls of its own
		done <- relay(fds[0], fds[1])
	}()
	b.Cleanup(func() {
		for _, fd := range fds {
			unix.Shutdown(fd, unix.SHUT_RDWR)
		}
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	return from, to
}

// relay returns when one of its sockets is shut down.
func relay(in, out int) error {
	const frames = 64
	type message struct { // struct mmsghdr of recvmmsg(2)
		hdr unix.Msghdr
		len uint32
	}
	var messages [frames]message
	var iovecs [frames]unix.Iovec
	buffers := make([][1 << 16]byte, frames)
	for i := range messages {
		iovecs[i].Base = &buffers[i][0]
		messages[i].hdr.Iov = &iovecs[i]
		messages[i].hdr.SetIovlen(1)
	}
	call := func(number uintptr, fd int, m []message, flags uintptr) (int, syscall.Errno) {
		for {
			n, _, errno := unix.Syscall6(number, uintptr(fd), uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), flags, 0, 0)
			if errno != unix.EINTR && errno != unix.ENOBUFS {
				return int(n), errno
			}
		}
	}
	for {
		for i := range iovecs {
			iovecs[i].SetLen(len(buffers[i]))
		}
		n, errno := call(unix.SYS_RECVMMSG, in, messages[:], unix.MSG_WAITFORONE)
		if errno != 0 {
			return os.NewSyscallError("recvmmsg", errno)
		}
		for i := range n {
			if messages[i].len == 0 {
				return nil // shut down
			}
			iovecs[i].SetLen(int(messages[i].len))
		}
		for sent := 0; sent < n; {
			m, errno := call(unix.SYS_SENDMMSG, out, messages[sent:n], 0)
			switch errno {
			case 0:
				sent += m
			case unix.EPIPE, unix.ECONNREFUSED, unix.ENOTCONN:
				return nil
			default:
				return os.NewSyscallError("sendmmsg", errno)
			}
		}
	}
}

// nobody is a gateway that no frame is for.
type nobody struct{}

func (nobody) DeliverNetworkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {}
func (nobody) LinkAddress() tcpip.LinkAddress                                        { return "\x02\x00\x00\x00\x00\x09" }

func (nobody) IP() string { return "10.0.0.9" }

// theirs is the unmodified switch over unix datagrams, which it calls vfkit's
// protocol. It learns where the receiver is from a frame of its.
func theirs(b *testing.B, buffers int) (from, to *os.File) {
	logrus.SetOutput(io.Discard) // it logs that a connection ended
	s := tap.NewSwitch(false)
	s.Connect(nobody{})
	ctx, cancel := context.WithCancel(context.Background())
	accept := func() *os.File {
		end, machine := pair(b, buffers)
		c, err := net.FileConn(end)
		if err != nil {
			b.Fatal(err)
		}
		if u, ok := c.(*net.UnixConn); ok {
			u.SetWriteBuffer(buffers)
		}
		done := make(chan struct{})
		go func() { defer close(done); s.Accept(ctx, c, types.VfkitProtocol) }()
		b.Cleanup(func() { cancel(); c.Close(); <-done })
		return machine
	}
	from, to = accept(), accept()
	// What arrives at the sender shows that the receiver was learnt.
	hello := load.Reverse(load.Frame(100))
	copy(hello, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	for { // it does not tell when it has begun to forward to a machine
		if _, err := to.Write(hello); err != nil {
			b.Fatal(err)
		}
		from.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, err := from.Read(make([]byte, 200))
		if err == nil {
			break
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			b.Fatal(err)
		}
	}
	from.SetReadDeadline(time.Time{})
	b.ResetTimer()
	return from, to
}
