package fake

import (
	"bufio"
	"io"
	"sync"
	"time"

	"github.com/stackvm/stack/guest/wire"
)

// logKeep is how much of what is not acknowledged the agent keeps before it
// blocks the writer.
const logKeep = 1 << 20

// logQueue holds the records that the host has not acknowledged.
type logQueue struct {
	mu      sync.Mutex
	cond    sync.Cond
	records []wire.LogRecord // Seq without gaps
	bytes   int
	last    uint64            // Seq of the newest record ever
	lastOf  map[string]uint64 // the same by container
	closed  bool
}

func newLogQueue() *logQueue {
	q := &logQueue{lastOf: map[string]uint64{}}
	q.cond.L = &q.mu
	return q
}

func (q *logQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.cond.Broadcast()
}

// add numbers a record and keeps it; it blocks while too much is kept.
func (q *logQueue) add(r wire.LogRecord) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.bytes >= logKeep && !q.closed {
		q.cond.Wait()
	}
	if q.closed {
		return errEnded
	}
	q.last++
	r.Seq = q.last
	q.lastOf[r.Container] = r.Seq
	q.records = append(q.records, r)
	q.bytes += len(r.Line) + 64
	q.cond.Broadcast()
	return nil
}

// lastSeq is the number of a container's newest record.
func (q *logQueue) lastSeq(container string) uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lastOf[container]
}

// ack forgets every record up to seq. It reports false, and forgets nothing, for
// a record that never was: the first bytes of the next greeting look like that.
func (q *logQueue) ack(seq uint64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if seq > q.last {
		return false
	}
	for len(q.records) > 0 && q.records[0].Seq <= seq {
		q.bytes -= len(q.records[0].Line) + 64
		q.records = q.records[1:]
	}
	q.cond.Broadcast()
	return true
}

// next waits for the first record after seq; false when the queue is closed or
// stop answers true.
func (q *logQueue) next(seq uint64, stop *bool) (wire.LogRecord, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if q.closed || *stop {
			return wire.LogRecord{}, false
		}
		if n := len(q.records); n > 0 && q.records[n-1].Seq > seq {
			first := q.records[0].Seq
			return q.records[max(seq+1, first)-first], true
		}
		q.cond.Wait()
	}
}

// drain waits, at most so long, until everything is acknowledged.
func (q *logQueue) drain(limit time.Duration) {
	over := false
	t := time.AfterFunc(limit, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		over = true
		q.cond.Broadcast()
	})
	defer t.Stop()
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.records) > 0 && !over && !q.closed {
		q.cond.Wait()
	}
}

// serveLogs serves one reader after the other until the machine ends.
func (g *Guest) serveLogs() {
	in := bufio.NewReaderSize(g.logs, 4<<10)
	var s *session
	for {
		var err error
		if s, err = await(g.logs, g.config.Key, in, s); err != nil {
			return
		}
		g.out.serve(s)
	}
}

// serve sends records on s until it breaks.
func (q *logQueue) serve(s *session) {
	defer s.Close()
	seq, err := wire.ReadLogAck(s)
	if err != nil || !q.ack(seq) {
		return
	}
	stop := false
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for {
			seq, err := wire.ReadLogAck(s)
			if err != nil {
				q.mu.Lock()
				stop = true
				q.cond.Broadcast()
				q.mu.Unlock()
				s.Close()
				return
			}
			q.ack(seq) // a wrong one: the read that follows ends the session
		}
	})
	for {
		r, ok := q.next(seq, &stop)
		if !ok {
			break
		}
		b, err := wire.AppendLogRecord(nil, &r)
		if err != nil {
			panic(err) // lineWriter keeps the rules
		}
		if _, err := s.Write(b); err != nil {
			break
		}
		seq = r.Seq
	}
	s.Close()
}

// lineWriter cuts what a container writes into records.
type lineWriter struct {
	queue     *logQueue
	container string
	stream    wire.FrameKind
	also      func(wire.FrameKind, []byte) // attached sessions
	discard   bool

	mu  sync.Mutex
	buf []byte
}

func (w *lineWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.also(w.stream, b)
	if w.discard {
		return len(b), nil
	}
	for _, c := range b {
		if c == '\n' {
			if err := w.flush(false); err != nil {
				return 0, err
			}
			continue
		}
		w.buf = append(w.buf, c)
		if len(w.buf) == wire.MaxLogLine {
			if err := w.flush(true); err != nil {
				return 0, err
			}
		}
	}
	return len(b), nil
}

func (w *lineWriter) flush(partial bool) error {
	err := w.queue.add(wire.LogRecord{
		TimeNanos: time.Now().UnixNano(), Container: w.container,
		Stream: w.stream, Partial: partial, Line: w.buf,
	})
	w.buf = nil
	return err
}

// end writes a last line without its newline.
func (w *lineWriter) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.buf) > 0 {
		_ = w.flush(false)
	}
}

var _ io.Writer = (*lineWriter)(nil)
