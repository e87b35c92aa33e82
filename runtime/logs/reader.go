package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// Filter selects records.
type Filter struct {
	Since time.Time // zero: from the first
	Until time.Time // zero: to the last
	Tail  int       // only the last records there are when opened; negative: all
	Ends  bool      // the ends of runs are wanted as well, those of any time
}

// Reader reads one replica's log across its rotated files, oldest first, while
// it may be written. It is not safe for concurrent use.
type Reader struct {
	path   string
	filter Filter

	f     *os.File   // being read; nil before the log exists
	newer []*os.File // read after f, next first
	buf   []byte     // read and not yet returned
	pos   int
}

const (
	readBlock = 64 << 10
	// maxLine is more than any line that the writer writes: what is longer is
	// damage, and skipped.
	maxLine = 1 << 20
)

// Open opens the log at path; one that does not exist yet is empty.
func Open(path string, filter Filter) (*Reader, error) {
	r := &Reader{path: path, filter: filter}
	files, err := openAll(path)
	if err != nil {
		return nil, fmt.Errorf("reading log %s: %w", path, err)
	}
	if len(files) == 0 {
		return r, nil
	}
	first := 0
	if filter.Tail >= 0 {
		var off int64
		if first, off, err = seekTail(files, filter.Tail); err == nil {
			_, err = files[first].Seek(off, io.SeekStart)
		}
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("reading log %s: %w", path, err)
		}
	}
	closeAll(files[:first])
	r.f, r.newer = files[first], files[first+1:]
	return r, nil
}

// Next returns the next record, or io.EOF when there is none now: after more was
// written it may be called again.
func (r *Reader) Next() (Record, error) {
	for {
		line, err := r.line()
		if err != nil {
			return Record{}, err
		}
		if isMarker(line) {
			if rec, ok := parseRecord(line); ok && r.filter.Ends && rec.End != nil {
				return rec, nil
			}
			continue
		}
		rec, ok := parseRecord(line)
		if !ok || rec.Time.Before(r.filter.Since) {
			continue
		}
		if !r.filter.Until.IsZero() && rec.Time.After(r.filter.Until) {
			continue // clocks may step back: a later record may be earlier
		}
		return rec, nil
	}
}

// line returns the next whole line, valid until the next call.
func (r *Reader) line() ([]byte, error) {
	for {
		if i := bytes.IndexByte(r.buf[r.pos:], '\n'); i >= 0 {
			line := r.buf[r.pos : r.pos+i]
			r.pos += i + 1
			return line, nil
		}
		if len(r.buf)-r.pos > maxLine {
			r.pos = len(r.buf) // damage: its end parses as no record either
		}
		more, err := r.fill()
		if err != nil {
			return nil, fmt.Errorf("reading log %s: %w", r.path, err)
		}
		if more {
			continue
		}
		if more, err = r.advance(); err != nil {
			return nil, fmt.Errorf("reading log %s: %w", r.path, err)
		}
		if !more {
			return nil, io.EOF
		}
	}
}

// fill reads more of the present file.
func (r *Reader) fill() (bool, error) {
	if r.f == nil {
		return false, nil
	}
	if r.pos > 0 {
		r.buf = append(r.buf[:0], r.buf[r.pos:]...)
		r.pos = 0
	}
	n := len(r.buf)
	if cap(r.buf)-n < readBlock {
		r.buf = append(make([]byte, 0, 2*n+readBlock), r.buf...)
	}
	got, err := r.f.Read(r.buf[n:cap(r.buf)])
	r.buf = r.buf[:n+got]
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return got > 0, err
}

// advance goes on to the next newer file, once the present one is at its end and
// no longer written.
func (r *Reader) advance() (bool, error) {
	if len(r.newer) == 0 {
		current, err := os.Stat(r.path)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil // not there yet, or in the middle of a rotation
		}
		if err != nil {
			return false, err
		}
		if r.f != nil {
			mine, err := r.f.Stat()
			if err != nil || os.SameFile(mine, current) {
				return false, err
			}
			// It was rotated away: what came between the last read and that is
			// still to be read, and nothing can follow.
			if more, err := r.fill(); more || err != nil {
				return more, err
			}
		}
		if err := r.findNewer(); err != nil || len(r.newer) == 0 {
			return false, err
		}
	}
	if r.f != nil {
		r.f.Close()
	}
	r.f, r.newer = r.newer[0], r.newer[1:]
	r.buf, r.pos = r.buf[:0], 0
	return true, nil
}

// findNewer opens the files newer than the present one; when that has been
// deleted since, all there are.
func (r *Reader) findNewer() error {
	files, err := openAll(r.path)
	if err != nil {
		return err
	}
	if r.f != nil {
		mine, err := r.f.Stat()
		if err != nil {
			closeAll(files)
			return err
		}
		for i, f := range files {
			if info, err := f.Stat(); err == nil && os.SameFile(mine, info) {
				closeAll(files[:i+1])
				files = files[i+1:]
				break
			}
		}
	}
	r.newer = files
	return nil
}

// Close closes the files.
func (r *Reader) Close() error {
	if r.f != nil {
		r.f.Close()
	}
	closeAll(r.newer)
	r.f, r.newer = nil, nil
	return nil
}

// openAll opens the log's files, oldest first. It looks from the newest on: a
// rotation meanwhile then shows a file twice, which is seen, and none never.
func openAll(path string) ([]*os.File, error) {
	var files []*os.File
	var infos []os.FileInfo
next:
	for n := range maxFiles {
		f, err := os.Open(rotated(path, n))
		if errors.Is(err, fs.ErrNotExist) {
			if n == 0 {
				continue // killed between two renames
			}
			break
		}
		if err != nil {
			closeAll(files)
			return nil, err
		}
		info, err := f.Stat()
		if err != nil {
			f.Close()
			closeAll(files)
			return nil, err
		}
		for _, seen := range infos {
			if os.SameFile(seen, info) {
				f.Close()
				continue next
			}
		}
		files, infos = append([]*os.File{f}, files...), append(infos, info)
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// seekTail finds where the last n records begin.
func seekTail(files []*os.File, n int) (file int, off int64, err error) {
	for i := len(files) - 1; i >= 0; i-- {
		info, err := files[i].Stat()
		if err != nil {
			return 0, 0, err
		}
		if i == len(files)-1 && n == 0 {
			_, end, err := lastLine(files[i], info.Size())
			return i, end, err
		}
		off, found, err := tailOffset(files[i], info.Size(), n)
		if err != nil {
			return 0, 0, err
		}
		if found == n {
			return i, off, nil
		}
		n -= found
	}
	return 0, 0, nil
}

// tailOffset returns where the last n records of f begin, and how many there
// are if fewer.
func tailOffset(f io.ReaderAt, size int64, n int) (off int64, found int, err error) {
	buf := make([]byte, readBlock)
	lines := 0 // whole lines seen, from the end
	var last int64 = -1
	for end := size; end > 0; {
		start := max(0, end-readBlock)
		b := buf[:end-start]
		if _, err := f.ReadAt(b, start); err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, err
		}
		for i := len(b) - 1; i >= 0; i-- {
			if b[i] != '\n' {
				continue
			}
			at := start + int64(i) + 1
			if last >= 0 { // the line from here to the newline found before
				marker, err := markerAt(f, at)
				if err != nil {
					return 0, 0, err
				}
				if !marker {
					lines++
				}
				if lines == n {
					return at, n, nil
				}
			}
			last = at
		}
		end = start
	}
	if last < 0 {
		return 0, 0, nil
	}
	marker, err := markerAt(f, 0)
	if !marker {
		lines++
	}
	return 0, lines, err
}

func markerAt(f io.ReaderAt, off int64) (bool, error) {
	head := make([]byte, longest)
	n, err := f.ReadAt(head, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return isMarker(head[:n]), err
}
