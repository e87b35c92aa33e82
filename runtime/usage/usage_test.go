package usage

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stackvm/stack/runtime/image"
)

func TestTreeCountsNoHoles(t *testing.T) {
	dir := t.TempDir()
	before, err := Tree(dir)
	if err != nil {
		t.Fatal(err)
	}
	sparse := filepath.Join(dir, "sparse")
	if err := os.WriteFile(sparse, make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(sparse, 1<<30); err != nil {
		t.Fatal(err)
	}
	if n, err := Tree(dir); err != nil || n-before < 64<<10 || n-before > 1<<20 {
		t.Errorf("%d bytes, %v", n-before, err)
	}
	if n, err := Tree(filepath.Join(dir, "none")); n != 0 || err != nil {
		t.Errorf("nothing: %d bytes, %v", n, err)
	}
}

func TestLayers(t *testing.T) {
	img := func(layers ...string) *image.Image {
		i := &image.Image{}
		for _, l := range layers {
			i.Layers = append(i.Layers, image.Layer{DiffID: l, Blocks: 1})
		}
		return i
	}
	a, b, c := img("base", "a", "a"), img("base", "b"), img("c")
	if n := Layers([]*image.Image{a, b}, []*image.Image{c}); n != 3*4096 {
		t.Errorf("%d bytes, want base, a and b", n)
	}
	if n := Layers([]*image.Image{a}, []*image.Image{b}); n != 4096 {
		t.Errorf("%d bytes, want a alone", n)
	}
}
