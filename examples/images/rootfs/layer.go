package rootfs

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Layer returns the changes of this tree as a layer of the given media type, which says
// the compression: gzip or zstd.
func (t *Tree) Layer(mediaType types.MediaType) (v1.Layer, error) {
	if t.err != nil {
		return nil, t.err
	}
	var packed bytes.Buffer
	var compress io.WriteCloser
	switch mediaType {
	case types.DockerLayer, types.OCILayer:
		compress = gzip.NewWriter(&packed)
	case types.OCILayerZStd:
		// One goroutine: how the work is cut among several would show in the bytes.
		z, err := zstd.NewWriter(&packed, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return nil, fmt.Errorf("making a zstd layer: %w", err)
		}
		compress = z
	default:
		return nil, fmt.Errorf("making a layer: media type %q", mediaType)
	}
	plain := sha256.New()
	if err := t.writeTar(io.MultiWriter(compress, plain)); err != nil {
		return nil, err
	}
	if err := compress.Close(); err != nil {
		return nil, fmt.Errorf("compressing a layer: %w", err)
	}
	digest := sha256.Sum256(packed.Bytes())
	return partial.CompressedToLayer(&layer{
		packed: packed.Bytes(), mediaType: mediaType,
		digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(digest[:])},
		diffID: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(plain.Sum(nil))},
	})
}

// writeTar writes the entries in the order of their names, so parents come first. Of hard
// links the first by name carries the content.
func (t *Tree) writeTar(w io.Writer) error {
	archive := tar.NewWriter(w)
	first := map[*node]string{}
	for _, name := range slices.Sorted(maps.Keys(t.nodes)) {
		n := t.nodes[name]
		if n == nil {
			if err := archive.WriteHeader(whiteout(path.Join(path.Dir(name), ".wh."+path.Base(name)))); err != nil {
				return fmt.Errorf("writing the whiteout of %s: %w", name, err)
			}
			continue
		}
		h := &tar.Header{
			Typeflag: n.kind, Name: name, Linkname: n.target, ModTime: epoch,
			Mode: n.mode, Uid: n.uid, Gid: n.gid, Devmajor: n.major, Devminor: n.minor,
		}
		content := n.content
		if n.kind == tar.TypeDir {
			h.Name += "/"
		} else if target, linked := first[n]; linked {
			h.Typeflag, h.Linkname, content = tar.TypeLink, target, nil
		} else {
			first[n] = name
			h.Size = int64(len(content))
		}
		if h.Typeflag != tar.TypeLink && len(n.xattrs) > 0 {
			h.PAXRecords = map[string]string{}
			for key, value := range n.xattrs {
				h.PAXRecords["SCHILY.xattr."+key] = value
			}
		}
		if err := archive.WriteHeader(h); err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
		if _, err := archive.Write(content); err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
		if n.opaque {
			if err := archive.WriteHeader(whiteout(path.Join(name, ".wh..wh..opq"))); err != nil {
				return fmt.Errorf("writing the whiteout in %s: %w", name, err)
			}
		}
	}
	return archive.Close()
}

func whiteout(name string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: epoch}
}

type layer struct {
	packed         []byte
	digest, diffID v1.Hash
	mediaType      types.MediaType
}

func (l *layer) Digest() (v1.Hash, error)            { return l.digest, nil }
func (l *layer) DiffID() (v1.Hash, error)            { return l.diffID, nil }
func (l *layer) Size() (int64, error)                { return int64(len(l.packed)), nil }
func (l *layer) MediaType() (types.MediaType, error) { return l.mediaType, nil }
func (l *layer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.packed)), nil
}
