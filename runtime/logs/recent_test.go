package logs

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stackvm/stack/guest/wire"
)

// readRecent is what a reader has now, ends as "end CODE".
func readRecent(t *testing.T, r *RecentReader) (lines []string) {
	t.Helper()
	for {
		rec, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return lines
		case err != nil:
			t.Fatal(err)
		case rec.End != nil:
			lines = append(lines, "end "+string(rune('0'+rec.End.Code)))
		default:
			lines = append(lines, rec.Stream+" "+rec.Log)
		}
	}
}

func TestRecent(t *testing.T) {
	var r Recent
	at := func(n int) time.Time { return time.Unix(int64(n), 0) }
	line := func(seq uint64, text string, more func(*wire.LogRecord)) *wire.LogRecord {
		rec := &wire.LogRecord{Seq: seq, Stream: wire.FrameStdout, TimeNanos: at(int(seq)).UnixNano(), Line: []byte(text)}
		if more != nil {
			more(rec)
		}
		return rec
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	all, late, ends := r.Read(time.Time{}, true), r.Read(at(2), true), r.Read(time.Time{}, false)
	changed := r.Changed()
	check(r.Append(line(1, "one", nil), line(2, "tw", func(l *wire.LogRecord) { l.Partial = true }), line(2, "again", nil), line(3, "o\xff", func(l *wire.LogRecord) { l.Stream = wire.FrameStderr })))
	<-changed
	check(r.End(at(9), End{Code: 3}, 4)) // its last record is still to come
	if diff := cmp.Diff([]string{"stdout one\n", "stdout tw", "stderr o\uFFFD\n"}, readRecent(t, all)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	check(r.Append(line(4, "last", nil)))
	// Another machine counts from 1 again; its last record never comes.
	check(r.Begin())
	check(r.Append(line(1, "anew", nil)))
	check(r.End(at(10), End{Code: 4}, 7))
	check(r.Settle())
	if diff := cmp.Diff([]string{"stdout last\n", "end 3", "stdout anew\n", "end 4"}, readRecent(t, all)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"stdout tw", "stderr o\uFFFD\n", "stdout last\n", "end 3", "end 4"}, readRecent(t, late)); diff != "" {
		t.Errorf("since a time, -want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"end 3", "end 4"}, readRecent(t, ends)); diff != "" {
		t.Errorf("ends alone, -want +got:\n%s", diff)
	}

	// What is held is bounded, also where nobody reads.
	for i := range 10 * maxRecent / 1000 {
		check(r.Append(line(uint64(10+i), strings.Repeat("x", 1000), nil)))
	}
	if got := readRecent(t, r.Read(time.Time{}, true)); len(got)*1000 > maxRecent || len(got) < 200 {
		t.Errorf("%d lines are held", len(got))
	}
	if got := readRecent(t, all); len(got)*1000 > maxRecent {
		t.Errorf("a slow reader has %d lines", len(got))
	}
	changed = r.Changed()
	check(r.Close())
	<-changed
	<-r.Changed()
}
