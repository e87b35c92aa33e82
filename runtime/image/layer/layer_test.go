package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
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

func TestMerge(t *testing.T) {
	sum := func(s string) string { return erofstest.Sum([]byte(s)) }
	base := newStream().file("keep", "k").file("replace", "old").file("gone", "g").
		file("d/a", "a").file("d/b", "b").file("d/sub/c", "c").
		file("opaque/old", "o").symlink("link", "d").file("x/y", "y").end()
	for _, test := range []struct {
		name   string
		layers [][]byte
		want   []string
	}{
		{"a file replaces a file", [][]byte{newStream().file("f", "1").end(), newStream().file("f", "2").end()}, []string{"f " + sum("2")}},
		{
			"whiteouts and opaque directories",
			[][]byte{base, newStream().
				file(".wh.gone", "").file("d/.wh.a", "").file("d/sub/.wh.c", "").file("opaque/.wh..wh..opq", "").file("opaque/new", "n").
				file("replace", "new").file(".wh.link", "").file(".wh.x", "").file(".wh.never", "").end()},
			[]string{"d/", "d/b " + sum("b"), "d/sub/", "keep " + sum("k"), "opaque/", "opaque/new " + sum("n"), "replace " + sum("new")},
		},
		{
			"an opaque marker after its directory's entries",
			[][]byte{base, newStream().
				file("opaque/new", "n").file("opaque/.wh..wh..opq", "").file(".wh.d", "").file(".wh.x", "").file(".wh.link", "").end()},
			[]string{"gone " + sum("g"), "keep " + sum("k"), "opaque/", "opaque/new " + sum("n"), "replace " + sum("old")},
		},
		{
			"a directory that is removed and made again is new",
			[][]byte{base, newStream().file("d/new", "n").file(".wh.d", "").
				file(".wh.opaque", "").file(".wh.x", "").end()},
			[]string{"d/", "d/new " + sum("n"), "gone " + sum("g"), "keep " + sum("k"), "link -> d", "replace " + sum("old")},
		},
		{"a whiteout does not concern its own layer", [][]byte{newStream().file("f", "1").end(), newStream().file("f", "2").file(".wh.f", "").end()}, []string{"f " + sum("2")}},
		{
			"a directory replaces a link and a file a directory",
			[][]byte{
				newStream().file("real/f", "1").symlink("l", "real").file("d/f", "2").end(),
				newStream().file("l/g", "3").file("d", "4").end(),
			},
			[]string{"d " + sum("4"), "l/", "l/g " + sum("3"), "real/", "real/f " + sum("1")},
		},
		{
			"names through links of the layer",
			[][]byte{newStream().
				dir("usr/lib").symlink("lib", "usr/lib").file("lib/f", "1").symlink("abs", "/usr").file("abs/g", "2").
				symlink("usr/up", "../../../../usr/lib").file("usr/up/h", "3").hardlink("i", "abs/lib/f").end()},
			[]string{"abs -> /usr", "i " + sum("1"), "lib -> usr/lib", "usr/", "usr/g " + sum("2"), "usr/lib/", "usr/lib/f " + sum("1"), "usr/lib/h " + sum("3"), "usr/up -> ../../../../usr/lib"},
		},
		{
			"the last of equal names",
			[][]byte{newStream().file("f", "1").file("f", "2").file("d/x", "x").file("d", "3").
				file("e", "4").dir("e").file("./e/y", "y").symlink("s", "a").file("/s", "5").end()},
			[]string{"d " + sum("3"), "e/", "e/y " + sum("y"), "f " + sum("2"), "s " + sum("5")},
		},
		{
			"a hard link keeps what its target was",
			[][]byte{newStream().file("a", "1").hardlink("b", "a").file("a", "2").end()},
			[]string{"a " + sum("2"), "b " + sum("1")},
		},
		{
			"a hard link before its target",
			[][]byte{newStream().hardlink("a", "b").hardlink("b", "./c").file("c", "1").end()},
			[]string{"a " + sum("1"), "b " + sum("1"), "c " + sum("1")},
		},
		{
			"a hard link into a lower layer",
			[][]byte{newStream().file("d/f", "1").end(), newStream().hardlink("l", "d/f").file("d/.wh.f", "").end()},
			[]string{"d/", "l " + sum("1")},
		},
		{
			"whiteouts of overlays",
			[][]byte{base, newStream().
				add(tar.Header{Name: "gone", Typeflag: tar.TypeChar}, "").add(tar.Header{Name: "d", Typeflag: tar.TypeChar}, "").file("d/new", "n").
				add(tar.Header{Name: "opaque", Typeflag: tar.TypeChar}, "").dir("opaque").add(tar.Header{Name: "keep", Typeflag: tar.TypeChar}, "").file("keep", "2").
				add(tar.Header{Name: "never", Typeflag: tar.TypeChar}, "").file(".wh.x", "").file(".wh.link", "").end()},
			[]string{"d/", "d/new " + sum("n"), "keep " + sum("2"), "opaque/", "replace " + sum("old")},
		},
		{"AUFS bookkeeping", [][]byte{newStream().file(".wh..wh.plnk/1", "x").dir(".wh..wh.aufs").file("f", "1").end()}, []string{"f " + sum("1")}},
		{
			"the same layer twice",
			[][]byte{base[:], newStream().file(".wh.d", "").file(".wh.opaque", "").file(".wh.x", "").file(".wh.keep", "").end(), newStream().file("f", "1").end(), newStream().file("f", "1").end()},
			[]string{"f " + sum("1"), "gone " + sum("g"), "link -> d", "replace " + sum("old")},
		},
		{"an empty image", nil, nil},
		{"an empty layer", [][]byte{newStream().end()}, nil},
		{"no end marker", [][]byte{newStream().file("f", "1").end()[:1024]}, []string{"f " + sum("1")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, list(t, test.layers...)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestAttributesOfDirectories: a layer that only passes through a directory
// leaves it as a lower layer made it.
func TestAttributesOfDirectories(t *testing.T) {
	path, err := build(t,
		newStream().add(tar.Header{Name: "d", Typeflag: tar.TypeDir, Mode: 0o700, Uid: 7}, "").
			add(tar.Header{Name: "e", Typeflag: tar.TypeDir, Mode: 0o700, Uid: 7}, "").end(),
		newStream().file("d/f", "").add(tar.Header{Name: "e", Typeflag: tar.TypeDir, Mode: 0o711, Uid: 8}, "").end())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	files, _ := erofstest.Check(t, path)
	for _, f := range files {
		got[f.Path] = fmt.Sprintf("%v%d", f.Mode, f.UID)
	}
	want := map[string]string{".": "drwxr-xr-x0", "d": "drwx------7", "d/f": "-rw-r--r--0", "e": "drwx--x--x8"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestRefused(t *testing.T) {
	entry := func(h tar.Header) []byte { return newStream().add(h, "").end() }
	link := newStream()
	for n := range 50 {
		link.symlink(fmt.Sprintf("l%d", n), fmt.Sprintf("l%d", n+1))
	}
	deep := strings.Repeat("d/", 2047)
	loop := newStream().symlink("loop", "loop/loop").file("loop/f", "").end()
	for _, test := range []struct {
		name   string
		layers [][]byte
		want   string
	}{
		{"dot dot", [][]byte{newStream().file("a/../../b", "").end()}, `entry "a/../../b": path with ".."`},
		{"dot dot of a hard link", [][]byte{newStream().hardlink("a", "../etc/passwd").end()}, `hard link to "../etc/passwd": path with ".."`},
		{"long name", [][]byte{newStream().file(strings.Repeat("n", 256), "").end()}, "name of 256 bytes"},
		{"long name on the way", [][]byte{newStream().file(strings.Repeat("n", 256)+"/f", "").end()}, "name of 256 bytes"},
		{"long path", [][]byte{newStream().dir(strings.Repeat("n/", 3000)).end()}, "path of 6000 bytes"},
		{"deep through links", [][]byte{newStream().file(deep+"f", "").symlink("s", deep).file("s/"+deep[:2000]+"g", "").end()}, "path of more than 2048 directories"},
		{"file on the way", [][]byte{newStream().file("f", "").file("f/g", "").end()}, `"f" on the way is not a directory`},
		{"chain of links", [][]byte{link.file("l0/f", "").end()}, "more than 40 links"},
		{"loop of links", [][]byte{loop}, "more than 40 links"},
		{"hard link to a directory", [][]byte{newStream().dir("d").hardlink("l", "d").end()}, `hard link to "d", a directory`},
		{"hard link to a later directory", [][]byte{newStream().hardlink("l", "d").dir("d").end()}, `hard link to "d", a directory`},
		{"hard link to nothing", [][]byte{newStream().hardlink("l", "no").end()}, `hard link to "no", which is no file of this or a lower layer`},
		{"hard link to itself", [][]byte{newStream().hardlink("l", "l").end()}, `hard link to "l"`},
		{"hard links in a circle", [][]byte{newStream().hardlink("a", "b").hardlink("b", "a").end()}, "which is no file"},
		{"root as a file", [][]byte{newStream().symlink("./", "x").end()}, "root must be a directory"},
		{"removal of nothing", [][]byte{newStream().file("d/.wh.", "").end()}, "a removal of no name"},
		{"removal of the parent", [][]byte{newStream().file("d/.wh...", "").end()}, "a removal of no name"},
		{"owner", [][]byte{entry(tar.Header{Name: "f", Uid: 1 << 32, Format: tar.FormatPAX})}, "owner 4294967296:0"},
		{"negative owner", [][]byte{entry(tar.Header{Name: "f", Gid: -1, Format: tar.FormatGNU})}, "owner 0:-1"},
		{"device", [][]byte{entry(tar.Header{Name: "f", Typeflag: tar.TypeBlock, Devmajor: 4096, Format: tar.FormatGNU})}, "device 4096:0"},
		{"link target", [][]byte{newStream().symlink("l", strings.Repeat("t", 4096)).end()}, "link target of 4096 bytes"},
		{"no link target", [][]byte{newStream().symlink("l", "").end()}, "link target of 0 bytes"},
		{"attribute name", [][]byte{entry(tar.Header{Name: "f", PAXRecords: map[string]string{"SCHILY.xattr.user." + strings.Repeat("x", 256): "v"}})}, "name of 256 bytes"},
		{"attribute value", [][]byte{entry(tar.Header{Name: "f", PAXRecords: map[string]string{"SCHILY.xattr.user.x": strings.Repeat("x", 65536)}})}, "value of 65536 bytes"},
		{"unknown type", [][]byte{entry(tar.Header{Name: "f", Typeflag: 'Z'})}, `type 'Z'`},
		{"not a tar", [][]byte{bytes.Repeat([]byte("x"), 2048)}, "invalid tar header"},
		{"cut short", [][]byte{newStream().file("f", strings.Repeat("x", 5000)).end()[:3000]}, "unexpected EOF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := build(t, test.layers...)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want %q", err, test.want)
			}
		})
	}
}

// setChecksum makes the tar header at the beginning of b valid again.
func setChecksum(b []byte) {
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

func TestLimits(t *testing.T) {
	many := newStream()
	for n := range 20 {
		many.file(fmt.Sprintf("d%d/f", n), "1234567890")
	}
	layer := many.end()
	// A header may claim anything; nothing behind it must be believed first.
	claim := newStream().file("huge", "").end()
	copy(claim[124:136], "\x80\x00\x00\x00\x40\x00\x00\x00\x00\x00\x00\x00") // 2^62 bytes
	setChecksum(claim)
	for _, test := range []struct {
		name   string
		layer  []byte
		limits Limits
		want   string
	}{
		{"bytes", layer, Limits{Bytes: 199}, "file of 10 bytes: a layer may hold 199 in all"},
		{"inodes", layer, Limits{Inodes: 39}, "a layer may hold 39 files"},
		{"metadata", layer, Limits{Metadata: 69}, "a layer may hold 69 bytes of names"},
		{"claimed size", claim, Limits{}, "file of 4611686018427387904 bytes"},
		{"enough", layer, Limits{Bytes: 200, Inodes: 40, Metadata: 70}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var blob memory
			_, err := Unpack(t.Context(), bytes.NewReader(test.layer), &blob, test.limits)
			if got := fmt.Sprint(err); test.want == "" && err != nil || !strings.Contains(got, test.want) {
				t.Errorf("got error %v, want %q", err, test.want)
			}
		})
	}
}

// writes counts what reaches the blob.
type writes struct {
	memory
	bytes int
}

func (w *writes) WriteAt(p []byte, off int64) (int, error) {
	w.bytes += len(p)
	return w.memory.WriteAt(p, off)
}

// TestHoles: long runs of zeroes take no room, and every byte is where it was.
func TestHoles(t *testing.T) {
	zero := strings.Repeat("\x00", 300<<10)
	contents := map[string]string{
		"all":    zero + zero + zero + zero + zero,
		"middle": "a" + zero + "b",
		"end":    "a" + zero,
		"short":  "a" + zero[:60<<10] + "b",
		"data":   strings.Repeat("d", 3<<20),
	}
	s := newStream()
	var want []string
	for _, name := range []string{"all", "data", "end", "middle", "short"} {
		s.file(name, contents[name])
		want = append(want, name+" "+erofstest.Sum([]byte(contents[name])))
	}
	layer := s.end()
	if diff := cmp.Diff(want, list(t, layer)); diff != "" {
		t.Error(diff)
	}
	var w writes
	tree, err := Unpack(t.Context(), bytes.NewReader(layer), &w, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if most := 3<<20 + 400<<10; w.bytes > most {
		t.Errorf("%d bytes written of %d, want at most %d", w.bytes, tree.Blocks*erofs.BlockSize, most)
	}
}

// sparse makes a layer with one file that is written sparsely, as GNU tar does
// it in its own format and in pax: "a" at 1000 of 2000 bytes, and nothing else.
func sparse(pax bool) []byte {
	if !pax {
		b := newStream().add(tar.Header{Name: "sparse", Format: tar.FormatGNU}, "a").end()
		b[156] = tar.TypeGNUSparse
		copy(b[386:], "00000001750\x0000000000001\x00") // 1000, 1
		copy(b[386+24:], "00000003720\x0000000000000\x00")
		copy(b[483:], "00000003720\x00") // 2000
		setChecksum(b)
		return b
	}
	records := ""
	for _, r := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=sparse", "GNU.sparse.realsize=2000"} {
		records += fmt.Sprintf("%d %s\n", len(r)+4, r)
	}
	header := newStream().file("PaxHeaders/x", records).Bytes()
	header = append(header, make([]byte, -len(header)&511)...)
	header[156] = tar.TypeXHeader
	setChecksum(header)
	table := "2\n1000\n1\n2000\n0\n"
	return append(header, newStream().file("GNUSparseFile.0/sparse", table+strings.Repeat("\x00", 512-len(table))+"a").end()...)
}

// TestSparseFormats: the ways tar has to leave zeroes out give the same file.
func TestSparseFormats(t *testing.T) {
	content := make([]byte, 2000)
	content[1000] = 'a'
	for _, pax := range []bool{false, true} {
		if diff := cmp.Diff([]string{"sparse " + erofstest.Sum(content)}, list(t, sparse(pax))); diff != "" {
			t.Errorf("pax %v: %s", pax, diff)
		}
	}
}

func TestUnpackEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var blob memory
	_, err := Unpack(ctx, bytes.NewReader(newStream().file("f", "x").end()), &blob, Limits{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// FuzzUnpack: whatever two layers hold, the result is an error or a disk that a
// reader can walk, in which no name leads elsewhere.
func FuzzUnpack(f *testing.F) {
	f.Add(newStream().file("a", "1").dir("d").symlink("l", "/../d").hardlink("h", "a").file("d/.wh.x", "").end(), []byte{})
	f.Add(newStream().file("x/a", "1").file("x/.wh..wh..opq", "").end(), newStream().file("x/b", "2").file(".wh.x", "").end())
	f.Add(newStream().symlink("l", "l").file("l/x", "").end(), newStream().hardlink("z", "x").end())
	f.Add(newStream().add(tar.Header{Name: "x", PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}}, "c").end(), newStream().file("../x", "").end())
	f.Add(newStream().add(tar.Header{Name: "n", Typeflag: tar.TypeBlock, Devmajor: 1, Format: tar.FormatGNU}, "").end(), []byte("junk"))
	f.Add(sparse(false), sparse(true))
	limits := Limits{Bytes: 4 << 20, Inodes: 2000, Metadata: 1 << 20}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var blobs []Blob
		var data memory
		for _, l := range [][]byte{a, b} {
			var blob memory
			tree, err := Unpack(t.Context(), bytes.NewReader(l), &blob, limits)
			if err != nil {
				return
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
			return
		}
		var disk bytes.Buffer
		if _, err := erofs.Write(&disk, root, uint64(len(data)/erofs.BlockSize)); err != nil {
			t.Fatalf("a merged tree cannot be written: %v", err)
		}
		disk.Write(data)
		if _, err := erofstest.List(bytes.NewReader(disk.Bytes())); err != nil {
			t.Fatalf("the disk cannot be walked: %v", err)
		}
	})
}

// FuzzDecode: a damaged record is an error or a tree that can be merged.
func FuzzDecode(f *testing.F) {
	var blob memory
	tree, err := Unpack(f.Context(), bytes.NewReader(newStream().file("a", "1").dir("d").symlink("l", "x").hardlink("h", "a").
		hardlink("p", "lower").file("d/.wh.x", "").add(tar.Header{Name: "x", PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}}, "c").end()), &blob, Limits{})
	if err != nil {
		f.Fatal(err)
	}
	record := tree.Encode()
	f.Add(record[:len(record)-4])
	f.Fuzz(func(t *testing.T, body []byte) {
		// The checksum would stop nearly everything; the parser must not need it.
		tree, err := Decode(binary.LittleEndian.AppendUint32(body, crc32.Checksum(body, castagnoli)))
		if err != nil {
			return
		}
		if again, err := Decode(tree.Encode()); err != nil || !bytes.Equal(again.Encode(), tree.Encode()) {
			t.Errorf("a decoded tree does not survive its record: %v", err)
		}
		blocks := tree.Blocks
		if root, err := Merge([]Blob{{tree, 0}}); err == nil {
			_, _ = erofs.Write(io.Discard, root, blocks)
		}
	})
}

func TestDecodeRefuses(t *testing.T) {
	var blob memory
	tree, err := Unpack(t.Context(), bytes.NewReader(newStream().file("a", "1").end()), &blob, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	record := tree.Encode()
	if n, err := RecordBlocks(record[:RecordHead]); err != nil || n != tree.Blocks {
		t.Errorf("RecordBlocks = %d, %v; want %d", n, err, tree.Blocks)
	}
	if _, err := RecordBlocks(record[1:]); err == nil {
		t.Error("the head of something else is accepted")
	}
	for n := range record {
		damaged := bytes.Clone(record)
		damaged[n] ^= 0x40
		if _, err := Decode(damaged); err == nil {
			t.Errorf("a record with byte %d changed is accepted", n)
		}
		if _, err := Decode(record[:n]); err == nil {
			t.Errorf("a record of %d bytes instead of %d is accepted", n, len(record))
		}
	}
	newer := bytes.Clone(record)
	newer[len(treeMagic)-1]++
	if _, err := Decode(newer); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("a newer record: %v", err)
	}
}
