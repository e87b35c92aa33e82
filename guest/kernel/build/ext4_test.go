package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/stackvm/stack/guest"
)

func TestExt4Template(t *testing.T) {
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	if err := needTools("mke2fs"); err != nil {
		t.Skip(err)
	}
	c := testCache(t)
	dir, err := ext4Template(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := os.ReadFile(filepath.Join(dir, guest.Ext4File))
	if err != nil {
		t.Fatal(err)
	}
	if len(packed) > 64<<10 {
		t.Errorf("the template is %d bytes; it is shipped with every release", len(packed))
	}
	again, err := ext4Template(t.Context(), testCache(t))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(again, guest.Ext4File)); err != nil || !bytes.Equal(b, packed) {
		t.Errorf("made twice it differs (%v)", err)
	}
	dec, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	image, err := dec.DecodeAll(packed, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(image) != ext4Size {
		t.Fatalf("expanded it is %d bytes, want %d", len(image), ext4Size)
	}

	// e2fsck is the judge; bytes 0x400 and on are the superblock.
	path := filepath.Join(t.TempDir(), "ext4.img")
	if err := os.WriteFile(path, image, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("e2fsck", "-fn", path).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	const (
		superblock   = 0x400
		resizeInode  = 0x10   // COMPAT, at 0x5c
		orphanFile   = 0x1000 // COMPAT
		sparseSuper2 = 0x200  // COMPAT
		metaBg       = 0x10   // INCOMPAT, at 0x60
		is64bit      = 0x80   // INCOMPAT
		csumSeed     = 0x2000 // INCOMPAT
		metadataCsum = 0x400  // RO_COMPAT, at 0x64
	)
	word := func(at int) int {
		b := image[superblock+at:]
		return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 | int(b[3])<<24
	}
	if got := word(0x5c) & (resizeInode | orphanFile | sparseSuper2); got != 0 {
		t.Errorf("compatible features %#x must be off", got)
	}
	if want := metaBg | is64bit | csumSeed; word(0x60)&want != want || word(0x64)&metadataCsum == 0 {
		t.Errorf("features %#x, %#x: it cannot grow, or not be given a UUID of its own", word(0x60), word(0x64))
	}
	if reserved := word(0x08); reserved != 0 {
		t.Errorf("%d blocks are reserved for root", reserved)
	}
}
