package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/partial"
)

// Annotations of an image's descriptor in index.json.
const (
	nameAnnotation = "org.opencontainers.image.ref.name"
	keyAnnotation  = "dev.stackvm.images.key" // what the image was made from, see Image.Key
)

// pruneAfter is how long a blob stays after no image refers to it any more: whoever has
// just read the old index may still be fetching it.
const pruneAfter = 24 * time.Hour

// Store is a directory of images.
type Store struct{ dir string }

// Image is one name in the store.
type Image struct {
	Name       string // repository and tag, "library/busybox:latest"
	Key        string // digest of the inputs it was made from
	Descriptor v1.Descriptor
}

// Open opens the store in dir, making it if there is none.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir}
	if _, err := os.Stat(s.path("index.json")); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("making the image store: %w", err)
		}
		if _, err := layout.Write(dir, empty.Index); err != nil {
			return nil, fmt.Errorf("making the image store: %w", err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("opening the image store: %w", err)
	}
	return s, nil
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// IndexPath is the file that changes whenever an image is added.
func (s *Store) IndexPath() string { return s.path("index.json") }

// Lock waits for other processes that build into the store; unlock ends the hold. The
// context is asked before the wait only: a build never waits for ever.
func (s *Store) Lock(ctx context.Context) (unlock func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(s.path("lock"), os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking the image store: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("locking the image store: %w", err)
	}
	return func() { f.Close() }, nil
}

// Images returns all images, sorted by name.
func (s *Store) Images() ([]Image, error) {
	manifest, err := s.manifest()
	if err != nil {
		return nil, err
	}
	var images []Image
	for _, d := range manifest.Manifests {
		images = append(images, Image{Name: d.Annotations[nameAnnotation], Key: d.Annotations[keyAnnotation], Descriptor: d})
	}
	slices.SortFunc(images, func(a, b Image) int { return strings.Compare(a.Name, b.Name) })
	return images, nil
}

func (s *Store) manifest() (*v1.IndexManifest, error) {
	index, err := layout.ImageIndexFromPath(s.dir)
	if err != nil {
		return nil, fmt.Errorf("reading the image store: %w", err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("reading the image store %s: %w", s.dir, err)
	}
	return manifest, nil
}

// Blob opens the blob called digest; an error matching fs.ErrNotExist if there is none.
func (s *Store) Blob(digest v1.Hash) (*os.File, error) {
	return os.Open(s.path("blobs", digest.Algorithm, digest.Hex))
}

// Image returns the image for a platform that img is or, as an index, holds.
func (s *Store) Image(img Image, platform v1.Platform) (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(s.dir)
	if err != nil {
		return nil, fmt.Errorf("reading the image store: %w", err)
	}
	if !img.Descriptor.MediaType.IsIndex() {
		return index.Image(img.Descriptor.Digest)
	}
	if index, err = index.ImageIndex(img.Descriptor.Digest); err != nil {
		return nil, fmt.Errorf("reading image %s: %w", img.Name, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("reading image %s: %w", img.Name, err)
	}
	for _, d := range manifest.Manifests {
		if d.Platform != nil && d.Platform.Satisfies(platform) {
			return index.Image(d.Digest)
		}
	}
	return nil, fmt.Errorf("reading image %s: it has none for %s", img.Name, platform)
}

// Put writes content, a v1.Image or v1.ImageIndex, and gives it the names, taking each
// from the image that had it. The caller holds the lock.
func (s *Store) Put(names []string, key string, content partial.Describable) error {
	path := layout.Path(s.dir)
	var err error
	switch content := content.(type) {
	case v1.Image:
		err = path.WriteImage(content)
	case v1.ImageIndex:
		err = path.WriteIndex(content)
	default:
		err = fmt.Errorf("neither an image nor an index: %T", content)
	}
	if err != nil {
		return fmt.Errorf("storing %s: %w", names[0], err)
	}
	manifest, err := s.manifest()
	if err != nil {
		return err
	}
	manifest.Manifests = slices.DeleteFunc(manifest.Manifests, func(d v1.Descriptor) bool {
		return slices.Contains(names, d.Annotations[nameAnnotation])
	})
	for _, name := range names {
		d, err := partial.Descriptor(content)
		if err != nil {
			return fmt.Errorf("storing %s: %w", name, err)
		}
		d.Annotations = map[string]string{nameAnnotation: name, keyAnnotation: key}
		manifest.Manifests = append(manifest.Manifests, *d)
	}
	text, err := json.MarshalIndent(manifest, "", "  ")
	if err != nil {
		return fmt.Errorf("storing %s: %w", names[0], err)
	}
	if err := replace(s.IndexPath(), text); err != nil {
		return fmt.Errorf("storing %s: %w", names[0], err)
	}
	return nil
}

// replace changes a file in one step, so that readers see the old or the new one. A cache
// need not survive a power cut, so nothing is synced.
func replace(name string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}

// Complete says whether every blob that img refers to is there in full size.
func (s *Store) Complete(img Image) bool {
	complete := true
	err := s.walk(img.Descriptor, func(d v1.Descriptor) {
		info, err := os.Stat(s.path("blobs", d.Digest.Algorithm, d.Digest.Hex))
		complete = complete && err == nil && info.Size() == d.Size
	})
	return complete && err == nil
}

// Size returns the sum of the sizes of all blobs of img, compressed as they are kept.
func (s *Store) Size(img Image) (int64, error) {
	var size int64
	err := s.walk(img.Descriptor, func(d v1.Descriptor) { size += d.Size })
	return size, err
}

// walk calls visit for d and all it refers to.
func (s *Store) walk(d v1.Descriptor, visit func(v1.Descriptor)) error {
	visit(d)
	if !d.MediaType.IsImage() && !d.MediaType.IsIndex() {
		return nil
	}
	text, err := os.ReadFile(s.path("blobs", d.Digest.Algorithm, d.Digest.Hex))
	if err != nil {
		return err
	}
	// An index and a manifest differ in the fields they fill.
	var refs struct {
		Manifests, Layers []v1.Descriptor
		Config            *v1.Descriptor
	}
	if err := json.Unmarshal(text, &refs); err != nil {
		return fmt.Errorf("reading manifest %s: %w", d.Digest, err)
	}
	if refs.Config != nil {
		visit(*refs.Config)
	}
	for _, ref := range slices.Concat(refs.Manifests, refs.Layers) {
		if err := s.walk(ref, visit); err != nil {
			return err
		}
	}
	return nil
}

// Prune removes blobs that no image has referred to for a day. The caller holds the lock.
func (s *Store) Prune(now time.Time) error {
	images, err := s.Images()
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, img := range images {
		if err := s.walk(img.Descriptor, func(d v1.Descriptor) { used[d.Digest.Hex] = true }); err != nil {
			return fmt.Errorf("pruning the image store: image %s: %w", img.Name, err)
		}
	}
	blobs, err := os.ReadDir(s.path("blobs", "sha256"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("pruning the image store: %w", err)
	}
	for _, blob := range blobs {
		info, err := blob.Info()
		if err != nil || used[blob.Name()] || now.Sub(info.ModTime()) < pruneAfter {
			continue // gone meanwhile, in use, or young
		}
		if err := os.Remove(s.path("blobs", "sha256", blob.Name())); err != nil {
			return fmt.Errorf("pruning the image store: %w", err)
		}
	}
	return nil
}
