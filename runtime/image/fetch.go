package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/stackvm/stack/runtime/image/erofs"
	"github.com/stackvm/stack/runtime/image/layer"
	"github.com/stackvm/stack/runtime/image/registry"
)

// layer makes sure that a layer is in the store and returns the length of its
// data in blocks.
func (s *Store) layer(ctx context.Context, src source, l Layer, watch func(Progress)) (uint64, error) {
	if blocks, ok := s.hasLayer(l.DiffID); ok {
		watch(Progress{Phase: Exists, Current: l.Size, Total: l.Size})
		return blocks, nil
	}
	err := s.layers.do(ctx, l.DiffID, watch, func(ctx context.Context, report func(Progress)) error {
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		case <-ctx.Done():
			return ctx.Err()
		}
		lock, err := lockLong(ctx, s.path("locks", "layer-"+hexOf(l.DiffID)[:2]))
		if err != nil {
			return err
		}
		defer lock.unlock()
		if _, ok := s.hasLayer(l.DiffID); ok { // another process was faster
			report(Progress{Phase: Exists, Current: l.Size, Total: l.Size})
			return nil
		}
		err = s.fetch(ctx, src, l, report)
		var wrong *registry.DigestError
		if errors.As(err, &wrong) && ctx.Err() == nil {
			// The client no longer asks who sent it; another source may be honest.
			s.log.Warn("layer is fetched again", "layer", l.Digest, "error", err)
			err = s.fetch(ctx, src, l, report)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	blocks, ok := s.hasLayer(l.DiffID)
	if !ok {
		return 0, errors.New("vanished from the store")
	}
	return blocks, nil
}

// hasLayer tells whether a layer is whole, and the length of its data.
func (s *Store) hasLayer(diffID string) (blocks uint64, ok bool) {
	f, err := os.Open(s.path("trees", hexOf(diffID)))
	if err != nil {
		return 0, false
	}
	defer f.Close()
	head := make([]byte, layer.RecordHead)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, false
	}
	if blocks, err = layer.RecordBlocks(head[:n]); err != nil {
		return 0, false
	}
	info, err := os.Stat(s.path("blobs", hexOf(diffID)))
	return blocks, err == nil && uint64(info.Size()) == blocks*erofs.BlockSize
}

// fetch brings a layer into the store: blob first, then the tree that makes it
// count.
func (s *Store) fetch(ctx context.Context, src source, l Layer, report func(Progress)) error {
	var tree *layer.Tree
	err := s.create(s.path("blobs", hexOf(l.DiffID)), func(f *os.File) error {
		var err error
		tree, err = s.unpack(ctx, src, l, f, report)
		if err != nil {
			return err
		}
		report(Progress{Phase: Extracting, Current: l.Size, Total: l.Size})
		return f.Truncate(int64(tree.Blocks) * erofs.BlockSize)
	})
	if err != nil {
		return err
	}
	for _, line := range tree.Skipped {
		s.log.Warn("left out of a layer", "layer", l.DiffID, "what", line)
	}
	if err := s.writeFile(s.path("trees", hexOf(l.DiffID)), tree.Encode()); err != nil {
		return err
	}
	report(Progress{Phase: Done, Current: l.Size, Total: l.Size})
	return nil
}

// unpack streams a layer from its source into a blob.
func (s *Store) unpack(ctx context.Context, src source, l Layer, blob *os.File, report func(Progress)) (*layer.Tree, error) {
	ctx, cancel := context.WithCancel(ctx)
	report(Progress{Phase: Downloading, Total: l.Size})
	rc, err := src.open(ctx, l)
	if err != nil {
		cancel()
		return nil, err
	}
	counted := &counter{r: rc, total: l.Size, report: report}
	pipe := newPipe(counted)
	defer func() {
		cancel() // wakes a read that waits for the network
		pipe.close()
		rc.Close()
	}()
	tree, err := layer.Unpack(ctx, pipe, blob, layer.Limits{})
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		// Bytes that are not those of the digest may look like anything. Where
		// they are not, that is the cause to tell.
		pipe.close()
		if _, rest := io.Copy(io.Discard, rc); errors.As(rest, new(*registry.DigestError)) {
			return nil, rest
		}
		return nil, err
	}
	if got := "sha256:" + pipe.sum(); got != l.DiffID {
		return nil, fmt.Errorf("unpacks to %s, but the image's configuration has %s: the image is broken where it was built or pushed", got, l.DiffID)
	}
	return tree, nil
}

// counter reports what passes through it, not too often.
type counter struct {
	r      io.Reader
	n      int64
	total  int64
	report func(Progress)
	last   time.Time
}

const reportEvery = 100 * time.Millisecond

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if t := time.Now(); t.Sub(c.last) >= reportEvery {
		c.last = t
		c.report(Progress{Phase: Downloading, Current: c.n, Total: c.total})
	}
	return n, err
}
