//go:build linux

package logs

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"sync"
	"time"

	"github.com/stackvm/stack/guest/wire"
)

// MaxUnacked is how many bytes of records wait for the host before writers block.
const MaxUnacked = 1 << 20

// batch is how much one write to the port takes: virtio-serial's own limit.
const batch = 32 << 10

// Queue holds the machine's log records that the host has not acknowledged.
type Queue struct {
	mu      sync.Mutex
	changed sync.Cond // records came, went, or the session changed
	seq     uint64    // of the newest record
	records []byte    // encoded, oldest first
	sent    int       // bytes of records already sent to this session
	session int       // counts sessions; a writer of an old one stops
}

// NewQueue returns an empty queue.
func NewQueue() *Queue {
	q := new(Queue)
	q.changed.L = &q.mu
	return q
}

// Append numbers a record and adds it, waiting for room; with a buffer, it drops
// the record when more bytes than that wait. Its Seq is ignored.
func (q *Queue) Append(r *wire.LogRecord, buffer int) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if buffer > 0 && len(q.records) > buffer {
		return nil
	}
	for buffer == 0 && len(q.records) > MaxUnacked {
		q.changed.Wait()
	}
	r.Seq = q.seq + 1
	records, err := wire.AppendLogRecord(q.records, r)
	if err != nil {
		return err
	}
	q.records, q.seq = records, r.Seq
	if len(q.records)-q.sent < batch {
		q.changed.Broadcast()
	}
	return nil
}

// ackLocked forgets the records up to and including seq and returns how many bytes
// they were. A record that never was is none of the host's acknowledgements: the
// key of its next greeting passes through the session that it ends, and half of it
// reads like one.
func (q *Queue) ackLocked(seq uint64) int {
	if seq > q.seq {
		return 0
	}
	n := 0
	for n < len(q.records) {
		// The encoding begins with the length of what follows, then the number.
		b := q.records[n:]
		if binary.BigEndian.Uint64(b[4:]) > seq {
			break
		}
		n += 4 + int(binary.BigEndian.Uint32(b))
	}
	if n == 0 {
		return 0
	}
	rest := len(q.records) - n
	if rest == 0 && cap(q.records) > 4*batch {
		q.records = nil // a burst is over: its memory goes back
	} else {
		q.records = q.records[:copy(q.records, q.records[n:])]
	}
	q.changed.Broadcast()
	return n
}

// Session serves one greeting's session on conn and returns when conn fails.
func (q *Queue) Session(conn io.ReadWriteCloser) {
	have, err := wire.ReadLogAck(conn)
	if err != nil {
		return
	}
	q.mu.Lock()
	q.session++
	session := q.session
	q.ackLocked(have)
	q.sent = 0
	q.changed.Broadcast()
	q.mu.Unlock()

	done := make(chan struct{})
	go func() {
		defer close(done)
		q.send(conn, session)
	}()
	for {
		seq, err := wire.ReadLogAck(conn)
		if err != nil {
			break
		}
		q.mu.Lock()
		q.sent -= min(q.ackLocked(seq), q.sent)
		q.mu.Unlock()
	}
	q.mu.Lock()
	q.session++
	q.changed.Broadcast()
	q.mu.Unlock()
	conn.Close()
	<-done
}

// send writes records as they come, as many at once as there are.
func (q *Queue) send(conn io.Writer, session int) {
	buf := make([]byte, 0, batch)
	for {
		q.mu.Lock()
		for q.session == session && q.sent == len(q.records) {
			q.changed.Wait()
		}
		if q.session != session {
			q.mu.Unlock()
			return
		}
		buf = append(buf[:0], q.records[q.sent:min(len(q.records), q.sent+batch)]...)
		q.sent += len(buf)
		q.mu.Unlock()
		if _, err := conn.Write(buf); err != nil {
			return
		}
	}
}

// Drain returns when the host has acknowledged every record that was there when
// it was called, or ctx ends.
func (q *Queue) Drain(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.changed.Broadcast()
	})()
	q.mu.Lock()
	defer q.mu.Unlock()
	for last := q.seq; q.pendingLocked(last) && ctx.Err() == nil; {
		q.changed.Wait()
	}
	return ctx.Err()
}

// pendingLocked reports whether a record up to seq is not acknowledged.
func (q *Queue) pendingLocked(seq uint64) bool {
	return len(q.records) > 0 && binary.BigEndian.Uint64(q.records[4:]) <= seq
}

// Writer turns what a container writes to one of its streams into records.
// It is not safe for concurrent use.
type Writer struct {
	// Buffer, unless 0, is how many bytes may wait for the host before records are
	// dropped. Set before the first write.
	Buffer int

	queue  *Queue
	record wire.LogRecord
	raw    bool
	line   []byte // the beginning of a line that has not ended
}

// NewWriter returns a writer of a container's stream. A raw one, of a terminal,
// does not wait for the end of a line: what is there is a partial record.
func (q *Queue) NewWriter(container string, stream wire.FrameKind, raw bool) *Writer {
	return &Writer{queue: q, raw: raw, record: wire.LogRecord{Container: container, Stream: stream}}
}

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (int, error) {
	now := time.Now().UnixNano()
	total := len(p)
	for len(p) > 0 {
		room := wire.MaxLogLine - len(w.line)
		end := bytes.IndexByte(p[:min(len(p), room+1)], '\n')
		switch {
		case end >= 0:
			if err := w.emit(now, p[:end], false); err != nil {
				return total - len(p), err
			}
			p = p[end+1:]
		case len(p) > room:
			if err := w.emit(now, p[:room], true); err != nil {
				return total - len(p), err
			}
			p = p[room:]
		default:
			w.line = append(w.line, p...)
			p = nil
		}
	}
	if w.raw {
		return total, w.flush(now)
	}
	return total, nil
}

// Seq is the number of the last record that was added, 0 before the first.
func (w *Writer) Seq() uint64 { return w.record.Seq }

// Flush writes down a last line that no newline ended.
func (w *Writer) Flush() error { return w.flush(time.Now().UnixNano()) }

func (w *Writer) flush(now int64) error {
	if len(w.line) == 0 {
		return nil
	}
	// Only a terminal's line goes on; at the end of the stream it is complete.
	return w.emit(now, nil, w.raw)
}

func (w *Writer) emit(now int64, end []byte, partial bool) error {
	line := end
	if len(w.line) > 0 {
		line = append(w.line, end...)
		w.line = w.line[:0]
	}
	w.record.TimeNanos, w.record.Line, w.record.Partial = now, line, partial
	return w.queue.Append(&w.record, w.Buffer)
}
