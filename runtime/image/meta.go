package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/stackvm/stack/runtime/image/erofs"
	"github.com/stackvm/stack/runtime/image/layer"
)

// metaFormat changes whenever equal layers would give another metadata image.
const metaFormat = "1"

// metaKey names the metadata image of a sequence of layers.
func metaKey(layers []Layer) string {
	h := sha256.New()
	fmt.Fprintf(h, "erofs %s\n", metaFormat)
	for _, l := range layers {
		fmt.Fprintln(h, l.DiffID)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// meta returns the metadata image, made if it is not there yet.
func (s *Store) meta(img *Image) (Extent, error) {
	key := metaKey(img.Layers)
	path := s.path("meta", key)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = s.metas.do(context.Background(), key, nil, func(context.Context, func(struct{})) error {
			return s.makeMeta(path, img.Layers)
		})
		if err == nil {
			info, err = os.Stat(path)
		}
	}
	if err != nil {
		return Extent{}, err
	}
	return Extent{path, info.Size()}, nil
}

func (s *Store) makeMeta(path string, layers []Layer) error {
	use, err := s.use()
	if err != nil {
		return err
	}
	defer use.unlock()
	blobs := make([]layer.Blob, 0, len(layers))
	base := make(map[string]uint64)
	blocks := uint64(0)
	for _, l := range layers {
		tree, err := s.tree(l.DiffID)
		if err != nil {
			return err
		}
		if _, known := base[l.DiffID]; !known {
			base[l.DiffID] = blocks
			blocks += tree.Blocks
		}
		blobs = append(blobs, layer.Blob{Tree: tree, Base: base[l.DiffID]})
	}
	root, err := layer.Merge(blobs)
	if err != nil {
		return err
	}
	return s.create(path, func(f *os.File) error {
		_, err := erofs.Write(f, root, blocks)
		return err
	})
}

func (s *Store) tree(diffID string) (*layer.Tree, error) {
	b, err := os.ReadFile(s.path("trees", hexOf(diffID)))
	if err != nil {
		return nil, err
	}
	t, err := layer.Decode(b)
	if err != nil {
		// It counts as none from now on, so that a pull fetches the layer again.
		if err := remove(s.path("trees", hexOf(diffID))); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("layer %s: %w: pull the image again", diffID, err)
	}
	return t, nil
}
