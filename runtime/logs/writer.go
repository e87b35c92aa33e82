package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"sync"
	"time"

	"github.com/stackvm/stack/guest/wire"
)

// Writer appends to one replica's log. Its methods may be called concurrently.
type Writer struct {
	path     string
	rotation Rotation

	mu      sync.Mutex
	f       *os.File
	size    int64
	last    uint64
	ends    []pendingEnd // of runs whose last records have not come
	buf     []byte
	changed chan struct{} // closed at the next append; nil while nobody waits
}

// pendingEnd is written when the record numbered seq has been.
type pendingEnd struct {
	at  time.Time
	end End
	seq uint64
}

// OpenWriter opens the log at path, making it 0600, and removes the half line
// that a killed writer may have left.
func OpenWriter(path string, rotation Rotation) (*Writer, error) {
	w := &Writer{path: path, rotation: rotation}
	if err := w.open(); err != nil {
		return nil, fmt.Errorf("opening log %s: %w", path, err)
	}
	last, err := w.recover()
	if err != nil {
		w.f.Close()
		return nil, fmt.Errorf("opening log %s: %w", path, err)
	}
	w.last = last
	return w, nil
}

func (w *Writer) open() error {
	f, err := os.OpenFile(w.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	w.f, w.size = f, info.Size()
	return nil
}

// recover truncates a half line and returns the last record's number.
func (w *Writer) recover() (uint64, error) {
	line, end, err := lastLine(w.f, w.size)
	if err != nil {
		return 0, err
	}
	if end != w.size {
		if err := w.f.Truncate(end); err != nil {
			return 0, err
		}
		w.size = end
	}
	if r, ok := parseRecord(line); ok {
		return r.Seq, nil
	}
	// Just rotated, or the last line is damaged: the file before knows.
	for i := 1; i < w.rotation.MaxFiles; i++ {
		f, err := os.Open(rotated(w.path, i))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return 0, err
		}
		info, err := f.Stat()
		if err == nil {
			line, _, err = lastLine(f, info.Size())
		}
		f.Close()
		if err != nil {
			return 0, err
		}
		if r, ok := parseRecord(line); ok {
			return r.Seq, nil
		}
	}
	return 0, nil
}

// lastLine returns the last whole line of the first size bytes of f, and where
// it ends.
func lastLine(f io.ReaderAt, size int64) ([]byte, int64, error) {
	const block = 64 << 10
	var tail []byte
	for off := size; off > 0; {
		n := min(off, block)
		off -= n
		b := make([]byte, n, int(n)+len(tail))
		if _, err := f.ReadAt(b, off); err != nil && !errors.Is(err, io.EOF) {
			return nil, 0, err
		}
		tail = append(b, tail...)
		end := bytes.LastIndexByte(tail, '\n')
		if end < 0 {
			continue
		}
		start := bytes.LastIndexByte(tail[:end], '\n') + 1
		if start > 0 || off == 0 {
			return tail[start:end], off + int64(end) + 1, nil
		}
	}
	return nil, 0, nil
}

// Last is the number of the last record in the log, 0 for none.
func (w *Writer) Last() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

// Append writes records, those that fit into one file with one write; what is in
// the log already, by number, is left out. After an error the log ends with a
// whole record, and those behind it do not count as written.
func (w *Writer) Append(records ...*wire.LogRecord) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil {
		return fmt.Errorf("writing log %s: %w", w.path, fs.ErrClosed)
	}
	w.buf = w.buf[:0]
	last := w.last
	for _, r := range records {
		if r.Seq <= last {
			continue
		}
		before := len(w.buf)
		w.buf = appendRecord(w.buf, r)
		if limit := w.rotation.MaxBytes; limit > 0 && w.size+int64(before) > 0 && w.size+int64(len(w.buf)) > limit {
			if err := w.writeLocked(w.buf[:before], last); err != nil {
				return err
			}
			if err := w.rotate(); err != nil {
				return fmt.Errorf("rotating log %s: %w", w.path, err)
			}
			w.buf = append(w.buf[:0], w.buf[before:]...)
		}
		last = r.Seq
	}
	if err := w.writeLocked(w.buf, last); err != nil {
		return err
	}
	if cap(w.buf) > 1<<20 {
		w.buf = nil // one burst need not be kept for ever
	}
	return w.endLocked(last)
}

// writeLocked writes whole records, of which the last is numbered last.
func (w *Writer) writeLocked(records []byte, last uint64) error {
	if len(records) == 0 {
		return nil
	}
	n, err := w.f.Write(records)
	if err != nil {
		if n > 0 {
			err = errors.Join(err, w.f.Truncate(w.size))
		}
		return fmt.Errorf("writing log %s: %w", w.path, err)
	}
	w.size += int64(n)
	w.last = last
	w.notifyLocked()
	return nil
}

func (w *Writer) notifyLocked() {
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// End writes down how a run ended, at a time by its machine's clock, behind the
// record numbered seq, which is the run's last: at once, or when that has been
// written, or when the log is settled.
func (w *Writer) End(at time.Time, e End, seq uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ends = append(w.ends, pendingEnd{at, e, seq})
	return w.endLocked(w.last)
}

// Settle writes down the ends whose records have not come: none will.
func (w *Writer) Settle() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.endLocked(math.MaxUint64)
}

// endLocked writes the ends of runs whose records up to seq are all there are.
func (w *Writer) endLocked(seq uint64) error {
	for len(w.ends) > 0 && w.ends[0].seq <= seq {
		if w.f == nil {
			return fmt.Errorf("writing log %s: %w", w.path, fs.ErrClosed)
		}
		e := w.ends[0]
		n, err := w.f.Write(appendEnd(nil, e.at, e.end, w.last))
		if err != nil {
			if n > 0 {
				err = errors.Join(err, w.f.Truncate(w.size))
			}
			return fmt.Errorf("writing log %s: %w", w.path, err)
		}
		w.size += int64(n)
		w.ends = w.ends[1:]
		w.notifyLocked()
	}
	return nil
}

// Begin marks the log for a new machine, whose records count from 1 again: the
// last number in the files is always the present machine's.
func (w *Writer) Begin() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil {
		return fmt.Errorf("writing log %s: %w", w.path, fs.ErrClosed)
	}
	if err := w.endLocked(math.MaxUint64); err != nil {
		return err
	}
	if w.size == 0 && w.last == 0 {
		return nil // nothing of another machine is there
	}
	line := fmt.Appendf(nil, "%s%q}\n", beginPrefix, time.Now().UTC().Format(time.RFC3339Nano))
	n, err := w.f.Write(line)
	if err != nil {
		return fmt.Errorf("writing log %s: %w", w.path, errors.Join(err, w.f.Truncate(w.size)))
	}
	w.size += int64(n)
	w.last = 0
	return nil
}

// rotate renames the files upwards and starts an empty one. Renames go from the
// oldest on, so that a kill at any moment loses at most the oldest file.
func (w *Writer) rotate() error {
	if w.rotation.MaxFiles == 1 {
		// Truncating under a follower would make it read the new file's middle.
		if err := os.Remove(w.path); err != nil {
			return err
		}
	} else {
		for i := w.rotation.MaxFiles - 1; i >= 1; i-- {
			if err := os.Rename(rotated(w.path, i-1), rotated(w.path, i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	old := w.f
	if err := w.open(); err != nil {
		return err
	}
	return old.Close()
}

// rotated is the path of the n-th file, 0 the current one.
func rotated(path string, n int) string {
	if n == 0 {
		return path
	}
	return fmt.Sprintf("%s.%d", path, n)
}

// Changed returns a channel that is closed at the next append, or at Close.
func (w *Writer) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changed == nil {
		w.changed = make(chan struct{})
		if w.f == nil {
			close(w.changed)
		}
	}
	return w.changed
}

// Close ends the writing and wakes who waits.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil {
		return nil
	}
	w.notifyLocked()
	err := w.f.Close()
	w.f = nil
	return err
}
