package control

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/machine/muxguard"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// port pair: the host's end and the machine's.
func pair(t testing.TB) (host, guest net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		t.Cleanup(func() { conns[i].Close() })
	}
	return conns[0], conns[1]
}

var key = wire.NewKey()

// agent answers the greeting on conn and hands every stream to serve; the first
// one, the hello, it answers itself.
func agent(t testing.TB, conn net.Conn, serve func(*yamux.Session, *yamux.Stream)) {
	t.Helper()
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { conn.Close() })
	wg.Go(func() {
		if wire.Answer(conn, key) != nil {
			return
		}
		cfg := yamux.DefaultConfig()
		cfg.EnableKeepAlive = false
		cfg.LogOutput, cfg.Logger = nil, log.New(io.Discard, "", 0)
		mux, err := yamux.Server(conn, cfg)
		if err != nil {
			return
		}
		defer mux.Close()
		for first := true; ; first = false {
			s, err := mux.AcceptStream()
			if err != nil {
				return
			}
			var req wire.Request
			if wire.ReadMessage(s, &req) != nil {
				s.Close()
				continue
			}
			if first {
				b, _ := json.Marshal(wire.HelloReply{Protocol: wire.Protocol, Agent: "1\x1b[2J", BootID: "b"})
				wire.WriteMessage(s, wire.Reply{Body: b})
				s.Close()
				continue
			}
			wg.Go(func() {
				defer s.Close()
				serve(mux, s)
			})
		}
	})
}

func open(t testing.TB, host net.Conn) *Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, reply, err := Open(ctx, host, key, wire.Hello{})
	if err != nil {
		t.Fatal(err)
	}
	if reply.Agent != "1[2J" {
		t.Errorf("the agent's version reached us as %q", reply.Agent)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// A call to an agent that breaks the rules ends, with an error, and the client
// goes on or says why not.
func TestHostileReplies(t *testing.T) {
	for name, answer := range map[string]func(*yamux.Session, *yamux.Stream){
		"closes at once":   func(_ *yamux.Session, s *yamux.Stream) {},
		"half a length":    func(_ *yamux.Session, s *yamux.Stream) { s.Write([]byte{0, 0}) },
		"half a message":   func(_ *yamux.Session, s *yamux.Stream) { s.Write([]byte{0, 0, 0, 9, '{'}) },
		"a huge message":   func(_ *yamux.Session, s *yamux.Stream) { s.Write([]byte{0xff, 0xff, 0xff, 0xff, '{'}) },
		"no JSON":          func(_ *yamux.Session, s *yamux.Stream) { s.Write([]byte{0, 0, 0, 2, '{', ']'}) },
		"another type":     func(_ *yamux.Session, s *yamux.Stream) { wire.WriteMessage(s, []int{1}) },
		"no body":          func(_ *yamux.Session, s *yamux.Stream) { wire.WriteMessage(s, wire.Reply{}) },
		"a body of a type": func(_ *yamux.Session, s *yamux.Stream) { wire.WriteMessage(s, wire.Reply{Body: []byte(`"x"`)}) },
		"opens streams":    func(m *yamux.Session, s *yamux.Stream) { m.OpenStream() },
		"ends the session": func(m *yamux.Session, s *yamux.Stream) { m.Close() },
		"an error to escape": func(_ *yamux.Session, s *yamux.Stream) {
			wire.WriteMessage(s, wire.Reply{Error: &wire.Error{Message: "\x1b]0;owned\x07" + strings.Repeat("x", 100_000)}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			host, guest := pair(t)
			agent(t, guest, answer)
			c := open(t, host)
			_, err := c.Stats(within(t))
			if err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("Stats = %v, want an error before the deadline", err)
			}
			if strings.ContainsAny(err.Error(), "\x1b\x07") || len(err.Error()) > 2*maxText {
				t.Errorf("error of %d bytes: %.60q", len(err.Error()), err)
			}
		})
	}
}

// What broke the session is what the calls under way report.
func TestBrokenSessionSaysWhy(t *testing.T) {
	host, guest := pair(t)
	agent(t, guest, func(m *yamux.Session, s *yamux.Stream) { m.OpenStream(); <-m.CloseChan() })
	c := open(t, host)
	if _, err := c.Stats(within(t)); !errors.Is(err, muxguard.ErrOpen) {
		t.Errorf("Stats = %v, want %v", err, muxguard.ErrOpen)
	}
	<-c.Done()
	if err := c.Err(); !errors.Is(err, muxguard.ErrOpen) {
		t.Errorf("Err = %v, want %v", err, muxguard.ErrOpen)
	}
}

// An agent that never answers holds nobody longer than the context.
func TestMuteAgent(t *testing.T) {
	host, guest := pair(t)
	release := make(chan struct{})
	agent(t, guest, func(*yamux.Session, *yamux.Stream) { <-release })
	t.Cleanup(func() { close(release) })
	c := open(t, host)
	for c.session.NumStreams() > 0 { // the first request's, still closing
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("why")
	var wg sync.WaitGroup
	for range wire.MaxStreams {
		wg.Go(func() {
			if _, err := c.Stats(ctx); !errors.Is(err, why) {
				t.Errorf("Stats = %v, want the context's cause", err)
			}
		})
	}
	for c.session.NumStreams() < wire.MaxStreams {
		time.Sleep(time.Millisecond) // yamux has no event for it
	}
	if _, err := c.Stats(ctx); !errors.Is(err, ErrBusy) {
		t.Errorf("one call too many = %v, want ErrBusy", err)
	}
	cancel(why)
	wg.Wait()
}

func TestNoGreeting(t *testing.T) {
	host, guest := pair(t)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := Open(ctx, host, key, wire.Hello{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Open without an agent = %v", err)
	}
	if _, err := io.ReadFull(guest, make([]byte, 32)); err != nil { // the greeting nobody answered
		t.Fatal(err)
	}
	// The connection is as good as before.
	agent(t, guest, func(_ *yamux.Session, s *yamux.Stream) {
		wire.WriteMessage(s, wire.Reply{Body: []byte(`{"memTotal":1}`)})
	})
	c := open(t, host)
	if st, err := c.Stats(within(t)); err != nil || st.MemTotal != 1 {
		t.Errorf("Stats = %+v, %v", st, err)
	}
}

func TestHostileFrames(t *testing.T) {
	frame := func(kind byte, n uint32, b string) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{kind}, n), b...)
	}
	for name, bytesOut := range map[string][]byte{
		"unknown kind":      frame(99, 1, "x"),
		"too long":          frame(byte(wire.FrameStdout), wire.MaxFrame+1, "x"),
		"half a frame":      frame(byte(wire.FrameStdout), 10, "x"),
		"the host's kind":   frame(byte(wire.FrameStdin), 1, "x"),
		"no JSON exit":      frame(byte(wire.FrameExit), 1, "x"),
		"end without exit":  frame(byte(wire.FrameStdout), 1, "x"),
		"nothing whatever":  nil,
		"an exit of a type": frame(byte(wire.FrameExit), 2, "[]"),
	} {
		t.Run(name, func(t *testing.T) {
			host, guest := pair(t)
			agent(t, guest, func(_ *yamux.Session, s *yamux.Stream) {
				wire.WriteMessage(s, wire.Reply{Body: []byte(`{"pid":1}`)})
				s.Write(bytesOut)
			})
			s, _, err := open(t, host).Exec(within(t), wire.Exec{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if exit, err := s.Run(io.Discard, io.Discard); err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Run = %+v, %v; want an error before the deadline", exit, err)
			}
		})
	}
}

func TestHostileEvents(t *testing.T) {
	host, guest := pair(t)
	agent(t, guest, func(_ *yamux.Session, s *yamux.Stream) {
		wire.WriteMessage(s, wire.Reply{})
		wire.WriteMessage(s, wire.Event{Kind: "novel", Output: "\x1b[31m" + strings.Repeat("o", 500_000), Exit: &wire.ExitStatus{Error: "\x00"}})
		wire.WriteMessage(s, wire.Event{Container: strings.Repeat("c", 65)})
	})
	var got []wire.Event
	err := open(t, host).Events(within(t), func(e wire.Event) error { got = append(got, e); return nil })
	if err == nil || errors.Is(err, context.DeadlineExceeded) || len(got) != 1 {
		t.Fatalf("Events = %d events, %v", len(got), err)
	}
	if e := got[0]; !strings.HasPrefix(e.Output, "[31mo") || len(e.Output) > maxText || e.Exit.Error != "" {
		t.Errorf("event of %d bytes, %.10q, %q", len(e.Output), e.Output, e.Exit.Error)
	}
}

// machineLogs answers the greeting and sends these bytes, reading what comes;
// acks waits for the host to close and returns that.
func machineLogs(t testing.TB, guest net.Conn, out []byte) (acked func() []byte) {
	t.Helper()
	var acks bytes.Buffer
	var wg sync.WaitGroup
	wg.Go(func() {
		if wire.Answer(guest, key) != nil {
			return
		}
		var inner sync.WaitGroup
		inner.Go(func() { io.Copy(&acks, guest) })
		guest.Write(out)
		guest.(*net.UnixConn).CloseWrite()
		inner.Wait()
	})
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { guest.Close() })
	return func() []byte {
		wg.Wait()
		return acks.Bytes()
	}
}

func TestLogsKeepOrder(t *testing.T) {
	record := func(b []byte, seq uint64) []byte {
		b, err := wire.AppendLogRecord(b, &wire.LogRecord{Seq: seq, Container: "c", Stream: wire.FrameStdout, Line: []byte{byte(seq)}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, test := range map[string]struct {
		seqs []uint64
		last uint64
		want string
		gap  bool
	}{
		"in order":        {[]uint64{1, 2, 3}, 0, "\x01\x02\x03", false},
		"resent":          {[]uint64{1, 2, 3, 2, 3, 4}, 0, "\x01\x02\x03\x04", false},
		"resent before":   {[]uint64{3, 4, 5}, 4, "\x05", false},
		"a gap":           {[]uint64{1, 3}, 0, "\x01", true},
		"the wrong start": {[]uint64{9}, 0, "", true},
		"no zero":         {[]uint64{0, 1}, 0, "\x01", false},
	} {
		t.Run(name, func(t *testing.T) {
			host, guest := pair(t)
			var out []byte
			for _, s := range test.seqs {
				out = record(out, s)
			}
			machineLogs(t, guest, out)
			var got []byte
			err := ReadLogs(within(t), host, key, test.last, func(r wire.LogRecord) error {
				got = append(got, r.Line...)
				return nil
			})
			if err == nil || strings.Contains(err.Error(), "lost") != test.gap {
				t.Errorf("ReadLogs = %v, want an error, of a gap: %v", err, test.gap)
			}
			if test.gap {
				// What came before the gap may wait for the next session.
				if !strings.HasPrefix(test.want, string(got)) {
					t.Errorf("lines %q, want at most %q", got, test.want)
				}
			} else if string(got) != test.want {
				t.Errorf("lines %q, want %q", got, test.want)
			}
		})
	}
}

// A record is acknowledged after it was written down, never before.
func TestLogsAckAfterWrite(t *testing.T) {
	host, guest := pair(t)
	fail := errors.New("disk full")
	var out []byte
	for i := range uint64(1000) {
		out, _ = wire.AppendLogRecord(out, &wire.LogRecord{Seq: i + 1, Stream: wire.FrameStdout, Line: make([]byte, 500)})
	}
	acked := machineLogs(t, guest, out)
	var written uint64
	err := ReadLogBatches(within(t), host, key, 0, func(batch []wire.LogRecord) error {
		if len(batch) == 0 || len(batch) > maxLogBatch {
			t.Errorf("a batch of %d", len(batch))
		}
		if batch[len(batch)-1].Seq > 700 {
			return fail
		}
		written = batch[len(batch)-1].Seq
		return nil
	})
	if !errors.Is(err, fail) {
		t.Fatal(err)
	}
	host.Close()
	b := acked()
	if len(b) < 16 {
		t.Errorf("%d bytes of acknowledgements, want the first and more", len(b))
	}
	for len(b) >= 8 {
		if seq := binary.BigEndian.Uint64(b); seq > written {
			t.Fatalf("record %d acknowledged, %d written", seq, written)
		}
		b = b[8:]
	}
}

// Whatever a machine sends on its log port: records come in order without gaps,
// and reading ends.
func FuzzLogs(f *testing.F) {
	good, _ := wire.AppendLogRecord(nil, &wire.LogRecord{Seq: 1, Container: "c", Stream: wire.FrameStderr, Line: []byte("x")})
	f.Add(good)
	f.Add(append(bytes.Clone(good), good...))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1, 2, 3})
	f.Add([]byte{0, 0, 0, 18})
	f.Fuzz(func(t *testing.T, out []byte) {
		host, guest := pair(t)
		machineLogs(t, guest, out)
		last := uint64(0)
		err := ReadLogs(within(t), host, key, 0, func(r wire.LogRecord) error {
			if r.Seq != last+1 {
				t.Errorf("record %d after %d", r.Seq, last)
			}
			last = r.Seq
			return nil
		})
		if err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ReadLogs = %v", err)
		}
		host.Close()
	})
}

// Whatever a machine sends instead of a session: a call ends with an error.
func FuzzSession(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, '{', '}'})
	f.Add([]byte{0, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 6, 0, 0, 0, 2, '{', '}'})
	f.Add(bytes.Repeat([]byte{0, 2, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0}, 100))
	f.Fuzz(func(t *testing.T, out []byte) {
		host, guest := pair(t)
		var wg sync.WaitGroup
		t.Cleanup(wg.Wait)
		wg.Go(func() {
			if wire.Answer(guest, key) != nil {
				return
			}
			guest.Write(out)
			guest.(*net.UnixConn).CloseWrite()
			io.Copy(io.Discard, guest)
		})
		c, reply, err := Open(within(t), host, key, wire.Hello{})
		if err == nil {
			t.Logf("a hello by chance: %+v", reply)
			c.Close()
		} else if errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Open = %v", err)
		}
		host.Close()
	})
}
