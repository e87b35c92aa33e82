//go:build linux

package logs

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/stackvm/stack/guest/wire"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host reads a session's records and acknowledges at its own pace.
type host struct {
	net.Conn
	r *bufio.Reader
}

func attach(q *Queue, have uint64) (*host, <-chan struct{}) {
	ours, theirs := net.Pipe()
	over := make(chan struct{})
	go func() {
		defer close(over)
		q.Session(theirs)
	}()
	wire.WriteLogAck(ours, have)
	return &host{ours, bufio.NewReader(ours)}, over
}

// Hosts come and go, acknowledging or not, and between them have every record
// once and in order.
func TestResend(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := NewQueue()
		w := q.NewWriter("id", wire.FrameStdout, false)
		total := rapid.IntRange(1, 60).Draw(t, "lines")
		for i := range total {
			fmt.Fprintf(w, "line %d\n", i+1)
		}
		have := uint64(0)
		for have < uint64(total) {
			h, over := attach(q, have)
			for n := rapid.IntRange(0, total).Draw(t, "read"); n > 0 && have < uint64(total); n-- {
				r, err := wire.ReadLogRecord(h.r)
				if err != nil {
					t.Fatal(err)
				}
				if r.Seq != have+1 || string(r.Line) != fmt.Sprintf("line %d", r.Seq) {
					t.Fatalf("record %d %q after %d", r.Seq, r.Line, have)
				}
				have = r.Seq
				if rapid.Bool().Draw(t, "acknowledge") {
					wire.WriteLogAck(h, have)
				}
			}
			h.Close()
			<-over
		}
		h, over := attach(q, have)
		ctx, cancel := context.WithCancel(context.Background())
		if err := q.Drain(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
		h.Close()
		<-over
	})
}

// A writer waits when a MiB is not acknowledged, and goes on when it is.
func TestBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue()
		line := strings.Repeat("x", 1000) + "\n"
		written := make(chan int, 1)
		go func() {
			w := q.NewWriter("id", wire.FrameStderr, false)
			n := 0
			for ; n < 3000; n++ {
				w.Write([]byte(line))
			}
			written <- n
		}()
		synctest.Wait()
		select {
		case <-written:
			t.Fatal("three MB were taken without a host")
		default:
		}
		q.mu.Lock()
		held := len(q.records)
		q.mu.Unlock()
		if held > MaxUnacked+2000 {
			t.Errorf("%d bytes are held", held)
		}
		h, over := attach(q, 0)
		for seq := uint64(1); seq <= 3000; seq++ {
			r, err := wire.ReadLogRecord(h.r)
			if err != nil || r.Seq != seq || r.Stream != wire.FrameStderr {
				t.Fatalf("record %d: %d, %v", seq, r.Seq, err)
			}
			wire.WriteLogAck(h, seq)
		}
		<-written
		h.Close()
		<-over
	})
}

// A writer with a buffer never waits: what finds no room is dropped, and what was
// kept comes in order.
func TestNonBlocking(t *testing.T) {
	q := NewQueue()
	w := q.NewWriter("id", wire.FrameStdout, false)
	w.Buffer = 10 << 10
	line := strings.Repeat("x", 1000)
	for range 100 {
		fmt.Fprintln(w, line)
	}
	if held := len(q.records); held < w.Buffer || held > w.Buffer+2000 {
		t.Errorf("%d bytes are held, the buffer is of %d", held, w.Buffer)
	}
	h, over := attach(q, 0)
	for seq := uint64(1); seq <= w.Seq(); seq++ {
		r, err := wire.ReadLogRecord(h.r)
		if err != nil || r.Seq != seq {
			t.Fatalf("record %d: %d, %v", seq, r.Seq, err)
		}
	}
	h.Close()
	<-over
}

func TestWriter(t *testing.T) {
	full := strings.Repeat("x", wire.MaxLogLine)
	type record struct {
		Line    string
		Partial bool
	}
	for _, tt := range []struct {
		name   string
		raw    bool
		writes []string
		want   []record
	}{
		{"lines", false, []string{"a\nb", "c\n\nd"}, []record{{"a", false}, {"bc", false}, {"", false}, {"d", false}}},
		{"exactly full", false, []string{full + "\nx\n"}, []record{{full, false}, {"x", false}}},
		{"longer", false, []string{full, "yz\n"}, []record{{full, true}, {"yz", false}}},
		{"twice as long, in pieces", false, []string{full[:9000], full[:9000], full[:14768], "\n"}, []record{{full, true}, {full, false}}},
		{"no end", false, []string{"prompt"}, []record{{"prompt", false}}},
		{"terminal", true, []string{"prompt# ", "ls\r\n", "x"}, []record{{"prompt# ", true}, {"ls\r", false}, {"x", true}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := NewQueue()
			w := q.NewWriter("id", wire.FrameStdout, tt.raw)
			for _, text := range tt.writes {
				if n, err := w.Write([]byte(text)); n != len(text) || err != nil {
					t.Fatalf("Write: %d, %v", n, err)
				}
			}
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
			var got []record
			for r := strings.NewReader(string(q.records)); r.Len() > 0; {
				rec, err := wire.ReadLogRecord(r)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, record{string(rec.Line), rec.Partial})
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func BenchmarkWriter(b *testing.B) {
	q := NewQueue()
	w := q.NewWriter(strings.Repeat("a", 64), wire.FrameStdout, false)
	line := []byte(strings.Repeat("x", 80) + "\n")
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		w.Write(line)
		q.mu.Lock()
		q.ackLocked(q.seq)
		q.mu.Unlock()
	}
}
