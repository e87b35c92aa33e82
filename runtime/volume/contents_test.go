package volume

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

type entry struct {
	tar.Header
	content string
}

func archiveOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		e.Size = int64(len(e.content))
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func file(name, content string, uid int) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Uid: uid}, content}
}

func contentsOf(t testing.TB, archive []byte) Contents {
	t.Helper()
	c, err := ReadContents(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestContents(t *testing.T) {
	dir := entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o700, Uid: 70}}
	link := func(name, to string) entry {
		return entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}}
	}
	was := contentsOf(t, archiveOf(t, dir, file("./a", "one", 70), link("./b", "./a")))
	if was.Entries() != 3 || was.Bytes != 3 {
		t.Errorf("%d entries, %d bytes", was.Entries(), was.Bytes)
	}
	for _, tc := range []struct {
		name string
		now  []entry
		want string
	}{
		{"the same", []entry{dir, file("a", "one", 70), link("b", "a")}, ""},
		{"the other name first", []entry{dir, file("b", "one", 70), link("a", "b")}, ""},
		{"more", []entry{dir, file("a", "one", 70), link("b", "a"), file("c", "", 0)}, ""},
		{"less", []entry{dir, file("a", "one", 70)}, "1 are missing"},
		{"other content", []entry{dir, file("a", "two", 70), link("b", "a")}, "2 differ"},
		{"another owner", []entry{dir, file("a", "one", 0), link("b", "a")}, "2 differ"},
	} {
		err := was.In(contentsOf(t, archiveOf(t, tc.now...)))
		if got := err == nil; got != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// However an archive is packed, the same comes out; wherever it breaks off
// before its end, that is an error.
func TestContentsBreakOff(t *testing.T) {
	plain := archiveOf(t, file("a", strings.Repeat("x", 2000), 1), file("b", "y", 2))
	var zipped, zstded bytes.Buffer
	gz := gzip.NewWriter(&zipped)
	zs, err := zstd.NewWriter(&zstded)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []io.WriteCloser{gz, zs} {
		if _, err := w.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, packed := range [][]byte{plain, zipped.Bytes(), zstded.Bytes()} {
		r, err := Decompress(bytes.NewReader(packed))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("unpacked: %v, %d bytes", err, len(got))
		}
		r.Close()
	}
	// Two blocks of zeros end an archive; the agent writes a byte there instead.
	for cut := 513; cut < len(plain)-1024; cut += 511 {
		if _, err := ReadContents(io.MultiReader(bytes.NewReader(plain[:cut]), strings.NewReader("\xff"))); err == nil {
			t.Errorf("cut at %d: no error", cut)
		}
	}
}

func FuzzContents(f *testing.F) {
	f.Add(archiveOf(f, file("a", "content", 1)))
	f.Add([]byte("\x1f\x8b"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := Decompress(bytes.NewReader(in))
		if err != nil {
			return
		}
		defer r.Close()
		if c, err := ReadContents(io.LimitReader(r, 1<<20)); err == nil {
			if err := c.In(c); err != nil {
				t.Errorf("an archive differs from itself: %v", err)
			}
		}
	})
}
