package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// A connection that brings nothing for this long is given up and resumed.
	stallTimeout = 45 * time.Second

	// Resumptions without a byte of progress between them.
	maxStuck = 5
)

// Blob opens a blob of the repository. The reader gives exactly size bytes; it
// ends with io.EOF only when they have the digest, so what was read before must
// not be used until then. A broken connection is resumed where it broke, from
// another source if need be. from is the manifest that named the blob.
//
// The reader ends with ctx. Close it.
func (c *Client) Blob(ctx context.Context, repo Repository, from *Manifest, digest string, size int64) (io.ReadCloser, error) {
	if !isDigest(digest) {
		return nil, fmt.Errorf("blob %q: not a sha256 digest", printable(digest))
	}
	b := &blob{client: c, ctx: ctx, repo: repo, digest: digest, size: size, hash: sha256.New()}
	if from != nil {
		b.source = from.from
	}
	if err := b.open(); err != nil {
		return nil, err
	}
	return b, nil
}

// blob is a blob being read.
type blob struct {
	client *Client
	ctx    context.Context // of Blob: reads belong to that call
	repo   Repository
	digest string
	size   int64
	hash   hash.Hash
	off    int64 // bytes read and hashed
	err    error // what every further Read gives

	source *endpoint
	body   io.ReadCloser
	end    context.CancelFunc // of the request behind body
	stall  *time.Timer
	stuck  int
}

// open asks for the rest of the blob, the last good source first.
func (b *blob) open() error {
	return b.client.each(b.ctx, b.repo, b.source, b.digest, func(e *endpoint) error {
		ctx, cancel := context.WithCancel(b.ctx)
		header, status := http.Header{}, http.StatusOK
		if b.off > 0 {
			header.Set("Range", fmt.Sprintf("bytes=%d-", b.off))
			status = http.StatusPartialContent
		}
		resp, err := b.client.do(ctx, e, http.MethodGet, "blobs/"+b.digest, header, http.StatusOK, status)
		if err != nil {
			cancel()
			return err
		}
		if err := b.check(resp); err != nil {
			resp.Body.Close()
			cancel()
			return err
		}
		b.source, b.body, b.end = e, resp.Body, cancel
		b.stall = time.AfterFunc(b.client.opt.stall, cancel)
		return nil
	})
}

// check makes sure that the answer goes on at off.
func (b *blob) check(resp *http.Response) error {
	left := b.size
	if resp.StatusCode == http.StatusPartialContent {
		start, _, _ := strings.Cut(strings.TrimPrefix(resp.Header.Get("Content-Range"), "bytes "), "-")
		if at, err := strconv.ParseInt(start, 10, 64); err != nil || at != b.off {
			return fmt.Errorf("answers a request for the bytes from %d with %q", b.off, printable(resp.Header.Get("Content-Range")))
		}
		left -= b.off
	}
	if resp.ContentLength >= 0 && resp.ContentLength != left {
		return fmt.Errorf("offers %d bytes of a blob where the manifest has %d", resp.ContentLength, left)
	}
	if resp.StatusCode == http.StatusOK && b.off > 0 {
		// It knows no ranges: skip what we have.
		if _, err := io.CopyN(io.Discard, resp.Body, b.off); err != nil {
			return err
		}
	}
	return nil
}

func (b *blob) Read(p []byte) (int, error) {
	for b.err == nil {
		if b.body == nil {
			if b.err = b.resume(); b.err != nil {
				break
			}
		}
		if len(p) == 0 {
			return 0, nil
		}
		b.stall.Reset(b.client.opt.stall)
		n, err := b.body.Read(p)
		if n > 0 {
			b.stuck = 0
			if int64(n) > b.size-b.off {
				b.err = b.wrong(&DigestError{fmt.Sprintf("more than the %d bytes of %s", b.size, b.digest)})
				break
			}
			b.hash.Write(p[:n])
			b.off += int64(n)
		}
		if err != nil {
			b.release()
			if b.off == b.size {
				b.err = b.verify()
			} else {
				b.client.opt.Log.Info("connection broke and is resumed", "source", b.source.name, "blob", b.digest, "at", b.off, "of", b.size, "error", err)
			}
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, b.err
}

// verify is what the reader ends with after the last byte.
func (b *blob) verify() error {
	if got := "sha256:" + hex.EncodeToString(b.hash.Sum(nil)); got != b.digest {
		return b.wrong(wrongDigest(got, b.digest))
	}
	return io.EOF
}

func (b *blob) wrong(err error) error {
	b.client.distrust(b.source)
	return fmt.Errorf("blob of image %q: %s %w", b.repo.String(), b.source.name, err)
}

// resume opens the rest after a pause that grows while nothing arrives.
func (b *blob) resume() error {
	if err := b.ctx.Err(); err != nil {
		return err
	}
	b.stuck++
	if b.stuck > maxStuck {
		return fmt.Errorf("image %q: the connection to %s broke %d times without a byte of blob %s arriving: check this host's network and try again",
			b.repo.String(), b.source.name, maxStuck, b.digest)
	}
	if b.stuck > 1 {
		if err := b.client.opt.sleep(b.ctx, backoff(b.stuck-1)); err != nil {
			return err
		}
	}
	return b.open()
}

func (b *blob) release() {
	if b.body == nil {
		return
	}
	b.stall.Stop()
	b.end()
	b.body.Close()
	b.body = nil
}

func (b *blob) Close() error {
	b.release()
	if b.err == nil {
		b.err = errors.New("read after close")
	}
	return nil
}
