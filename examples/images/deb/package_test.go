package deb_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/stackvm/stack/examples/images/deb"
	"github.com/stackvm/stack/examples/images/deb/debtest"
)

type file struct {
	Name, Link, Content string
	Type                byte
	Mode                int64
}

func read(r io.Reader) (deb.Control, []file, error) {
	var files []file
	control, err := deb.Read(r, func(h *tar.Header, body io.Reader) error {
		content, err := io.ReadAll(body)
		if err != nil {
			return err
		}
		files = append(files, file{h.Name, h.Linkname, string(content), h.Typeflag, h.Mode})
		return nil
	})
	return control, files, err
}

func gz(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

func xzip(t testing.TB, b []byte) []byte {
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(b)
	w.Close()
	return out.Bytes()
}

func zst(t testing.TB, b []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

var control = debtest.Tar(debtest.File("./control", "Package: hello\nVersion: 1.0-1\nDescription: greets\n again\n", 0o644))

var data = debtest.Tar(
	debtest.Dir("./usr/"), debtest.Dir("./usr/bin/"),
	debtest.File("./usr/bin/hello", "#!/bin/sh\necho hello\n", 0o755),
	debtest.Symlink("./usr/bin/hi", "hello"),
	debtest.Link("./usr/bin/hullo", "./usr/bin/hello"),
)

func TestRead(t *testing.T) {
	wantControl := deb.Control{"Package": "hello", "Version": "1.0-1", "Description": "greets\nagain"}
	wantFiles := []file{
		{Name: "./usr/", Type: tar.TypeDir, Mode: 0o755},
		{Name: "./usr/bin/", Type: tar.TypeDir, Mode: 0o755},
		{Name: "./usr/bin/hello", Type: tar.TypeReg, Mode: 0o755, Content: "#!/bin/sh\necho hello\n"},
		{Name: "./usr/bin/hi", Link: "hello", Type: tar.TypeSymlink, Mode: 0o777},
		{Name: "./usr/bin/hullo", Link: "./usr/bin/hello", Type: tar.TypeLink, Mode: 0o755},
	}
	version := debtest.Member{Name: "debian-binary", Body: []byte("2.0\n")}
	for name, members := range map[string][]debtest.Member{
		"plain":          {version, {Name: "control.tar", Body: control}, {Name: "data.tar", Body: data}},
		"gzip":           {version, {Name: "control.tar.gz", Body: gz(control)}, {Name: "data.tar.gz", Body: gz(data)}},
		"xz":             {version, {Name: "control.tar.xz", Body: xzip(t, control)}, {Name: "data.tar.xz", Body: xzip(t, data)}},
		"zstd":           {version, {Name: "control.tar.zst", Body: zst(t, control)}, {Name: "data.tar.zst", Body: zst(t, data)}},
		"extra members":  {version, {Name: "_first", Body: []byte("odd")}, {Name: "control.tar", Body: control}, {Name: "_second"}, {Name: "data.tar", Body: data}, {Name: "later", Body: []byte("ignored")}},
		"names of GNU":   {{Name: "debian-binary/", Body: []byte("2.0\n")}, {Name: "control.tar/", Body: control}, {Name: "data.tar/", Body: data}},
		"later versions": {{Name: "debian-binary", Body: []byte("2.9\nmore\n")}, {Name: "control.tar", Body: control}, {Name: "data.tar", Body: data}},
	} {
		t.Run(name, func(t *testing.T) {
			gotControl, gotFiles, err := read(bytes.NewReader(debtest.Archive(members...)))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(wantControl, gotControl); diff != "" {
				t.Errorf("control (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(wantFiles, gotFiles); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	version := debtest.Member{Name: "debian-binary", Body: []byte("2.0\n")}
	good := debtest.Archive(version, debtest.Member{Name: "control.tar", Body: control}, debtest.Member{Name: "data.tar", Body: data})
	archive := func(members ...debtest.Member) []byte { return debtest.Archive(members...) }
	controlOf := func(text string) debtest.Member {
		return debtest.Member{Name: "control.tar", Body: debtest.Tar(debtest.File("./control", text, 0o644))}
	}
	for _, tt := range []struct {
		name, want string
		in         []byte
	}{
		{"empty", "ar magic", nil},
		{"other file", "ar magic", []byte("PK\x03\x04 and some more")},
		{"only the magic", "first member", []byte("!<arch>\n")},
		{"wrong first member", "not debian-binary", archive(debtest.Member{Name: "control.tar", Body: control})},
		{"future version", "want 2.x", archive(debtest.Member{Name: "debian-binary", Body: []byte("3.0\n")})},
		{"no control", `"data.tar" where control.tar`, archive(version, debtest.Member{Name: "data.tar", Body: data})},
		{"no data", "no data archive", archive(version, debtest.Member{Name: "control.tar", Body: control})},
		{"unknown compression", "unknown compression", archive(version, debtest.Member{Name: "control.tar.rar", Body: control})},
		{"wrong compression", "control.tar.gz", archive(version, debtest.Member{Name: "control.tar.gz", Body: control})},
		{"empty control archive", "no file named control", archive(version, debtest.Member{Name: "control.tar", Body: debtest.Tar()})},
		{"control without name", "no Package", archive(version, controlOf("Version: 1\n"))},
		{"repeated field", "control:2 repeats", archive(version, controlOf("Package: a\nPackage: b\n"))},
		{"loose continuation", "control:1 continues", archive(version, controlOf(" a\n"))},
		{"no field", "control:2 is no field", archive(version, controlOf("Package: a\nb\n"))},
		{"cut in the data", "data.tar", good[:len(good)-1200]},
		{"cut in a header", "header", good[:100]},
		{"negative size", "size", bytes.Replace(good, []byte("4         `"), []byte("-4        `"), 1)},
		{"bad end of header", "header", bytes.Replace(good, []byte("`\n"), []byte("'\n"), 1)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := read(bytes.NewReader(tt.in))
			if !errors.Is(err, deb.ErrFormat) && !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(fmt.Sprint(err), tt.want) {
				t.Errorf("Read = %v, want an error naming %q", err, tt.want)
			}
		})
	}
}

func TestReadReturnsErrorOfVisit(t *testing.T) {
	want := errors.New("enough")
	calls := 0
	_, err := deb.Read(bytes.NewReader(debtest.Package("hello", data)), func(*tar.Header, io.Reader) error {
		calls++
		return want
	})
	if !errors.Is(err, want) || calls != 1 {
		t.Errorf("Read = %v after %d calls, want %v after 1", err, calls, want)
	}
}

// FuzzRead: no input panics, and what is read once is read again the same.
func FuzzRead(f *testing.F) {
	f.Add(debtest.Package("hello", data))
	f.Add(debtest.Archive(debtest.Member{Name: "debian-binary", Body: []byte("2.0\n")},
		debtest.Member{Name: "control.tar.xz", Body: xzip(f, control)}, debtest.Member{Name: "data.tar.zst", Body: zst(f, data)}))
	f.Add([]byte("!<arch>\ndebian-binary   0           0     0     100644  4         `\n2.0\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		control, files, err := read(bytes.NewReader(in))
		if err != nil {
			return
		}
		if control["Package"] == "" {
			t.Error("a package without a name was accepted")
		}
		control2, files2, err2 := read(bytes.NewReader(in))
		if err2 != nil || !cmp.Equal(control, control2) || !cmp.Equal(files, files2) {
			t.Errorf("second reading differs: %v", err2)
		}
	})
}

// BenchmarkRead reads the package STACK_BENCH_DEB names: what limits building an image.
func BenchmarkRead(b *testing.B) {
	name := os.Getenv("STACK_BENCH_DEB")
	if name == "" {
		b.Skip("STACK_BENCH_DEB names no package to read")
	}
	content, err := os.ReadFile(name)
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("reading %s", filepath.Base(name))
	for b.Loop() {
		var size int64
		_, err := deb.Read(bytes.NewReader(content), func(_ *tar.Header, body io.Reader) error {
			n, err := io.Copy(io.Discard, body)
			size += n
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(size)
	}
}
