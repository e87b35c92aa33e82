package volume

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// testTemplate makes an ext4 template with the host's mke2fs, with the features
// that the guest's has.
func testTemplate(t testing.TB) *Template {
	t.Helper()
	mke2fs, err := exec.LookPath("mke2fs")
	if err != nil {
		mke2fs = "/sbin/mke2fs"
		if _, err := os.Stat(mke2fs); err != nil {
			t.Skip("mke2fs is not installed (Debian package e2fsprogs)")
		}
	}
	dir := t.TempDir()
	raw := filepath.Join(dir, "raw")
	cmd := exec.Command(mke2fs, "-q", "-t", "ext4", "-O", "metadata_csum,metadata_csum_seed,^resize_inode,meta_bg", "-b", "4096", raw, "64M")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	content, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	compressed := filepath.Join(dir, "ext4.img.zst")
	if err := os.WriteFile(compressed, z.EncodeAll(content, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	return fixed(compressed, filepath.Join(dir, "cache"))
}

func fixed(compressed, cache string) *Template {
	return NewTemplate(func() (string, string, error) { return compressed, "test", nil }, cache)
}

func fsck(t *testing.T, disk string) {
	t.Helper()
	// -n opens read-only and answers no to everything; -f checks even a clean one.
	out, err := exec.Command("/sbin/e2fsck", "-fn", disk).CombinedOutput()
	if errors.Is(err, os.ErrNotExist) {
		t.Log("e2fsck is not installed (Debian package e2fsprogs): disks not checked")
		return
	}
	if err != nil {
		t.Errorf("e2fsck %s: %v\n%s", disk, err, out)
	}
}

func uuidOf(t *testing.T, disk string) [16]byte {
	t.Helper()
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var id [16]byte
	if _, err := f.ReadAt(id[:], superblockAt+uuidAt); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestCreate(t *testing.T) {
	s := Open(filepath.Join(t.TempDir(), "volumes"), testTemplate(t))
	a, err := s.Create(Volume{Name: "shop_a", Key: "a", Project: "shop", Labels: map[string]string{"x": "y"}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Create(Volume{Name: "shop_b", Bytes: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	fsck(t, a.Disk)
	fsck(t, b.Disk)
	if uuidOf(t, a.Disk) == uuidOf(t, b.Disk) {
		t.Error("two volumes have one UUID")
	}
	info, err := os.Stat(a.Disk)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() != DefaultBytes {
		t.Errorf("size %d, want %d", info.Size(), int64(DefaultBytes))
	}
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > 16<<20 {
		t.Errorf("an empty volume takes %d bytes of the host's disk", used)
	}

	got, err := s.Get("shop_a")
	if err != nil || got.Project != "shop" || got.Labels["x"] != "y" || got.Disk != a.Disk {
		t.Errorf("Get = %+v, %v", got, err)
	}
	if _, err := s.Create(Volume{Name: "shop_a"}); !errors.Is(err, ErrExists) {
		t.Errorf("a second Create: %v, want ErrExists", err)
	}
	if all, err := s.List(); err != nil || len(all) != 2 || all[0].Name != "shop_a" {
		t.Errorf("List = %v, %v", all, err)
	}
	for _, bad := range []string{"", ".", "..", "../x", "a/b", ".hidden", "-x", "a\x00"} {
		if _, err := s.Create(Volume{Name: bad}); err == nil {
			t.Errorf("name %q was taken", bad)
		}
		if _, err := s.Get(bad); !errors.Is(err, ErrNotFound) {
			t.Errorf("Get(%q): %v", bad, err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(s.dir, tempPrefix+"*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestConcurrentCreateMakesOne(t *testing.T) {
	s := Open(filepath.Join(t.TempDir(), "volumes"), testTemplate(t))
	errs := make([]error, 6)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { _, errs[i] = s.Create(Volume{Name: "v", Bytes: 1 << 30}) })
	}
	wg.Wait()
	made := 0
	for _, err := range errs {
		switch {
		case err == nil:
			made++
		case !errors.Is(err, ErrExists):
			t.Error(err)
		}
	}
	if made != 1 {
		t.Errorf("%d calls made the volume", made)
	}
}

func TestLockLastsAsLongAsItsFile(t *testing.T) {
	s := Open(filepath.Join(t.TempDir(), "volumes"), testTemplate(t))
	if _, err := s.Create(Volume{Name: "v", Bytes: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	lock, err := s.Lock("v", "shop-db-1")
	if err != nil {
		t.Fatal(err)
	}
	// The machine's process: it inherits the lock, then this process lets go.
	machine := exec.Command("cat")
	machine.ExtraFiles = []*os.File{lock}
	stdin, err := machine.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := machine.Start(); err != nil {
		t.Fatal(err)
	}
	lock.Close()

	var busy *BusyError
	if _, err := s.Lock("v", "shop-other-1"); !errors.As(err, &busy) || busy.Holder != "shop-db-1" {
		t.Errorf("Lock of a taken volume: %v, want it busy with shop-db-1", err)
	}
	if err := s.Remove("v"); !errors.As(err, &busy) {
		t.Errorf("Remove of a taken volume: %v", err)
	}
	if _, err := s.Get("v"); err != nil {
		t.Errorf("the volume is gone: %v", err)
	}
	stdin.Close()
	if err := machine.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove("v"); err != nil {
		t.Errorf("Remove after the machine's end: %v", err)
	}
	if _, err := s.Get("v"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get of a removed volume: %v", err)
	}
}

func TestSweep(t *testing.T) {
	s := Open(filepath.Join(t.TempDir(), "volumes"), testTemplate(t))
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(Volume{Name: "kept", Bytes: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(s.dir, tempPrefix+"123")
	if err := os.MkdirAll(filepath.Join(half, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a half-made volume is still there: %v", err)
	}
	if _, err := s.Get("kept"); err != nil {
		t.Error(err)
	}
}

func TestNewerRecordIsRefused(t *testing.T) {
	s := Open(filepath.Join(t.TempDir(), "volumes"), testTemplate(t))
	v, err := s.Create(Volume{Name: "v", Bytes: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(filepath.Dir(v.Disk), recordFile)
	if err := os.WriteFile(record, []byte(`{"version":2,"name":"v"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get("v"); err == nil {
		t.Error("a newer record was read")
	}
	if err := s.Remove("v"); err == nil {
		t.Error("a volume of a newer program was removed")
	}
}

func TestTemplateThatIsNoFileSystem(t *testing.T) {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	compressed := filepath.Join(dir, "t.zst")
	if err := os.WriteFile(compressed, z.EncodeAll(bytes.Repeat([]byte{7}, 1<<20), nil), 0o600); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(dir, "disk")
	if err := fixed(compressed, dir).Clone(disk, 1<<30); err == nil {
		t.Error("a disk was made of something else")
	}
	if _, err := os.Stat(disk); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half a disk was left: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"version":1,"name":"v","bytes":5}`))
	f.Add([]byte(`{"version":1,"name":"../v"}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		v, err := parse("v", "/volumes/v", text)
		if err == nil && (v.Name != "v" || v.Disk != "/volumes/v/disk.img") {
			t.Errorf("parse(%q) = %+v", text, v)
		}
	})
}

func BenchmarkClone(b *testing.B) {
	template := testTemplate(b)
	dir := b.TempDir()
	for b.Loop() {
		disk := filepath.Join(dir, "disk")
		if err := template.Clone(disk, DefaultScratchBytes); err != nil {
			b.Fatal(err)
		}
		os.Remove(disk)
	}
}
