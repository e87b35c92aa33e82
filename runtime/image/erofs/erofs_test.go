package erofs_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/stackvm/stack/runtime/image/erofs"
	"github.com/stackvm/stack/runtime/image/erofstest"
)

func dir(entries ...erofs.Entry) *erofs.Inode {
	return &erofs.Inode{Mode: erofs.TypeDir | 0o755, Entries: entries}
}

func entry(name string, i *erofs.Inode) erofs.Entry { return erofs.Entry{Name: name, Inode: i} }

func write(t testing.TB, root *erofs.Inode, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	n, err := erofs.Write(&b, root, uint64(len(data)/erofs.BlockSize))
	if err != nil {
		t.Fatal(err)
	}
	if n != int64(b.Len()) || n%erofs.BlockSize != 0 {
		t.Errorf("Write says %d bytes and writes %d", n, b.Len())
	}
	return append(b.Bytes(), data...)
}

func check(t testing.TB, image []byte) []erofstest.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	files, _ := erofstest.Check(t, path)
	return files
}

// TestTailsOfEverySize walks directories and links through every way their last
// block can be kept, beside attributes of every size.
func TestTailsOfEverySize(t *testing.T) {
	var top []erofs.Entry
	want := map[string]string{}
	n := 0
	for _, attr := range []int{-1, 0, 1, 900, 2000, 4000, 4096, 9000, 65535} {
		for _, size := range []int{1, 2, 63, 64, 1000, 2047, 2048, 2049, 3000, 4000, 4031, 4032, 4033, 4095} {
			name := fmt.Sprintf("link-%03d", n)
			n++
			i := &erofs.Inode{Mode: erofs.TypeLink | 0o777, Target: strings.Repeat("t", size)}
			if attr >= 0 {
				i.Xattrs = []erofs.Xattr{{Name: "trusted.x", Value: strings.Repeat("v", attr)}}
			}
			top = append(top, entry(name, i))
			want[name] = fmt.Sprint(size, attr)
		}
	}
	for _, count := range []int{0, 1, 14, 15, 16, 31, 32, 100, 1000} {
		var entries []erofs.Entry
		for k := range count {
			entries = append(entries, entry(fmt.Sprintf("%0250d", k), dir()))
		}
		top = append(top, entry(fmt.Sprintf("z%04d", count), dir(entries...)))
		want[fmt.Sprintf("z%04d", count)] = fmt.Sprint(count)
	}
	got := map[string]string{}
	for _, f := range check(t, write(t, dir(top...), nil)) {
		parent, _ := filepath.Split(f.Path)
		switch {
		case f.Path == ".":
		case parent != "":
			k := strings.TrimSuffix(parent, "/")
			var c int
			fmt.Sscan(got[k], &c)
			got[k] = fmt.Sprint(c + 1)
		case f.Target != "":
			attr := -1
			if v, ok := f.Xattrs["trusted.x"]; ok {
				attr = len(v)
			}
			got[f.Path] = fmt.Sprint(len(f.Target), attr)
		default:
			got[f.Path] = "0"
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLookupFindsEveryName(t *testing.T) {
	// The kernel finds names by bisection; "." and ".." are among them.
	var names []string
	for c := 1; c < 256; c++ {
		if c == '/' {
			continue
		}
		for _, s := range []string{"", "x", ".", string([]byte{byte(c)}), strings.Repeat("y", 200)} {
			if name := string([]byte{byte(c)}) + s; name != "." && name != ".." {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	var entries []erofs.Entry
	for n, name := range names {
		entries = append(entries, entry(name, &erofs.Inode{Mode: erofs.TypeFIFO | 0o600, UID: uint32(n)}))
	}
	files := check(t, write(t, dir(entries...), nil))
	for n, name := range names {
		if files = slices.DeleteFunc(files, func(f erofstest.File) bool { return f.Path == name && f.UID == uint32(n) }); len(files) != len(names)-n {
			t.Fatalf("name %q is not found as it was written", name)
		}
	}
}

func TestRefused(t *testing.T) {
	file := func() *erofs.Inode { return &erofs.Inode{Mode: erofs.TypeFile} }
	shared := dir()
	for _, test := range []struct {
		name string
		root *erofs.Inode
		want string
	}{
		{"root", file(), "must be a directory"},
		{"dot", dir(entry(".", dir())), `name ".": not a file name`},
		{"dot dot", dir(entry("..", dir())), `name "..": not a file name`},
		{"slash", dir(entry("a/b", dir())), `name "a/b": not a file name`},
		{"NUL", dir(entry("a\x00", dir())), "not a file name"},
		{"empty", dir(entry("", dir())), "not a file name"},
		{"long", dir(entry(strings.Repeat("x", 256), dir())), "256 bytes"},
		{"order", dir(entry("b", dir()), entry("a", dir())), `name "a": follows "b"`},
		{"twice", dir(entry("a", dir()), entry("a", dir())), `name "a": follows "a"`},
		{"nothing", dir(entry("a", nil)), "without an inode"},
		{"two links to a directory", dir(entry("a", shared), entry("b", shared)), "a second link to a directory"},
		{"type", dir(entry("a", &erofs.Inode{Mode: 0o644})), "unknown file type"},
		{"target", dir(entry("a", &erofs.Inode{Mode: erofs.TypeLink})), "link target of 0 bytes"},
		{"device", dir(entry("a", &erofs.Inode{Mode: erofs.TypeChar, Major: 1 << 12})), "device 4096:0"},
		{"nanoseconds", dir(entry("a", &erofs.Inode{Mode: erofs.TypeFIFO, Nsec: 1e9})), "1000000000 nanoseconds"},
		{"data beyond the end", dir(entry("a", &erofs.Inode{Mode: erofs.TypeFile, Size: 4097, Block: 9})), "there are 10 blocks of data"},
		{"data far beyond the end", dir(entry("a", &erofs.Inode{Mode: erofs.TypeFile, Size: 1, Block: 1 << 63})), "there are 10 blocks of data"},
		{"size", dir(entry("a", &erofs.Inode{Mode: erofs.TypeFile, Size: 1 << 63})), "size of 9223372036854775808 bytes"},
		{"attribute", dir(entry("a", &erofs.Inode{Mode: erofs.TypeFIFO, Xattrs: []erofs.Xattr{{Name: "bad.x"}}})), "unknown namespace"},
		{"attributes", dir(entry("a", &erofs.Inode{Mode: erofs.TypeFIFO, Xattrs: slices.Repeat([]erofs.Xattr{{Name: "user.x", Value: strings.Repeat("x", 60000)}}, 5)})), "extended attributes of"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := erofs.Write(io.Discard, test.root, 10)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want %q", err, test.want)
			}
		})
	}
	if _, err := erofs.Write(io.Discard, dir(), 1<<32); err == nil {
		t.Error("a disk of 2^32 blocks is accepted")
	}
}

// TestSetID reads the bits that go-erofs leaves out where they are on disk.
func TestSetID(t *testing.T) {
	image := write(t, &erofs.Inode{Mode: erofs.TypeDir | 0o7755}, nil)
	nid := binary.LittleEndian.Uint16(image[1024+14:])
	if mode := binary.LittleEndian.Uint16(image[int(nid)*32+4:]); mode != 0o047755 {
		t.Errorf("mode %#o", mode)
	}
}

// TestAnyTree: whatever the tree, every reader sees it as it was made, and
// writing it again gives the same bytes.
func TestAnyTree(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var want []string
		var all []*erofs.Inode
		data := make([]byte, 8*erofs.BlockSize)
		for n := range data {
			data[n] = byte(n / 7)
		}
		links := map[*erofs.Inode]int{}
		names := map[*erofs.Inode][]string{}
		name := rapid.StringMatching(`[!-.0-~\x80-\xff]{1,40}`).Filter(func(s string) bool { return s != "." && s != ".." && len(s) < 256 })
		var grow func(path string, depth int) *erofs.Inode
		grow = func(path string, depth int) *erofs.Inode {
			d := &erofs.Inode{Mode: erofs.TypeDir | rapid.Uint16Range(0, 0o777).Draw(rt, "mode"), UID: rapid.Uint32Range(0, 1<<32-2).Draw(rt, "uid")}
			links[d], names[d] = 2, []string{path}
			for _, n := range rapid.SliceOfNDistinct(name, 0, 12, rapid.ID).Draw(rt, "names") {
				at := strings.TrimPrefix(path+"/"+n, "./")
				var i *erofs.Inode
				switch kind := rapid.IntRange(0, 5).Draw(rt, "kind"); {
				case kind == 0 && depth < 4:
					i = grow(at, depth+1)
					links[d]++
				case kind == 1 && len(all) > 0:
					i = all[rapid.IntRange(0, len(all)-1).Draw(rt, "link")]
					links[i]++
					names[i] = append(names[i], at)
				case kind == 2:
					i = &erofs.Inode{Mode: erofs.TypeLink | 0o777, Target: strings.Repeat("t", rapid.IntRange(1, 4095).Draw(rt, "target"))}
				case kind == 3:
					i = &erofs.Inode{Mode: erofs.TypeChar, Major: rapid.Uint32Range(0, 4095).Draw(rt, "major"), Minor: rapid.Uint32Range(0, 1<<20-1).Draw(rt, "minor")}
				default:
					size := rapid.Uint64Range(0, 3*erofs.BlockSize).Draw(rt, "size")
					i = &erofs.Inode{Mode: erofs.TypeFile | 0o644, Size: size, Block: rapid.Uint64Range(0, 5).Draw(rt, "block"), Sec: rapid.Int64Range(-1e9, 1<<40).Draw(rt, "time")}
				}
				if links[i] == 0 {
					links[i], names[i] = 1, []string{at}
					all = append(all, i)
				}
				if len(i.Xattrs) == 0 && rapid.Bool().Draw(rt, "attributed") {
					// Not user.*: the kernel hides those of links and devices.
					i.Xattrs = []erofs.Xattr{{Name: "trusted.a", Value: strings.Repeat("v", rapid.IntRange(0, 5000).Draw(rt, "value"))}}
				}
				d.Entries = append(d.Entries, entry(n, i))
			}
			slices.SortFunc(d.Entries, func(a, b erofs.Entry) int { return strings.Compare(a.Name, b.Name) })
			return d
		}
		root := grow(".", 0)
		describe := func(path string, mode uint16, uid uint32, sec int64, links int, target int, size uint64, sum string, dev [2]uint32, value int) string {
			return fmt.Sprint(path, " ", mode, " ", uid, " ", sec, " ", links, " ", target, " ", size, " ", sum, " ", dev, " ", value)
		}
		for i, at := range names {
			sum := ""
			if i.Type() == erofs.TypeFile {
				sum = erofstest.Sum(data[i.Block*erofs.BlockSize:][:i.Size])
			}
			value := -1
			if len(i.Xattrs) > 0 {
				value = len(i.Xattrs[0].Value)
			}
			for _, path := range at {
				want = append(want, describe(path, i.Mode&0o777, i.UID, i.Sec, links[i], len(i.Target), i.Size, sum, [2]uint32{i.Major, i.Minor}, value))
			}
		}
		image := write(t, root, data)
		files, err := erofstest.List(bytes.NewReader(image))
		if err != nil {
			rt.Fatal(err)
		}
		var got []string
		for _, f := range files {
			value := -1
			if v, ok := f.Xattrs["trusted.a"]; ok {
				value = len(v)
			}
			got = append(got, describe(f.Path, uint16(f.Mode.Perm()), f.UID, f.Time.Unix(), int(f.Nlink), len(f.Target), uint64(f.Size), f.Sum, [2]uint32{f.Major, f.Minor}, value))
		}
		slices.Sort(want)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Fatal(diff)
		}
		if again := write(t, root, data); !bytes.Equal(image, again) {
			rt.Fatal("the second image differs from the first")
		}
		check(t, image)
	})
}

func BenchmarkWrite(b *testing.B) {
	var top []erofs.Entry
	for n := range 200 {
		var entries []erofs.Entry
		for k := range 100 {
			entries = append(entries, entry(fmt.Sprintf("some-file-%04d", k), &erofs.Inode{Mode: erofs.TypeFile | 0o644}))
		}
		top = append(top, entry(fmt.Sprintf("dir-%04d", n), dir(entries...)))
	}
	root := dir(top...)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := erofs.Write(io.Discard, root, 0); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(20201*b.N)/b.Elapsed().Seconds(), "inodes/s")
}
