package network

import (
	"io"
	"net"
	"net/netip"
	"testing"
)

// BenchmarkPublishTCP carries one connection from the host's loopback through
// listener, gateway and switch into a machine, whose TCP/IP stack (gvisor
// again) shares the processor here.
func BenchmarkPublishTCP(b *testing.B) {
	f := New(Options{Upstream: noUpstream{}})
	defer f.Close()
	if err := f.Create(front); err != nil {
		b.Fatal(err)
	}
	m := join(b, f, "b", 6, nil, front)
	service := m.listen("10.1.0.6:80")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	if err := f.Publish(Publish{ID: "p", Network: "front", Proto: "tcp", Target: netip.MustParseAddrPort("10.1.0.6:80"), Listener: l}); err != nil {
		b.Fatal(err)
	}
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	s, err := service.Accept()
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	chunk := make([]byte, 1<<20)
	b.SetBytes(int64(len(chunk)))
	got := make([]byte, len(chunk))
	read := make(chan error, 1)
	go func() {
		for {
			if _, err := io.ReadFull(s, got); err != nil {
				close(read)
				return
			}
			read <- nil
		}
	}()
	for b.Loop() {
		if _, err := c.Write(chunk); err != nil {
			b.Fatal(err)
		}
		if err, ok := <-read; err != nil || !ok {
			b.Fatal("the machine's side ended")
		}
	}
	b.StopTimer()
	c.Close()
	for range read {
	}
}
