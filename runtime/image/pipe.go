package image

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	pipeBuffer  = 256 << 10
	pipeBuffers = 6

	// A zstd frame may ask for this much memory. Encoders use at most 128 MiB
	// (--ultra --long is refused, by docker too).
	maxZstdWindow = 128 << 20
)

// pipe decompresses and hashes a layer ahead of whoever reads it, each in a
// goroutine of its own: decompression is what a pull takes longest for, so
// everything else happens beside it.
type pipe struct {
	hash hash.Hash // of what was read; complete once Read gave io.EOF
	wg   sync.WaitGroup
	once sync.Once

	stop  chan struct{} // closed by close
	free  chan []byte
	out   chan chunk
	chunk chunk // being read
	rest  []byte
}

// chunk is a buffer's worth, or the end.
type chunk struct {
	b   []byte
	err error
}

// newPipe starts to read a compressed or plain layer from r. close it.
func newPipe(r io.Reader) *pipe {
	p := &pipe{
		hash: sha256.New(), stop: make(chan struct{}),
		free: make(chan []byte, pipeBuffers), out: make(chan chunk, pipeBuffers),
	}
	for range pipeBuffers {
		p.free <- make([]byte, pipeBuffer)
	}
	raw := make(chan chunk, pipeBuffers)
	p.wg.Go(func() { p.decompress(r, raw) })
	p.wg.Go(func() {
		for {
			select {
			case c := <-raw:
				p.hash.Write(c.b)
				p.out <- c // never blocks: there are as many buffers as places
				if c.err != nil {
					return
				}
			case <-p.stop:
				return
			}
		}
	})
	return p
}

// close ends the goroutines and waits; a read of r under way must end first.
func (p *pipe) close() {
	p.once.Do(func() { close(p.stop) })
	p.wg.Wait()
}

// sum is the digest of all that was read, in hex.
func (p *pipe) sum() string { return hex.EncodeToString(p.hash.Sum(nil)) }

// Read is called by one goroutine.
func (p *pipe) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.chunk.err != nil {
			return 0, p.chunk.err
		}
		if p.chunk.b != nil {
			p.free <- p.chunk.b[:cap(p.chunk.b)]
		}
		select {
		case p.chunk = <-p.out:
			p.rest = p.chunk.b
		case <-p.stop:
			return 0, io.ErrClosedPipe
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// decompress fills raw until r has ended.
func (p *pipe) decompress(r io.Reader, raw chan<- chunk) {
	buffered := bufio.NewReaderSize(r, pipeBuffer)
	plain, end, err := decompressor(buffered)
	if err == nil {
		defer end()
	}
	for err == nil {
		var b []byte
		select {
		case b = <-p.free:
		case <-p.stop:
			return
		}
		n := 0
		for err == nil && n < len(b) {
			var k int
			k, err = plain.Read(b[n:])
			n += k
		}
		if errors.Is(err, io.EOF) {
			// What follows the compressed stream is part of the blob; its end
			// is where the digest is checked.
			if _, drained := io.Copy(io.Discard, buffered); drained != nil {
				err = drained
			}
		}
		raw <- chunk{b[:n], err}
	}
	if plain == nil {
		raw <- chunk{nil, err}
	}
}

// decompressor finds out by its first bytes how a layer is compressed: media
// types are not to be relied on.
func decompressor(r *bufio.Reader) (io.Reader, func(), error) {
	head, err := r.Peek(4)
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, fmt.Errorf("gzip: %w", err)
		}
		return z, func() { z.Close() }, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		len(head) == 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:], []byte{0x2a, 0x4d, 0x18}): // a skippable frame
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, fmt.Errorf("zstd: %w", err)
		}
		return z, z.Close, nil
	}
	return r, func() {}, nil
}
