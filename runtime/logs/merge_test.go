package logs

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stackvm/stack/guest/wire"
)

func TestMerge(t *testing.T) {
	dir := t.TempDir()
	var readers []*Reader
	for log, times := range [][]int64{{1, 4, 4, 9}, {}, {2, 3, 10}} {
		path := filepath.Join(dir, strconv.Itoa(log))
		w, err := OpenWriter(path, Rotation{MaxBytes: 1 << 20, MaxFiles: 1})
		if err != nil {
			t.Fatal(err)
		}
		for i, at := range times {
			rec := wire.LogRecord{Seq: uint64(i + 1), TimeNanos: at * int64(time.Second), Stream: wire.FrameStdout, Line: []byte(strconv.FormatInt(at, 10))}
			if err := w.Append(&rec); err != nil {
				t.Fatal(err)
			}
		}
		w.Close()
		r, err := Open(path, Filter{Tail: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		readers = append(readers, r)
	}
	var got []string
	for rec, err := range Merge(readers) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, strconv.Itoa(rec.Reader)+":"+strings.TrimSpace(rec.Log))
	}
	if want := "0:1 2:2 2:3 0:4 0:4 0:9 2:10"; strings.Join(got, " ") != want {
		t.Errorf("merged %v, want %s", got, want)
	}
}
