package logs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/stackvm/stack/guest/wire"
)

func record(seq uint64, line string) *wire.LogRecord {
	return &wire.LogRecord{Seq: seq, TimeNanos: int64(seq) * 1e9, Stream: wire.FrameStdout, Line: []byte(line)}
}

func readAll(t testing.TB, r *Reader) []Record {
	t.Helper()
	var got []Record
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, rec)
	}
}

func seqs(records []Record) []uint64 {
	var s []uint64
	for _, r := range records {
		s = append(s, r.Seq)
	}
	return s
}

func open(t testing.TB, path string, f Filter) *Reader {
	t.Helper()
	r, err := Open(path, f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func TestReaderSelects(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.json")
	w, err := OpenWriter(path, Rotation{MaxBytes: 270, MaxFiles: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for i := uint64(1); i <= 12; i++ {
		if err := w.Append(record(i, fmt.Sprintf("line %d", i))); err != nil {
			t.Fatal(err)
		}
	}
	at := func(n int64) time.Time { return time.Unix(n, 0) }
	for _, tt := range []struct {
		name   string
		filter Filter
		want   string
	}{
		{"all that is kept", Filter{Tail: -1}, "[4 5 6 7 8 9 10 11 12]"},
		{"tail within the current file", Filter{Tail: 1}, "[12]"},
		{"tail across files", Filter{Tail: 5}, "[8 9 10 11 12]"},
		{"tail of more than there is", Filter{Tail: 100}, "[4 5 6 7 8 9 10 11 12]"},
		{"tail of nothing", Filter{Tail: 0}, "[]"},
		{"since", Filter{Tail: -1, Since: at(10)}, "[10 11 12]"},
		{"until", Filter{Tail: -1, Until: at(4)}, "[4]"},
		{"between", Filter{Tail: -1, Since: at(5), Until: at(6)}, "[5 6]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := readAll(t, open(t, path, tt.filter))
			if s := fmt.Sprint(seqs(got)); s != tt.want {
				t.Errorf("got %s, want %s", s, tt.want)
			}
			for _, r := range got {
				if want := fmt.Sprintf("line %d\n", r.Seq); r.Log != want {
					t.Errorf("record %d is %q", r.Seq, r.Log)
				}
			}
		})
	}
}

func TestWriterGoesOnAfterAKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.json")
	w, err := OpenWriter(path, Default)
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= 3; i++ {
		if err := w.Append(record(i, "x")); err != nil {
			t.Fatal(err)
		}
	}
	// Killed in the middle of a write: half a line is left.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"log":"ha`)
	f.Close()
	w2, err := OpenWriter(path, Default)
	if err != nil {
		t.Fatal(err)
	}
	defer w2.Close()
	if w2.Last() != 3 {
		t.Fatalf("last record is %d", w2.Last())
	}
	// The machine resends; what is there already is left out.
	if err := w2.Append(record(2, "x"), record(3, "x"), record(4, "y")); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(seqs(readAll(t, open(t, path, Filter{Tail: -1})))); got != "[1 2 3 4]" {
		t.Errorf("the log holds %s", got)
	}
	w.Close()
}

// A follower that reads at any moment between appends, rotations and restarts
// of the writer sees every record once, in order, as long as it is not slower
// than the rotation.
func TestFollowerMissesNothing(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp("", "logs")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "log.json")
		rotation := Rotation{MaxBytes: int64(rapid.IntRange(100, 900).Draw(rt, "size")), MaxFiles: 1000}
		w, err := OpenWriter(path, rotation)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { w.Close() }()
		r, err := Open(path, Filter{Tail: -1})
		if err != nil {
			rt.Fatal(err)
		}
		defer r.Close()
		var seq, seen uint64
		read := func() {
			for {
				rec, err := r.Next()
				if errors.Is(err, io.EOF) {
					return
				}
				if err != nil {
					rt.Fatal(err)
				}
				if rec.Seq != seen+1 {
					rt.Fatalf("record %d follows %d", rec.Seq, seen)
				}
				seen = rec.Seq
			}
		}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			switch rapid.IntRange(0, 6).Draw(rt, "step") {
			case 0:
				read()
			case 2: // another machine, which counts from 1
				if err := w.Begin(); err != nil {
					rt.Fatal(err)
				}
				read()
				seq, seen = 0, 0
			case 1: // killed and restarted, with half a line
				f, _ := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
				f.WriteString(`{"lo`)
				f.Close()
				w.Close()
				if w, err = OpenWriter(path, rotation); err != nil {
					rt.Fatal(err)
				}
				if w.Last() != seq {
					rt.Fatalf("recovered %d, wrote %d", w.Last(), seq)
				}
			case 3: // the end of a run: no record, and nothing is counted anew
				if err := w.End(time.Unix(int64(seq), 0), End{Seen: time.Unix(1, 0)}, seq); err != nil {
					rt.Fatal(err)
				}
			default:
				var batch []*wire.LogRecord
				for range rapid.IntRange(1, 5).Draw(rt, "records") {
					seq++
					batch = append(batch, record(seq, strings.Repeat("a", int(seq%50))))
				}
				if err := w.Append(batch...); err != nil {
					rt.Fatal(err)
				}
			}
		}
		read()
		if seen != seq {
			rt.Fatalf("saw %d of %d", seen, seq)
		}
	})
}

// One batch that is more than a file may hold goes into several.
func TestRotationOfOneBatch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.json")
	w, err := OpenWriter(path, Rotation{MaxBytes: 1000, MaxFiles: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var batch []*wire.LogRecord
	for seq := range uint64(100) {
		batch = append(batch, record(seq+1, "line"))
	}
	if err := w.Append(batch...); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		if info, err := os.Stat(rotated(path, n)); err != nil || info.Size() > 1000 {
			t.Errorf("file %d: %v, %v", n, info, err)
		}
	}
	got := seqs(readAll(t, open(t, path, Filter{Tail: -1})))
	if n := len(got); n < 20 || n > 60 || got[n-1] != 100 || got[0] != uint64(101-n) {
		t.Errorf("kept: %v", got)
	}
}

// The end of a run stands behind the last line of the run, whichever of the two
// arrives first and whatever the clocks say.
func TestEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.json")
	w, err := OpenWriter(path, Default)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	all := open(t, path, Filter{Tail: -1, Ends: true})
	got := func() string {
		var words []string
		for _, r := range readAll(t, all) {
			if r.End != nil {
				words = append(words, fmt.Sprintf("end %d at %d", r.End.Code, r.Time.Unix()))
				continue
			}
			words = append(words, strings.TrimSpace(r.Log))
		}
		return strings.Join(words, ", ")
	}
	check := func(what, want string, err error) {
		t.Helper()
		if now := got(); err != nil || now != want {
			t.Errorf("%s: %q, %v; want %q", what, now, err, want)
		}
	}
	end := func(code int, seq uint64) error {
		return w.End(time.Unix(1, 0), End{Code: code, Seen: time.Unix(5, 0)}, seq)
	}
	check("the first record", "one", w.Append(record(1, "one")))
	check("an end that is too early", "", end(3, 3))
	check("its last but one record", "two", w.Append(record(2, "two")))
	changed := w.Changed()
	check("its last record", "three, end 3 at 1", w.Append(record(3, "three")))
	<-changed
	check("an end after the last record", "end 4 at 1", end(4, 3))
	check("an end whose record does not come", "", end(5, 9))
	check("another machine", "end 5 at 1", w.Begin())
	check("its record", "four", w.Append(record(1, "four")))
	check("another such end", "", end(6, 9))
	check("no more comes", "end 6 at 1", w.Settle())

	// They count as no lines, and who does not ask does not see them.
	if got := readAll(t, open(t, path, Filter{Tail: 2})); len(got) != 2 || got[0].Log != "three\n" || got[1].Log != "four\n" {
		t.Errorf("the last two: %+v", got)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w, err = OpenWriter(path, Default); err != nil || w.Last() != 1 {
		t.Fatalf("reopened, the last record is %d, %v", w.Last(), err)
	}
}

func TestTailDoesNotCountMarkers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.json")
	w, err := OpenWriter(path, Default)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for machine := range 3 {
		if err := w.Begin(); err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			if err := w.Append(record(uint64(i+1), fmt.Sprint(machine, i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Begin(); err != nil {
		t.Fatal(err)
	}
	for n, want := range []int{0, 1, 2, 3, 4, 5, 6, 6} {
		got := readAll(t, open(t, path, Filter{Tail: n}))
		if len(got) != want {
			t.Errorf("tail %d gives %d records", n, len(got))
		}
		if want == 3 && got[0].Log != "1 1\n" {
			t.Errorf("tail 3 begins with %q", got[0].Log)
		}
	}
	if w.Last() != 0 {
		t.Errorf("the new machine's last record is %d", w.Last())
	}
}

func TestRotationWith(t *testing.T) {
	for _, tt := range []struct {
		options map[string]string
		want    Rotation
		fails   bool
	}{
		{nil, Default, false},
		{map[string]string{"max-size": "10m", "max-file": "5"}, Rotation{10 << 20, 5}, false},
		{map[string]string{"max-size": "-1"}, Rotation{0, 3}, false},
		{map[string]string{"max-size": "ten"}, Default, true},
		{map[string]string{"max-file": "0"}, Default, true},
	} {
		got, err := Default.With(tt.options)
		if (err != nil) != tt.fails || (err == nil && got != tt.want) {
			t.Errorf("Default.With(%v) = %v, %v", tt.options, got, err)
		}
	}
}

func FuzzAppendRecord(f *testing.F) {
	f.Add([]byte("plain"), false)
	f.Add([]byte("quote\" back\\ \x00\x1b[0m\xff\xfe ü \u2028"), true)
	f.Fuzz(func(t *testing.T, line []byte, partial bool) {
		b := appendRecord(nil, &wire.LogRecord{Seq: 7, Line: line, Partial: partial})
		if bytes.Count(b, []byte("\n")) != 1 || b[len(b)-1] != '\n' {
			t.Fatalf("not one line: %q", b)
		}
		var r Record
		if err := json.Unmarshal(b, &r); err != nil {
			t.Fatalf("%v: %q", err, b)
		}
		want := string(line)
		if !utf8.ValidString(want) {
			var sb strings.Builder
			for _, c := range want {
				sb.WriteRune(c)
			}
			want = sb.String()
		}
		if !partial {
			want += "\n"
		}
		if r.Log != want || r.Seq != 7 {
			t.Fatalf("got %q, want %q", r.Log, want)
		}
	})
}

func FuzzReader(f *testing.F) {
	f.Add([]byte("{\"log\":\"a\\n\",\"seq\":1}\nnot json\n{\"log\":\"b"))
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "log.json")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		n := len(readAll(t, open(t, path, Filter{Tail: -1})))
		if lines := bytes.Count(content, []byte("\n")); n > lines {
			t.Errorf("%d records from %d lines", n, lines)
		}
		w, err := OpenWriter(path, Default)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if w.Last() == ^uint64(0) {
			return
		}
		if err := w.Append(record(w.Last()+1, "new")); err != nil {
			t.Fatal(err)
		}
		got := readAll(t, open(t, path, Filter{Tail: 1}))
		if len(got) != 1 || got[0].Log != "new\n" {
			t.Errorf("the appended record reads as %v", got)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{100, 4000} {
		b.Run(fmt.Sprintf("line=%d", size), func(b *testing.B) {
			w, err := OpenWriter(filepath.Join(b.TempDir(), "log.json"), Default)
			if err != nil {
				b.Fatal(err)
			}
			defer w.Close()
			line := bytes.Repeat([]byte("x"), size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			var seq uint64
			for b.Loop() {
				seq++
				if err := w.Append(&wire.LogRecord{Seq: seq, Line: line}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
