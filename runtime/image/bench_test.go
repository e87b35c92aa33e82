package image

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/gzip"

	"github.com/stackvm/stack/runtime/image/erofs"
	"github.com/stackvm/stack/runtime/image/layer"
)

// benchLayer is a layer like those of distributions: files of 30 KB on average,
// most of them small, that compress to a third. It returns the tar's length and
// the layer with gzip.
func benchLayer(b *testing.B, files int) (int64, []byte) {
	b.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	words := make([][]byte, 4096)
	for n := range words {
		words[n] = make([]byte, 2+r.IntN(10))
		for k := range words[n] {
			words[n][k] = byte(r.IntN(256))
		}
	}
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	size := int64(0)
	w := tar.NewWriter(io.MultiWriter(z, writerFunc(func(p []byte) { size += int64(len(p)) })))
	for n := range files {
		length := int(r.ExpFloat64() * r.ExpFloat64() * 30000)
		content := make([]byte, 0, length+16)
		for len(content) < length {
			content = append(content, words[r.IntN(len(words))]...)
		}
		content = content[:length]
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("usr/share/d%d/file-%d", n/50, n), Size: int64(length), Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
			b.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	if err := z.Close(); err != nil {
		b.Fatal(err)
	}
	return size, out.Bytes()
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

// BenchmarkUnpack compares a layer's whole way into a blob and a tree, its
// digest checked, with decompressing it to nowhere. MB/s are of the tar.
func BenchmarkUnpack(b *testing.B) {
	size, blob := benchLayer(b, 4000)
	b.Run("gunzip", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			z, err := gzip.NewReader(bytes.NewReader(blob))
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, z); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("unpack", func(b *testing.B) {
		b.SetBytes(size)
		b.ReportAllocs()
		f, err := os.Create(filepath.Join(b.TempDir(), "blob"))
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		var tree *layer.Tree
		for b.Loop() {
			if err := f.Truncate(0); err != nil {
				b.Fatal(err)
			}
			p := newPipe(bytes.NewReader(blob))
			if tree, err = layer.Unpack(context.Background(), p, f, layer.Limits{}); err != nil {
				b.Fatal(err)
			}
			p.close()
		}
		b.ReportMetric(float64(tree.Blocks*erofs.BlockSize)/float64(size), "disk/tar")
	})
	b.Run("import", func(b *testing.B) { // with what makes it durable
		b.SetBytes(size)
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob)), nil })
		if err != nil {
			b.Fatal(err)
		}
		one := makeImage(b, v1.Config{}, l)
		for b.Loop() {
			s, err := Open(b.TempDir(), Options{})
			if err != nil {
				b.Fatal(err)
			}
			if _, err := s.Import(context.Background(), one, "x"); err != nil {
				b.Fatal(err)
			}
			s.Close()
		}
	})
}

// BenchmarkMeta makes the metadata image of 10 layers with 20,000 files.
func BenchmarkMeta(b *testing.B) {
	s, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	var layers []v1.Layer
	for n := range 10 {
		var files []string
		for k := range 2000 {
			files = append(files, fmt.Sprintf("usr/share/dir%d/layer%d-file%d", k%100, n, k), "")
		}
		layers = append(layers, tarLayer(b, files...))
	}
	img, err := s.Import(context.Background(), makeImage(b, v1.Config{}, layers...), "x")
	if err != nil {
		b.Fatal(err)
	}
	path := s.path("meta", metaKey(img.Layers))
	for b.Loop() {
		if err := os.Remove(path); err != nil {
			b.Fatal(err)
		}
		if _, err := s.meta(img); err != nil {
			b.Fatal(err)
		}
	}
}
