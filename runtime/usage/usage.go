package usage

import (
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"

	"github.com/stackvm/stack/runtime/image"
	"github.com/stackvm/stack/runtime/image/erofs"
)

// Tree is what all files below a directory, or a file, occupy. What is removed
// meanwhile, or not there, counts nothing.
func Tree(root string) (bytes int64, err error) {
	err = filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return ignoreMissing(err)
		}
		info, err := d.Info()
		if err != nil {
			return ignoreMissing(err)
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			bytes += st.Blocks * 512 // stat(2)'s unit, whatever the file system's
		}
		return nil
	})
	return bytes, err
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Layers is what the layers of images occupy that none of others has too, each
// counted once.
func Layers(images, others []*image.Image) (bytes int64) {
	seen := map[string]bool{}
	for _, img := range others {
		for _, l := range img.Layers {
			seen[l.DiffID] = true
		}
	}
	for _, img := range images {
		for _, l := range img.Layers {
			if !seen[l.DiffID] {
				seen[l.DiffID] = true
				bytes += int64(l.Blocks) * erofs.BlockSize
			}
		}
	}
	return bytes
}
