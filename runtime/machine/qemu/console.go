package qemu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// tail keeps the last bytes of a stream in a file of fixed size: what a guest
// writes to its console costs no more however much it is, and is there after the
// supervisor has died, or the machine, or both. The file is a header, the number
// of bytes ever written (8, little endian), and a ring.
type tail struct {
	size int64 // of the ring

	mu      sync.Mutex
	file    *os.File
	written int64
}

const tailHead = 8

// openTail opens or makes the file; what an earlier owner kept stays.
func openTail(path string, size int64) (*tail, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening a machine's console log: %w", err)
	}
	t := &tail{size: size, file: f}
	var head [tailHead]byte
	if _, err := f.ReadAt(head[:], 0); err == nil {
		t.written = max(0, int64(binary.LittleEndian.Uint64(head[:])))
	} else if !errors.Is(err, io.EOF) {
		f.Close()
		return nil, fmt.Errorf("reading a machine's console log: %w", err)
	}
	return t, nil
}

// follow copies r into the ring until r ends.
func (t *tail) follow(r io.Reader) {
	buf := make([]byte, 16<<10)
	for {
		n, err := r.Read(buf)
		if t.write(buf[:n]) != nil || err != nil {
			return
		}
	}
}

func (t *tail) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	b = b[max(0, int64(len(b))-t.size):]
	at := t.written % t.size
	first := b[:min(int64(len(b)), t.size-at)]
	if _, err := t.file.WriteAt(first, tailHead+at); err != nil {
		return err
	}
	if rest := b[len(first):]; len(rest) > 0 {
		if _, err := t.file.WriteAt(rest, tailHead); err != nil {
			return err
		}
	}
	t.written += int64(len(b))
	// After the bytes: whoever dies in between loses news, and keeps no garbage.
	_, err := t.file.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(t.written)), 0)
	return err
}

// bytes returns what the ring holds, the oldest first.
func (t *tail) bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := min(t.written, t.size)
	b := make([]byte, n)
	at := (t.written - n) % t.size
	first := b[:min(n, t.size-at)]
	if _, err := t.file.ReadAt(first, tailHead+at); err != nil {
		return nil
	}
	if rest := b[len(first):]; len(rest) > 0 {
		if _, err := t.file.ReadAt(rest, tailHead); err != nil {
			return nil
		}
	}
	return b
}

func (t *tail) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.file.Close()
}
