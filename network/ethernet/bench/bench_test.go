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
	"testing"
	"time"

	"github.com/containers/gvisor-tap-vsock/pkg/tap"
	"github.com/containers/gvisor-tap-vsock/pkg/types"
	"github.com/sirupsen/logrus"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/stackvm/stack/network/ethernet"
	"github.com/stackvm/stack/network/ethernet/internal/load"
)

func TestMain(m *testing.M) { os.Exit(load.Main(m)) }

// switches make one with two machines and give these ends of their trunks.
var switches = map[string]func(b *testing.B, buffers int) (from, to *os.File){
	"stack": ours, "gvisor-tap-vsock": theirs,
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
	if err := s.AddNetwork("n", ethernet.MaxMTU); err != nil {
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
