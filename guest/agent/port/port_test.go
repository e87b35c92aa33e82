//go:build linux

package port

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stackvm/stack/guest/wire"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is a host's and a machine's end of a stream.
func pair(t testing.TB) (host, machine net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	t.Cleanup(func() { conns[0].Close(); conns[1].Close() })
	conns[0].SetDeadline(time.Now().Add(time.Minute))
	return conns[0], conns[1]
}

// Sessions follow each other however the one before was left; each gets only
// what was sent to it, and nothing it writes late reaches the next.
func TestServe(t *testing.T) {
	host, machine := pair(t)
	key := wire.NewKey()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	over := make(chan error, 10)
	go func() {
		served <- Serve(ctx, machine, key, func(c *Conn) {
			_, err := io.Copy(c, c) // echo
			over <- err
		})
	}()
	echo := func(text string) {
		t.Helper()
		host.Write([]byte(text))
		buf := make([]byte, len(text))
		if _, err := io.ReadFull(host, buf); err != nil || string(buf) != text {
			t.Fatalf("echo of %q: %q, %v", text, buf, err)
		}
	}
	host.Write([]byte("junk before the first greeting"))
	for range 3 {
		if err := wire.Greet(host, key); err != nil {
			t.Fatal(err)
		}
		echo("hello")
		host.Write([]byte("half of something"))
		host.Write(key[:7]) // a host that dies while it greets again
	}
	// A host that is away: the machine's writes fill the stream, and its
	// replacement frees them.
	if err := wire.Greet(host, key); err != nil {
		t.Fatal(err)
	}
	host.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	for {
		if _, err := host.Write(make([]byte, 64<<10)); err != nil {
			break
		}
	}
	host.SetDeadline(time.Now().Add(time.Minute))
	greeted := make(chan error, 1)
	go func() { greeted <- wire.Greet(slowly{host}, key) }()
	if err := <-greeted; err != nil {
		t.Fatal(err)
	}
	echo("again")
	cancel()
	if err := <-served; !errors.Is(err, context.Canceled) {
		t.Errorf("Serve: %v", err)
	}
	for range 5 {
		if err := <-over; !errors.Is(err, ErrOver) {
			t.Errorf("a session ended with %v", err)
		}
	}
}

// slowly writes while it reads, as a greeting on a full stream needs.
type slowly struct{ net.Conn }

func (s slowly) Write(p []byte) (int, error) {
	go s.Conn.Write(p)
	return len(p), nil
}

// A host that closes its end ends the session and Serve.
func TestServeEnd(t *testing.T) {
	host, machine := pair(t)
	key := wire.NewKey()
	served := make(chan error, 1)
	go func() { served <- Serve(t.Context(), machine, key, func(c *Conn) { io.Copy(io.Discard, c) }) }()
	if err := wire.Greet(host, key); err != nil {
		t.Fatal(err)
	}
	host.Close()
	if err := <-served; !errors.Is(err, io.EOF) {
		t.Errorf("Serve: %v", err)
	}
}

// However a stream is cut, the scanner finds the greetings in it.
func TestScanner(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Few letters, so that parts of the key are everywhere.
		letters := rapid.SampledFrom([]byte("ab"))
		var key wire.Key
		for i := range key {
			key[i] = letters.Draw(t, "key")
		}
		in := rapid.SliceOfN(letters, 0, 200).Draw(t, "in")
		for range rapid.IntRange(0, 2).Draw(t, "greetings") {
			at := rapid.IntRange(0, len(in)).Draw(t, "at")
			in = bytes.Join([][]byte{in[:at], key[:], in[at:]}, nil)
		}
		checkScanner(t, key, in, func() int { return rapid.IntRange(1, 40).Draw(t, "cut") })
	})
}

type fataler interface{ Fatalf(string, ...any) }

// checkScanner compares the scanner with a search of the whole stream.
func checkScanner(t fataler, key wire.Key, in []byte, cut func() int) {
	var want [][]byte
	for rest := in; ; {
		at := bytes.Index(rest, key[:])
		if at < 0 || len(rest) < at+len(key)+nonceLen {
			break
		}
		rest = rest[at+len(key):]
		want = append(want, rest[:nonceLen])
		rest = rest[nonceLen:]
	}
	s := scanner{key: key[:]}
	var got [][]byte
	for rest := in; len(rest) > 0; {
		chunk := rest[:min(cut(), len(rest))]
		rest = rest[len(chunk):]
		for len(chunk) > 0 {
			_, nonce, after := s.next(chunk)
			if nonce != nil {
				got = append(got, nonce)
			}
			if len(after) >= len(chunk) {
				t.Fatalf("no progress in %q", chunk)
			}
			chunk = after
		}
	}
	if len(got) != len(want) {
		t.Fatalf("found %d greetings, want %d", len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Fatalf("greeting %d has the nonce %q, want %q", i, got[i], want[i])
		}
	}
}

func FuzzScanner(f *testing.F) {
	f.Add([]byte("0123456789abcdef0123456789abcdef0123456789abcdefxxxxxxxxxxxxxxxx"), byte(3))
	f.Add([]byte("00123456789abcdefnonce67890123456"), byte(16))
	f.Fuzz(func(t *testing.T, in []byte, cut byte) {
		checkScanner(t, wire.Key([]byte("0123456789abcdef")), in, func() int { return int(cut)%40 + 1 })
	})
}

func BenchmarkServe(b *testing.B) {
	host, machine := pair(b)
	key := wire.NewKey()
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		Serve(ctx, machine, key, func(c *Conn) { io.Copy(io.Discard, c) })
	}()
	if err := wire.Greet(host, key); err != nil {
		b.Fatal(err)
	}
	chunk := make([]byte, 32<<10)
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		if _, err := host.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
	cancel()
	<-done
}
