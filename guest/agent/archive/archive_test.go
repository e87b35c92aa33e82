//go:build linux

package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stackvm/stack/guest/agent/inroot"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// place makes a container's root beside a file that must never be reached.
func place(t testing.TB) (dir string, root *inroot.Root) {
	t.Helper()
	outer := t.TempDir()
	dir = filepath.Join(outer, "root")
	for _, d := range []string{"root/dir/sub", "root/etc"} {
		if err := os.MkdirAll(filepath.Join(outer, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	os.WriteFile(filepath.Join(outer, "secret"), []byte("outside"), 0o644)
	os.WriteFile(filepath.Join(dir, "dir/file"), []byte("content"), 0o640)
	os.WriteFile(filepath.Join(dir, "dir/sub/deep"), []byte("deep"), 0o600)
	os.Symlink("../../../../../secret", filepath.Join(dir, "dir/up"))
	os.Symlink(outer, filepath.Join(dir, "out"))
	os.Symlink("dir", filepath.Join(dir, "link"))
	root, err := inroot.Open(dir)
	if errors.Is(err, unix.ENOSYS) {
		t.Skip("the kernel has no openat2")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return dir, root
}

func names(t *testing.T, r io.Reader) (out []string) {
	t.Helper()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, h.Name)
	}
}

func TestGet(t *testing.T) {
	_, root := place(t)
	for _, tt := range []struct {
		path   string
		follow bool
		want   []string
	}{
		{"/dir", false, []string{"dir/", "dir/file", "dir/sub/", "dir/sub/deep", "dir/up"}},
		{"/dir/.", false, []string{"./", "./file", "./sub/", "./sub/deep", "./up"}},
		{"dir/file", false, []string{"file"}},
		{"/link", false, []string{"link"}},
		{"/link", true, []string{"link/", "link/file", "link/sub/", "link/sub/deep", "link/up"}},
		{"/link/sub", false, []string{"sub/", "sub/deep"}},
	} {
		var b bytes.Buffer
		err := Get(root, tt.path, tt.follow, func(*wire.ArchiveStat) error { return nil }, &b)
		if err != nil {
			t.Errorf("Get(%q): %v", tt.path, err)
			continue
		}
		if diff := cmp.Diff(tt.want, names(t, &b)); diff != "" {
			t.Errorf("Get(%q): %s", tt.path, diff)
		}
	}
	for _, name := range []string{"/missing", "/dir/up", "/out/secret", "/dir/file/x"} {
		var b bytes.Buffer
		err := Get(root, name, true, func(*wire.ArchiveStat) error { return nil }, &b)
		var coded *wire.Error
		if !errors.As(err, &coded) || coded.Code != wire.CodeNotFound || strings.Contains(b.String(), "outside") {
			t.Errorf("Get(%q): %v, %q", name, err, b.String())
		}
	}
}

func TestStat(t *testing.T) {
	_, root := place(t)
	s, err := Stat(root, "/link", false)
	if err != nil || s.LinkTarget != "dir" || os.FileMode(s.Mode)&os.ModeSymlink == 0 {
		t.Errorf("Stat(link): %+v, %v", s, err)
	}
	if s, err = Stat(root, "/link", true); err != nil || !os.FileMode(s.Mode).IsDir() || s.Name != "link" {
		t.Errorf("Stat(link) followed: %+v, %v", s, err)
	}
}

func pack(t testing.TB, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := h.Uname // carried here for brevity
		h.Uname, h.Uid, h.Gid = "", os.Getuid(), os.Getgid()
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(content))
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		h.ModTime = time.Unix(1e9, 0)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			io.WriteString(w, content)
		}
	}
	w.Close()
	return &b
}

func TestPut(t *testing.T) {
	dir, root := place(t)
	err := Put(root, "/link", nil, pack(t,
		tar.Header{Typeflag: tar.TypeDir, Name: "new/", Mode: 0o750},
		tar.Header{Typeflag: tar.TypeReg, Name: "new/file", Mode: 0o604, Uname: "hello"},
		tar.Header{Typeflag: tar.TypeReg, Name: "file", Uname: "replaced"},
		tar.Header{Typeflag: tar.TypeLink, Name: "hard", Linkname: "new/file"},
		tar.Header{Typeflag: tar.TypeReg, Name: "../../up-there", Uname: "stays below"},
	))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"dir/new/file": "hello", "dir/file": "replaced", "dir/hard": "hello", "dir/up-there": "stays below"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "dir/new"))
	if err != nil || info.Mode().Perm() != 0o750 || info.ModTime().Unix() != 1e9 {
		t.Errorf("dir/new: %v, %v", info, err)
	}
	for _, tt := range []struct {
		dir string
		h   tar.Header
	}{
		{"/missing", tar.Header{Typeflag: tar.TypeReg, Name: "x"}},
		{"/dir/file", tar.Header{Typeflag: tar.TypeReg, Name: "x"}},
		{"/", tar.Header{Typeflag: tar.TypeReg, Name: "dir"}},
		{"/dir", tar.Header{Typeflag: tar.TypeDir, Name: "file"}},
	} {
		var coded *wire.Error
		if err := Put(root, tt.dir, nil, pack(t, tt.h)); !errors.As(err, &coded) {
			t.Errorf("Put(%q, %q): %v", tt.dir, tt.h.Name, err)
		}
	}
}

// Whatever an archive holds, nothing outside the root is made or changed.
func FuzzPut(f *testing.F) {
	f.Add(pack(f, tar.Header{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "/"}, tar.Header{Typeflag: tar.TypeReg, Name: "a/out/secret", Uname: "x"}).Bytes())
	f.Add(pack(f, tar.Header{Typeflag: tar.TypeReg, Name: "out/secret", Uname: "x"}).Bytes())
	f.Add(pack(f, tar.Header{Typeflag: tar.TypeLink, Name: "l", Linkname: "up"}).Bytes())
	f.Fuzz(func(t *testing.T, archive []byte) {
		dir, root := place(t)
		Put(root, "/", nil, io.LimitReader(bytes.NewReader(archive), 1<<20))
		outer := filepath.Dir(dir)
		entries, err := os.ReadDir(outer)
		if err != nil || len(entries) != 2 {
			t.Fatalf("beside the root: %v, %v", entries, err)
		}
		if got, _ := os.ReadFile(filepath.Join(outer, "secret")); string(got) != "outside" {
			t.Fatalf("the file outside is %q", got)
		}
	})
}

// What Tree writes, Fill makes again: owners, modes, times, attributes, links,
// of the root too, and holes stay holes.
func TestTreeAndFill(t *testing.T) {
	dir, _ := place(t)
	files := filepath.Join(dir, "dir")
	root, err := inroot.Open(files)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := os.WriteFile(filepath.Join(files, "hole"), []byte("begin"), 0o604); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(files, "hole"), 8<<20); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.Link(filepath.Join(files, "file"), filepath.Join(files, "second")),
		os.Chmod(files, 0o2750), os.Chmod(filepath.Join(files, "sub"), 0o1777),
		os.Chtimes(files, time.Unix(5, 0), time.Unix(1e9, 123456789)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if os.Getuid() == 0 {
		for _, name := range []string{"", "sub", "file"} {
			if err := os.Chown(filepath.Join(files, name), 70, 71); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(files, 0o2750); err != nil { // chown may have cleared a bit
			t.Fatal(err)
		}
		if err := os.Chtimes(files, time.Unix(5, 0), time.Unix(1e9, 123456789)); err != nil {
			t.Fatal(err)
		}
	}
	attributes := true
	for _, name := range []string{"", "file"} {
		if err := unix.Setxattr(filepath.Join(files, name), "user.note", []byte("a=b\x00c"), 0); err == unix.ENOTSUP {
			attributes = false // of the file system that the test has
		} else if err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := Tree(root, &b); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	if err := os.Mkdir(out, 0o700); err != nil {
		t.Fatal(err)
	}
	to, err := inroot.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	whole := b.Bytes()
	if err := Fill(to, bytes.NewReader(whole)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "file", "second", "sub", "sub/deep", "up", "hole"} {
		var was, is unix.Stat_t
		if err := unix.Lstat(filepath.Join(files, name), &was); err != nil {
			t.Fatal(err)
		}
		if err := unix.Lstat(filepath.Join(out, name), &is); err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if was.Mode != is.Mode || was.Uid != is.Uid || was.Gid != is.Gid || was.Mtim != is.Mtim || was.Mode&unix.S_IFMT == unix.S_IFREG && was.Size != is.Size || is.Nlink != was.Nlink {
			t.Errorf("%q: %+v, was %+v", name, is, was)
		}
	}
	for _, name := range []string{"", "file"} {
		value := make([]byte, 100)
		if n, err := unix.Getxattr(filepath.Join(out, name), "user.note", value); attributes && (err != nil || string(value[:n]) != "a=b\x00c") {
			t.Errorf("attribute of %q: %v, %q", name, err, value[:max(n, 0)])
		}
	}
	var hole unix.Stat_t
	if err := unix.Stat(filepath.Join(out, "hole"), &hole); err != nil || hole.Blocks*512 > 1<<20 {
		t.Errorf("the hole takes %d bytes, %v", hole.Blocks*512, err)
	}
	if err := Fill(to, bytes.NewReader(whole[:len(whole)/2])); err == nil {
		t.Error("half an archive: no error")
	}
}
