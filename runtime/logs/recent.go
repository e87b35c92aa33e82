package logs

import (
	"io"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/stackvm/stack/guest/wire"
)

// maxRecent bounds the lines, in bytes, that a Recent holds.
const maxRecent = 256 << 10

// Recent is the log of a replica that shall have none: its last lines in memory, for
// whoever is attached to it. Its methods may be called concurrently.
type Recent struct {
	mu      sync.Mutex // guards what follows
	records []Record
	dropped int // records before those
	bytes   int
	last    uint64
	ends    []pendingEnd
	changed chan struct{} // closed at the next append; nil while nobody waits
	closed  bool
}

// Append holds records; those that it has had, by number, are left out.
func (r *Recent) Append(records ...*wire.LogRecord) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, in := range records {
		if in.Seq <= r.last {
			continue
		}
		rec := Record{Log: strings.ToValidUTF8(string(in.Line), "\uFFFD"), Stream: "stdout", Time: recordTime(in.TimeNanos), Seq: in.Seq}
		if !in.Partial {
			rec.Log += "\n"
		}
		if in.Stream == wire.FrameStderr {
			rec.Stream = "stderr"
		}
		r.addLocked(rec)
		r.last = in.Seq
	}
	r.endLocked(r.last)
	return nil
}

func (r *Recent) addLocked(rec Record) {
	r.records = append(r.records, rec)
	r.bytes += cost(rec)
	for r.bytes > maxRecent && len(r.records) > 1 {
		r.bytes -= cost(r.records[0])
		r.records = r.records[1:]
		r.dropped++
	}
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// cost is about what a record occupies.
func cost(rec Record) int { return len(rec.Log) + 100 }

// Last is the number of the last record, 0 for none.
func (r *Recent) Last() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// Begin is Writer.Begin.
func (r *Recent) Begin() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endLocked(math.MaxUint64)
	r.last = 0
	return nil
}

// End is Writer.End.
func (r *Recent) End(at time.Time, e End, seq uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ends = append(r.ends, pendingEnd{at, e, seq})
	r.endLocked(r.last)
	return nil
}

// Settle is Writer.Settle.
func (r *Recent) Settle() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endLocked(math.MaxUint64)
	return nil
}

// endLocked adds the ends of runs whose records up to seq are all there are.
func (r *Recent) endLocked(seq uint64) {
	for len(r.ends) > 0 && r.ends[0].seq <= seq {
		e := r.ends[0]
		r.addLocked(Record{Time: e.at, Seq: r.last, End: &e.end})
		r.ends = r.ends[1:]
	}
}

// Changed returns a channel that is closed at the next append, or at Close.
func (r *Recent) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	ch := r.changed
	if ch == nil {
		ch = make(chan struct{})
		r.changed = ch
		if r.closed {
			close(ch)
			r.changed = nil
		}
	}
	return ch
}

// Close wakes who waits. What is there can still be read.
func (r *Recent) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
	return nil
}

// Read reads what is held, and then what comes: lines since a time, or without lines
// only how runs ended. What is dropped before it is read is passed over.
func (r *Recent) Read(since time.Time, lines bool) *RecentReader {
	return &RecentReader{of: r, since: since, lines: lines}
}

// RecentReader reads a Recent. It is not safe for concurrent use.
type RecentReader struct {
	of    *Recent
	since time.Time
	lines bool
	next  int // counted from the first record that there was
}

// Next returns the next record, or io.EOF when there is none yet.
func (r *RecentReader) Next() (Record, error) {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	r.next = max(r.next, r.of.dropped)
	for r.next-r.of.dropped < len(r.of.records) {
		rec := r.of.records[r.next-r.of.dropped]
		r.next++
		if rec.End != nil || r.lines && !rec.Time.Before(r.since) {
			return rec, nil
		}
	}
	return Record{}, io.EOF
}

// Close does nothing: there is nothing to close.
func (*RecentReader) Close() error { return nil }
