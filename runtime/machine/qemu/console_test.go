//go:build linux

package qemu

import (
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"
)

// Whatever is written, in whatever pieces, across owners: the last bytes stay and
// the file does not grow.
func TestTail(t *testing.T) {
	dir := t.TempDir()
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		path := filepath.Join(dir, "tail")
		os.Remove(path)
		size := int64(rapid.IntRange(1, 64).Draw(t, "size"))
		open := func() *tail {
			k, err := openTail(path, size)
			if err != nil {
				t.Fatal(err)
			}
			return k
		}
		k := open()
		defer func() { k.close() }()
		var all []byte
		for _, piece := range rapid.SliceOf(rapid.SliceOfN(rapid.Byte(), 0, 200)).Draw(t, "pieces") {
			if err := k.write(piece); err != nil {
				t.Fatal(err)
			}
			all = append(all, piece...)
			if rapid.Bool().Draw(t, "reopen") {
				k.close()
				k = open()
			}
			want := all[max(0, len(all)-int(size)):]
			if got := k.bytes(); string(got) != string(want) {
				t.Fatalf("tail %q, want %q", got, want)
			}
		}
		if info, err := os.Stat(path); err != nil || info.Size() > size+tailHead {
			t.Fatalf("file of %d bytes, %v; want at most %d", info.Size(), err, size+tailHead)
		}
	})
}

// A file that something else wrote is no fault of ours to fail on.
func TestTailOfGarbage(t *testing.T) {
	for _, content := range []string{"", "x", "\xff\xff\xff\xff\xff\xff\xff\xff", "\xff\xff\xff\xff\xff\xff\xff\x7fabc"} {
		path := filepath.Join(t.TempDir(), "tail")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := openTail(path, 16)
		if err != nil {
			t.Fatal(err)
		}
		k.bytes()
		if err := k.write([]byte("new")); err != nil {
			t.Errorf("writing after %q: %v", content, err)
		}
		k.close()
	}
}
