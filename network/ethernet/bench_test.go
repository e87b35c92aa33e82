//go:build linux

package ethernet

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/stackvm/stack/network/ethernet/internal/load"
)

// BenchmarkForward measures one direction between two trunks, sender and
// receiver in this process. buffers=212992 is what a stock kernel grants;
// flow=window keeps a TCP window's worth on the way, flow=flood sends without
// regard to losses.
func BenchmarkForward(b *testing.B) {
	for _, size := range []int{1514, 9014, 65000} {
		for _, buffers := range []int{212992, 4 << 20} {
			for _, flow := range []string{"window", "flood"} {
				b.Run(fmt.Sprintf("frame=%d/buffers=%d/flow=%s", size, buffers, flow), func(b *testing.B) {
					from, to := twoMachines(b, buffers)
					load.Benchmark(b, from, to, size, flow == "window")
				})
			}
		}
	}
}

// BenchmarkAlone is what the switch itself takes: sender and receiver are
// another process.
func BenchmarkAlone(b *testing.B) {
	for _, size := range []int{1514, 9014, 65000} {
		for _, buffers := range []int{212992, 4 << 20} {
			b.Run(fmt.Sprintf("frame=%d/buffers=%d", size, buffers), func(b *testing.B) {
				from, to := twoMachines(b, buffers)
				load.BenchmarkAlone(b, from, to, size)
			})
		}
	}
}

// twoMachines are the machines' ends of two trunks on one network.
func twoMachines(b *testing.B, buffers int) (from, to *os.File) {
	s := New(Options{SocketBuffer: buffers})
	b.Cleanup(func() { s.Close() })
	if err := s.AddNetwork("n", MaxMTU, false); err != nil {
		b.Fatal(err)
	}
	plug := func(name string, mac net.HardwareAddr, ip [4]byte) *os.File {
		ours, machine, err := load.Pair(buffers)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { ours.Close(); machine.Close() })
		if err := s.Attach(name, Pin{Network: "n", VLAN: load.VLAN, MAC: mac, Addrs: []netip.Addr{netip.AddrFrom4(ip)}}); err != nil {
			b.Fatal(err)
		}
		if err := s.Plug(name, ours); err != nil {
			b.Fatal(err)
		}
		return machine
	}
	return plug("a", load.SenderMAC, load.SenderIP), plug("b", load.ReceiverMAC, load.ReceiverIP)
}

// BenchmarkDirect is the same load over a bare socket pair: what the sender
// and the receiver alone cost.
func BenchmarkDirect(b *testing.B) {
	for _, size := range []int{1514, 65000} {
		b.Run(fmt.Sprintf("frame=%d", size), func(b *testing.B) {
			from, to, err := load.Pair(4 << 20)
			if err != nil {
				b.Fatal(err)
			}
			defer from.Close()
			defer to.Close()
			load.Benchmark(b, from, to, size, true)
		})
	}
}
