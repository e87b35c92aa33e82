package layer

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stackvm/stack/runtime/image/erofs"
	"github.com/stackvm/stack/runtime/image/erofstest"
)

// stream is a layer in the making.
type stream struct {
	bytes.Buffer
	w *tar.Writer
}

func newStream() *stream {
	s := &stream{}
	s.w = tar.NewWriter(&s.Buffer)
	return s
}

// add appends an entry; the zero Typeflag means a regular file.
func (s *stream) add(h tar.Header, content string) *stream {
	if h.Typeflag == 0 {
		h.Typeflag = tar.TypeReg
	}
	if h.Mode == 0 {
		h.Mode = 0o644
	}
	if h.ModTime.IsZero() {
		h.ModTime = time.Unix(1000, 0)
	}
	h.Size = int64(len(content))
	if h.Format == tar.FormatUnknown {
		h.Format = tar.FormatPAX
	}
	if err := s.w.WriteHeader(&h); err != nil {
		panic(err)
	}
	if _, err := io.WriteString(s.w, content); err != nil {
		panic(err)
	}
	return s
}

func (s *stream) file(name, content string) *stream { return s.add(tar.Header{Name: name}, content) }
func (s *stream) dir(name string) *stream {
	return s.add(tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}, "")
}

func (s *stream) symlink(name, target string) *stream {
	return s.add(tar.Header{Name: name, Linkname: target, Typeflag: tar.TypeSymlink, Mode: 0o777}, "")
}

func (s *stream) hardlink(name, target string) *stream {
	return s.add(tar.Header{Name: name, Linkname: target, Typeflag: tar.TypeLink}, "")
}

func (s *stream) end() []byte {
	if err := s.w.Close(); err != nil {
		panic(err)
	}
	return s.Bytes()
}

// memory is a blob in memory.
type memory []byte

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if need := off + int64(len(p)); need > int64(len(*m)) {
		*m = append(*m, make([]byte, need-int64(len(*m)))...)
	}
	return copy((*m)[off:], p), nil
}

// build makes the whole device of the layers and returns the path of its file.
// Every tree takes the way through its record, as trees do in the store.
func build(t testing.TB, layers ...[]byte) (string, error) {
	t.Helper()
	var blobs []Blob
	var data []byte
	for _, l := range layers {
		var blob memory
		tree, err := Unpack(t.Context(), bytes.NewReader(l), &blob, Limits{Bytes: 1 << 30, Inodes: 1 << 14, Metadata: 1 << 20})
		if err != nil {
			return "", err
		}
		if tree, err = Decode(tree.Encode()); err != nil {
			t.Fatalf("a tree does not survive its record: %v", err)
		}
		blobs = append(blobs, Blob{tree, uint64(len(data) / erofs.BlockSize)})
		data = append(data, blob...)
		data = append(data, make([]byte, int(blobs[len(blobs)-1].Base+tree.Blocks)*erofs.BlockSize-len(data))...)
	}
	root, err := Merge(blobs)
	if err != nil {
		return "", err
	}
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n, err := erofs.Write(f, root, uint64(len(data)/erofs.BlockSize))
	if err != nil {
		return "", err
	}
	if n%erofs.BlockSize != 0 {
		t.Errorf("metadata of %d bytes", n)
	}
	_, err = f.Write(data)
	return path, err
}

// list builds the layers and returns the names with what matters to the test.
func list(t testing.TB, layers ...[]byte) []string {
	t.Helper()
	path, err := build(t, layers...)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	files, _ := erofstest.Check(t, path)
	for _, f := range files {
		switch {
		case f.Path == ".":
		case f.Mode.IsRegular():
			lines = append(lines, fmt.Sprintf("%s %s", f.Path, f.Sum))
		case f.Mode.IsDir():
			lines = append(lines, f.Path+"/")
		default:
			lines = append(lines, fmt.Sprintf("%s -> %s", f.Path, f.Target))
		}
	}
	return lines
}

func TestEverythingAnInodeCanBe(t *testing.T) {
	when := time.Unix(1700000000, 123456789)
	big := strings.Repeat("0123456789abcdef", 1000) + "x" // neither a block nor a multiple of one
	acl := "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x21\x00\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"
	xattr := func(kv ...string) map[string]string {
		m := map[string]string{}
		for n := 0; n < len(kv); n += 2 {
			m["SCHILY.xattr."+kv[n]] = kv[n+1]
		}
		return m
	}
	layer := newStream().
		add(tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o711, Uid: 1, Gid: 2, ModTime: when}, "").
		file("empty", "").
		file("small", "hello").
		file("block", strings.Repeat("b", 4096)).
		add(tar.Header{Name: "big", ModTime: when, Uid: 4000000000, Gid: 4000000001, Mode: 0o6755}, big).
		add(tar.Header{Name: "tmp", Typeflag: tar.TypeDir, Mode: 0o1777, ModTime: time.Unix(-5, 500)}, "").
		symlink("absolute", "/etc/../../../passwd").
		symlink("long", strings.Repeat("/target", 500)). // a block of its own
		symlink("middling", strings.Repeat("/target", 200)).
		add(tar.Header{Name: "dev/blk", Typeflag: tar.TypeBlock, Devmajor: 259, Devminor: 70000}, "").
		add(tar.Header{Name: "dev/chr", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666}, "").
		add(tar.Header{Name: "dev/fifo", Typeflag: tar.TypeFifo}, "").
		hardlink("dev/link", "big").
		hardlink("link-to-link", "absolute").
		add(tar.Header{Name: "cap", PAXRecords: xattr("security.capability", "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")}, "capable").
		add(tar.Header{Name: "attrs", PAXRecords: xattr("user.a", "1", "user.empty", "", "trusted.t", "2", "user.big", strings.Repeat("v", 20000), "user.b", strings.Repeat("w", 900))}, "with attributes").
		add(tar.Header{Name: "acl", PAXRecords: xattr("system.posix_acl_access", acl)}, "with an ACL").
		add(tar.Header{Name: "odd", PAXRecords: xattr("nonsense.x", "1", "trusted.overlay.opaque", "y")}, "").
		add(tar.Header{Name: "attrdir", Typeflag: tar.TypeDir, Mode: 0o755, PAXRecords: xattr("user.big", strings.Repeat("d", 4090))}, "").
		file("attrdir/in", "in").
		file("/made/parents/here", "x").
		file(strings.Repeat("n", 255), "longest name").
		file("!before the dots", "").
		file(".-between the dots", "").
		file("weird \x01\n\xff name", "").
		end()
	path, err := build(t, layer)
	if err != nil {
		t.Fatal(err)
	}
	bigSum := erofstest.Sum([]byte(big))
	want := []string{
		"!before the dots -rw-r--r-- 0:0 1000.000000000 links=1 size=0 sum=e3b0c442",
		". drwx--x--x 1:2 1700000000.123456789 links=6",
		".-between the dots -rw-r--r-- 0:0 1000.000000000 links=1 size=0 sum=e3b0c442",
		"absolute Lrwxrwxrwx 0:0 1000.000000000 links=2 -> /etc/../../../passwd",
		fmt.Sprintf("acl -rw-r--r-- 0:0 1000.000000000 links=1 size=11 sum=%s system.posix_acl_access=%d bytes %s", erofstest.Sum([]byte("with an ACL")), len(acl), erofstest.Sum([]byte(acl))),
		"attrdir drwxr-xr-x 0:0 1000.000000000 links=2 user.big=4090 bytes " + erofstest.Sum([]byte(strings.Repeat("d", 4090))),
		"attrdir/in -rw-r--r-- 0:0 1000.000000000 links=1 size=2 sum=" + erofstest.Sum([]byte("in")),
		"attrs -rw-r--r-- 0:0 1000.000000000 links=1 size=15 sum=" + erofstest.Sum([]byte("with attributes")) +
			` trusted.t="2" user.a="1" user.b=900 bytes ` + erofstest.Sum([]byte(strings.Repeat("w", 900))) +
			" user.big=20000 bytes " + erofstest.Sum([]byte(strings.Repeat("v", 20000))) + ` user.empty=""`,
		"big ugrwxr-xr-x 4000000000:4000000001 1700000000.123456789 links=2 size=16001 sum=" + bigSum,
		"block -rw-r--r-- 0:0 1000.000000000 links=1 size=4096 sum=" + erofstest.Sum([]byte(strings.Repeat("b", 4096))),
		"cap -rw-r--r-- 0:0 1000.000000000 links=1 size=7 sum=" + erofstest.Sum([]byte("capable")) +
			` security.capability="\x01\x00\x00\x02\x00 \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"`,
		"dev drwxr-xr-x 0:0 0.000000000 links=2",
		"dev/blk Drw-r--r-- 0:0 1000.000000000 links=1 dev=259:70000",
		"dev/chr Dcrw-rw-rw- 0:0 1000.000000000 links=1 dev=1:3",
		"dev/fifo prw-r--r-- 0:0 1000.000000000 links=1",
		"dev/link ugrwxr-xr-x 4000000000:4000000001 1700000000.123456789 links=2 size=16001 sum=" + bigSum,
		"empty -rw-r--r-- 0:0 1000.000000000 links=1 size=0 sum=e3b0c442",
		"link-to-link Lrwxrwxrwx 0:0 1000.000000000 links=2 -> /etc/../../../passwd",
		"long Lrwxrwxrwx 0:0 1000.000000000 links=1 -> " + strings.Repeat("/target", 500),
		"made drwxr-xr-x 0:0 0.000000000 links=3",
		"made/parents drwxr-xr-x 0:0 0.000000000 links=2",
		"made/parents/here -rw-r--r-- 0:0 1000.000000000 links=1 size=1 sum=2d711642",
		"middling Lrwxrwxrwx 0:0 1000.000000000 links=1 -> " + strings.Repeat("/target", 200),
		strings.Repeat("n", 255) + " -rw-r--r-- 0:0 1000.000000000 links=1 size=12 sum=" + erofstest.Sum([]byte("longest name")),
		"odd -rw-r--r-- 0:0 1000.000000000 links=1 size=0 sum=e3b0c442",
		"small -rw-r--r-- 0:0 1000.000000000 links=1 size=5 sum=2cf24dba",
		"tmp dtrwxrwxrwx 0:0 -5.000000500 links=2",
		"weird \x01\n\xff name -rw-r--r-- 0:0 1000.000000000 links=1 size=0 sum=e3b0c442",
	}
	files, kernel := erofstest.Check(t, path)
	if !kernel {
		for n := range want {
			want[n] = strings.NewReplacer(" ugrwx", " -rwx", " dtrwx", " drwx").Replace(want[n])
		}
	}
	if diff := cmp.Diff(want, erofstest.Lines(files)); diff != "" {
		t.Error(diff)
	}
}
