package wire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func connections(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return out.(*net.TCPConn), in.(*net.TCPConn)
}

// relayed is a connection from a to b by way of a stream, as between a container
// and its host; over is told how the relays on either side ended.
func relayed(t testing.TB) (a, b *net.TCPConn, over chan error) {
	t.Helper()
	a, inside := connections(t)
	s1, s2 := connections(t)
	outside, b := connections(t)
	over = make(chan error, 2)
	go func() { over <- Relay(s1, inside) }()
	go func() { over <- Relay(s2, outside) }()
	for _, c := range []net.Conn{a, b} {
		if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	return a, b, over
}

// What goes in on one side comes out on the other, either way may end first, and
// the other goes on.
func TestRelay(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, b, over := relayed(t)
		defer a.Close()
		defer b.Close()
		first, second := rapid.SliceOfN(rapid.Byte(), 0, 1000).Draw(rt, "first"), bytes.Repeat([]byte("second"), rapid.IntRange(0, 30000).Draw(rt, "second"))
		if rapid.Bool().Draw(rt, "from the other side") {
			a, b = b, a
		}
		if _, err := a.Write(first); err != nil {
			rt.Fatal(err)
		}
		if err := a.CloseWrite(); err != nil {
			rt.Fatal(err)
		}
		if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, first) {
			rt.Fatalf("%d of %d bytes came: %v", len(got), len(first), err)
		}
		go func() { // after the end of the other way
			_, _ = b.Write(second)
			b.Close()
		}()
		if got, err := io.ReadAll(a); err != nil || !bytes.Equal(got, second) {
			rt.Fatalf("%d of %d bytes came back: %v", len(got), len(second), err)
		}
		for range 2 {
			if err := <-over; err != nil {
				rt.Fatalf("a relay ended with %v", err)
			}
		}
	})
}

// One side that is gone takes the other along.
func TestRelayBroken(t *testing.T) {
	a, b, over := relayed(t)
	if err := a.SetLinger(0); err != nil { // a reset, not an end
		t.Fatal(err)
	}
	a.Close()
	if _, err := io.ReadAll(b); errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	b.Close()
	for range 2 {
		<-over
	}
}

// FuzzRelay: whatever a peer sends in place of frames, nothing but what its data
// frames hold comes out, and the relay ends.
func FuzzRelay(f *testing.F) {
	var good bytes.Buffer
	_ = WriteFrame(&good, FrameData, []byte("x"))
	_ = WriteFrame(&good, FrameDataEOF, nil)
	f.Add(good.Bytes())
	f.Add([]byte{byte(FrameStdout), 0, 0, 0, 1, 'x'})
	f.Add([]byte{byte(FrameData), 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, said []byte) {
		var want []byte
		var buf []byte
		for in := bytes.NewReader(said); ; {
			kind, p, err := ReadFrame(in, &buf)
			if err != nil || kind != FrameData {
				break
			}
			want = append(want, p...)
		}
		got := &sink{}
		_ = Relay(struct {
			io.Reader
			io.Writer
			io.Closer
		}{bytes.NewReader(said), io.Discard, io.NopCloser(nil)}, got)
		if !bytes.Equal(got.b, want) {
			t.Errorf("%x comes out, want %x", got.b, want)
		}
	})
}

// sink is a connection whose other side has nothing to say.
type sink struct{ b []byte }

func (s *sink) Read([]byte) (int, error)    { return 0, io.EOF }
func (s *sink) Write(p []byte) (int, error) { s.b = append(s.b, p...); return len(p), nil }
func (s *sink) CloseWrite() error           { return nil }
func (s *sink) Close() error                { return nil }
