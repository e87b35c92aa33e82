package store_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/stackvm/stack/examples/images/store"
)

func TestStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "layout")
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := s.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	old, err := random.Image(100, 2)
	if err != nil {
		t.Fatal(err)
	}
	current, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put([]string{"b/b:1"}, "old", old); err != nil {
		t.Fatal(err)
	}
	if err := s.Put([]string{"b/b:1", "a/a:1"}, "new", current); err != nil {
		t.Fatal(err)
	}
	unlock()

	// Another process sees the same, and so do other tools.
	s, err = store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	images, err := s.Images()
	if err != nil {
		t.Fatal(err)
	}
	if len(images) != 2 || images[0].Name != "a/a:1" || images[1].Name != "b/b:1" || images[1].Key != "new" || !s.Complete(images[1]) {
		t.Errorf("images %+v", images)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil || validate.Index(index) != nil {
		t.Errorf("the layout is not valid: %v, %v", err, validate.Index(index))
	}

	// Nothing refers to the old image. Its blobs stay for a day, those in use for good.
	gone, err := old.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Prune(time.Now()); err != nil {
		t.Fatal(err)
	}
	if f, err := s.Blob(gone); err != nil {
		t.Errorf("pruned too early: %v", err)
	} else {
		f.Close()
	}
	if err := s.Prune(time.Now().Add(25 * time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Blob(gone); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("not pruned: %v", err)
	}
	if !s.Complete(images[0]) {
		t.Error("pruning took a blob in use")
	}

	// A blob cut short does not pass for one.
	layers, err := current.Layers()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "blobs", "sha256", layer.Hex), 10); err != nil {
		t.Fatal(err)
	}
	if s.Complete(images[0]) {
		t.Error("an image with a torn layer is complete")
	}
}
