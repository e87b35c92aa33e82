package layer

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/stackvm/stack/runtime/image/erofs"
)

const (
	blobBuffer = 1 << 20 // bytes written at once

	// A hole shorter than this costs more in fragments than it saves.
	minHole = 64 << 10
)

// blobWriter lays contents one after the other, each from a block boundary.
type blobWriter struct {
	w   io.WriterAt
	off int64  // of buf in the blob
	buf []byte // not yet written
}

func newBlobWriter(w io.WriterAt) *blobWriter {
	return &blobWriter{w: w, buf: make([]byte, 0, blobBuffer)}
}

// blocks is the length of the blob so far. Between copies it is exact.
func (b *blobWriter) blocks() uint64 {
	return uint64(b.off+int64(len(b.buf))) / erofs.BlockSize
}

// copy appends size bytes of r, padded to a block.
func (b *blobWriter) copy(ctx context.Context, r io.Reader, size int64) error {
	for left := size; left > 0; {
		if len(b.buf) == cap(b.buf) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := b.flush(); err != nil {
				return err
			}
		}
		room := b.buf[len(b.buf):cap(b.buf)]
		room = room[:min(int64(len(room)), left)]
		n, err := io.ReadFull(r, room)
		b.buf = b.buf[:len(b.buf)+n]
		left -= int64(n)
		if err != nil {
			return fmt.Errorf("file of %d bytes ends after %d: %w", size, size-left, err)
		}
	}
	if tail := len(b.buf) % erofs.BlockSize; tail > 0 {
		pad := b.buf[len(b.buf) : len(b.buf)+erofs.BlockSize-tail]
		clear(pad)
		b.buf = b.buf[:len(b.buf)+len(pad)]
	}
	return nil
}

// flush writes the buffer but for long runs of zeroes.
func (b *blobWriter) flush() error {
	for start := 0; start < len(b.buf); {
		end := start
		zero := 0 // bytes of zero blocks at the end of [start, end)
		for end < len(b.buf) && zero < minHole {
			next := min(end+erofs.BlockSize, len(b.buf))
			if isZero(b.buf[end:next]) {
				zero += next - end
			} else {
				zero = 0
			}
			end = next
		}
		data := b.buf[start:end]
		if zero >= minHole {
			data = data[:len(data)-zero]
			for end < len(b.buf) && isZero(b.buf[end:min(end+erofs.BlockSize, len(b.buf))]) {
				end = min(end+erofs.BlockSize, len(b.buf))
			}
		}
		if len(data) > 0 {
			if _, err := b.w.WriteAt(data, b.off+int64(start)); err != nil {
				return err
			}
		}
		start = end
	}
	b.off += int64(len(b.buf))
	b.buf = b.buf[:0]
	return nil
}

var zeroBlock [erofs.BlockSize]byte

func isZero(b []byte) bool { return bytes.Equal(b, zeroBlock[:len(b)]) }
