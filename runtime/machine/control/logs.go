package control

import (
	"bufio"
	"context"
	"fmt"
	"net"

	"github.com/stackvm/stack/guest/wire"
)

const (
	logBuffer = 128 << 10 // bytes read at once; holds several of the longest records
	// Records handed over at once: at least one, at most what is buffered and this.
	maxLogBatch = 512
)

// ReadLogs takes log records from the agent on conn, hands each to write in
// order, and acknowledges it after write has returned nil. lastSeq is the last
// record already written down, 0 for none: the agent resends from the next, and
// what it sends again before that is dropped here. It returns when ctx ends,
// write fails, or the machine breaks off, always with an error; conn stays the
// caller's, and the records not acknowledged the agent's.
func ReadLogs(ctx context.Context, conn net.Conn, key wire.Key, lastSeq uint64, write func(wire.LogRecord) error) error {
	return ReadLogBatches(ctx, conn, key, lastSeq, func(batch []wire.LogRecord) error {
		for _, r := range batch {
			if err := write(r); err != nil {
				return err
			}
		}
		return nil
	})
}

// ReadLogBatches is ReadLogs handing over all records that have arrived at once,
// never none, so that a writer flushes once for them. The slice is reused, the
// records are the callee's.
func ReadLogBatches(ctx context.Context, conn net.Conn, key wire.Key, lastSeq uint64, write func([]wire.LogRecord) error) error {
	p, err := attach(ctx, conn, key)
	if err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	defer p.Close()
	defer context.AfterFunc(ctx, func() { p.Close() })()

	broken := func(err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("logs: %w", err)
	}
	if err := wire.WriteLogAck(p, lastSeq); err != nil {
		return broken(err)
	}
	in := bufio.NewReaderSize(p, logBuffer)
	batch := make([]wire.LogRecord, 0, maxLogBatch)
	for {
		r, err := wire.ReadLogRecord(in)
		if err != nil {
			return broken(err)
		}
		switch {
		case r.Seq > lastSeq+1:
			return fmt.Errorf("logs: record %d follows %d: the machine lost what is between", r.Seq, lastSeq)
		case r.Seq == lastSeq+1:
			lastSeq++
			batch = append(batch, r)
		}
		if len(batch) == 0 || (len(batch) < maxLogBatch && wholeRecord(in)) {
			continue
		}
		if err := write(batch); err != nil {
			return err
		}
		clear(batch)
		batch = batch[:0]
		if err := wire.WriteLogAck(p, lastSeq); err != nil {
			return broken(err)
		}
	}
}

// wholeRecord reports whether the next record can be read without waiting.
func wholeRecord(in *bufio.Reader) bool {
	n := in.Buffered()
	if n < 4 {
		return false
	}
	head, err := in.Peek(4)
	if err != nil {
		return false
	}
	size := uint64(head[0])<<24 | uint64(head[1])<<16 | uint64(head[2])<<8 | uint64(head[3])
	return uint64(n) >= 4+size
}
