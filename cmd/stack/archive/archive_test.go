package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/api"
)

// replica is one that has the paths of stats, sends stream, and keeps what it
// is sent.
type replica struct {
	stats  map[string]wire.ArchiveStat
	stream []byte
	broken error // of the stats, if set

	put   map[string]string // entries by their full path
	heads []*tar.Header
}

func (r *replica) Stat(_ context.Context, a api.Archive) (wire.ArchiveStat, error) {
	if r.broken != nil {
		return wire.ArchiveStat{}, r.broken
	}
	st, ok := r.stats[a.Path]
	if !ok {
		return st, &api.Error{Code: api.CodeNotFound, Message: "no such path: " + a.Path}
	}
	return st, nil
}

func (r *replica) Get(ctx context.Context, a api.Archive) (wire.ArchiveStat, io.ReadCloser, error) {
	st, err := r.Stat(ctx, a)
	return st, io.NopCloser(bytes.NewReader(r.stream)), err
}

func (r *replica) Put(_ context.Context, a api.Archive, stream io.Reader) error {
	r.put = map[string]string{}
	tr := tar.NewReader(stream)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			return err
		}
		r.heads = append(r.heads, h)
		r.put[path.Join(a.Path, h.Name)] = string(content)
	}
}

func directory(name string) wire.ArchiveStat {
	return wire.ArchiveStat{Name: name, Mode: uint32(fs.ModeDir | 0o755)}
}

func plain(name string) wire.ArchiveStat { return wire.ArchiveStat{Name: name, Mode: 0o644} }

func tarOf(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content = "of " + path.Base(h.Name)
		}
		h.Size = int64(len(content))
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// tree lists the files below dir with their content, directories with a slash.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		switch {
		case d.IsDir():
			got[rel+"/"] = ""
		case d.Type() == fs.ModeSymlink:
			to, err := os.Readlink(p)
			got[rel] = "-> " + to
			return err
		default:
			text, err := os.ReadFile(p)
			got[rel] = string(text)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestFromReplica(t *testing.T) {
	conf := tarOf(t, tar.Header{Name: "conf/", Typeflag: tar.TypeDir}, tar.Header{Name: "conf/a", Typeflag: tar.TypeReg}, tar.Header{Name: "conf/l", Typeflag: tar.TypeSymlink, Linkname: "a"})
	one := tarOf(t, tar.Header{Name: "one", Typeflag: tar.TypeReg})
	stats := map[string]wire.ArchiveStat{"/etc/conf": directory("conf"), "/etc/conf/.": directory("conf"), "/one": plain("one")}
	for _, tc := range []struct {
		name, source, target string
		stream               []byte
		want                 map[string]string // nil: an error
	}{
		{"a directory into one", "/etc/conf", "there", conf, map[string]string{"file": "old", "there/": "", "there/conf/": "", "there/conf/a": "of a", "there/conf/l": "-> a"}},
		{"a directory as a new one", "/etc/conf", "new", conf, map[string]string{"file": "old", "there/": "", "new/": "", "new/a": "of a", "new/l": "-> a"}},
		{"a directory's content", "/etc/conf/.", "there", conf, map[string]string{"file": "old", "there/": "", "there/a": "of a", "there/l": "-> a"}},
		{"a directory onto a file", "/etc/conf", "file", conf, nil},
		{"a file into a directory", "/one", "there", one, map[string]string{"file": "old", "there/": "", "there/one": "of one"}},
		{"a file as another", "/one", "file", one, map[string]string{"file": "of one", "there/": ""}},
		{"a file as a new one", "/one", "there/new", one, map[string]string{"file": "old", "there/": "", "there/new": "of one"}},
		{"a file into nowhere", "/one", "nowhere/", one, nil},
		{"what is not there", "/none", "there", one, nil},
	} {
		dir := t.TempDir()
		if err := errors.Join(os.Mkdir(filepath.Join(dir, "there"), 0o755), os.WriteFile(filepath.Join(dir, "file"), []byte("old"), 0o644)); err != nil {
			t.Fatal(err)
		}
		r := &replica{stats: stats, stream: tc.stream}
		err := FromReplica(t.Context(), r, api.Archive{}, tc.source, dir+"/"+tc.target, nil)
		if (err == nil) != (tc.want != nil) {
			t.Errorf("%s: %v", tc.name, err)
		}
		want := tc.want
		if want == nil { // nothing changed
			want = map[string]string{"file": "old", "there/": ""}
		}
		if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
	var out bytes.Buffer
	if err := FromReplica(t.Context(), &replica{stats: stats, stream: one}, api.Archive{}, "/one", "-", &out); err != nil || !bytes.Equal(out.Bytes(), one) {
		t.Errorf("to standard output: %v, %d bytes of %d", err, out.Len(), len(one))
	}
}

// TestHostileReplica: nothing that a replica sends touches what is outside of
// the destination, nor follows a link that it made.
func TestHostileReplica(t *testing.T) {
	reg, link, dir := byte(tar.TypeReg), byte(tar.TypeSymlink), byte(tar.TypeDir)
	for _, tc := range []struct {
		name    string
		entries []tar.Header
	}{
		{"dots", []tar.Header{{Name: "d/../../victim", Typeflag: reg}}},
		{"dots first", []tar.Header{{Name: "../victim", Typeflag: reg}}},
		{"absolute", []tar.Header{{Name: "/etc/victim", Typeflag: reg}}},
		{"another name", []tar.Header{{Name: "e/x", Typeflag: reg}}},
		{"a name that begins alike", []tar.Header{{Name: "dd/x", Typeflag: reg}}},
		{"through a link", []tar.Header{{Name: "d", Typeflag: dir}, {Name: "d/l", Typeflag: link, Linkname: "../.."}, {Name: "d/l/victim", Typeflag: reg}}},
		{"through an absolute link", []tar.Header{{Name: "d/l", Typeflag: link, Linkname: "/"}, {Name: "d/l/victim", Typeflag: dir}}},
		{"a directory at a link", []tar.Header{{Name: "d", Typeflag: dir}, {Name: "d/l", Typeflag: link, Linkname: "../../outside"}, {Name: "d/l", Typeflag: dir, Mode: 0o777}}},
		{"a hard link", []tar.Header{{Name: "d", Typeflag: dir}, {Name: "d/h", Typeflag: tar.TypeLink, Linkname: "../../victim"}}},
		{"a device", []tar.Header{{Name: "d", Typeflag: dir}, {Name: "d/n", Typeflag: tar.TypeChar}}},
		{"a pipe", []tar.Header{{Name: "d", Typeflag: dir}, {Name: "d/p", Typeflag: tar.TypeFifo}}},
	} {
		base := t.TempDir()
		target, outside := filepath.Join(base, "target"), filepath.Join(base, "outside")
		if err := errors.Join(os.Mkdir(target, 0o755), os.Mkdir(outside, 0o700), os.WriteFile(filepath.Join(base, "victim"), []byte("safe"), 0o600)); err != nil {
			t.Fatal(err)
		}
		r := &replica{stats: map[string]wire.ArchiveStat{"/d": directory("d")}, stream: tarOf(t, tc.entries...)}
		if err := FromReplica(t.Context(), r, api.Archive{}, "/d", target, nil); err == nil {
			t.Errorf("%s: no error", tc.name)
		}
		checkOutside(t, base, tc.name)
	}
	// A link is replaced by the file of its name, not written through.
	base := t.TempDir()
	target := filepath.Join(base, "target")
	if err := errors.Join(os.Mkdir(target, 0o755), os.Mkdir(filepath.Join(base, "outside"), 0o700), os.WriteFile(filepath.Join(base, "victim"), []byte("safe"), 0o600)); err != nil {
		t.Fatal(err)
	}
	stream := tarOf(t, tar.Header{Name: "d", Typeflag: dir}, tar.Header{Name: "d/l", Typeflag: link, Linkname: "../../victim"}, tar.Header{Name: "d/l", Typeflag: reg, Mode: 0o6777})
	if err := FromReplica(t.Context(), &replica{stats: map[string]wire.ArchiveStat{"/d": directory("d")}, stream: stream}, api.Archive{}, "/d", target, nil); err != nil {
		t.Error(err)
	}
	checkOutside(t, base, "replacing a link")
	if info, err := os.Lstat(filepath.Join(target, "d", "l")); err != nil || info.Mode() != 0o777 {
		t.Errorf("the file is %v, %v: no set-id bit may come out of a machine", info.Mode(), err)
	}
}

// checkOutside sees that beside target there is what there was.
func checkOutside(t testing.TB, base, name string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(base, "victim"))
	if err != nil || string(text) != "safe" {
		t.Errorf("%s: the victim is %q, %v", name, text, err)
	}
	entries, err := os.ReadDir(base)
	if err != nil || len(entries) != 3 {
		t.Errorf("%s: beside the target are %v, %v", name, entries, err)
	}
	info, err := os.Stat(filepath.Join(base, "outside"))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%s: the directory outside changed: %v, %v", name, info, err)
	}
}

func FuzzFromReplica(f *testing.F) {
	f.Add(tarOf(f, tar.Header{Name: "d/", Typeflag: tar.TypeDir}, tar.Header{Name: "d/a", Typeflag: tar.TypeReg}))
	f.Add(tarOf(f, tar.Header{Name: "d/l", Typeflag: tar.TypeSymlink, Linkname: "../.."}, tar.Header{Name: "d/l/victim", Typeflag: tar.TypeReg}))
	f.Add([]byte("no tar"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		base := t.TempDir()
		target := filepath.Join(base, "target")
		if err := errors.Join(os.Mkdir(target, 0o755), os.Mkdir(filepath.Join(base, "outside"), 0o700), os.WriteFile(filepath.Join(base, "victim"), []byte("safe"), 0o600)); err != nil {
			t.Fatal(err)
		}
		_ = FromReplica(t.Context(), &replica{stats: map[string]wire.ArchiveStat{"/d": directory("d")}, stream: stream}, api.Archive{}, "/d", target, nil)
		checkOutside(t, base, "fuzzed")
		// What it left may be closed to its owner; the cleanup needs a way in.
		_ = filepath.WalkDir(target, func(p string, d fs.DirEntry, _ error) error {
			if d != nil && d.IsDir() {
				return os.Chmod(p, 0o700)
			}
			return nil
		})
	})
}

func TestToReplica(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "conf", "sub"), 0o755),
		os.WriteFile(filepath.Join(dir, "conf", "a"), []byte("A"), 0o640),
		os.Symlink("a", filepath.Join(dir, "conf", "l")),
		os.Symlink("conf/a", filepath.Join(dir, "link")),
	); err != nil {
		t.Fatal(err)
	}
	stats := map[string]wire.ArchiveStat{"/srv": directory("srv"), "/file": plain("file")}
	for _, tc := range []struct {
		name, source, target string
		follow               bool
		want                 []string // nil: an error
	}{
		{"a directory into one", "conf", "/srv", false, []string{"/srv/conf", "/srv/conf/a", "/srv/conf/l", "/srv/conf/sub"}},
		{"a directory as a new one", "conf", "/new", false, []string{"/new", "/new/a", "/new/l", "/new/sub"}},
		{"a directory's content", "conf/.", "/srv", false, []string{"/srv/a", "/srv/l", "/srv/sub"}},
		{"a directory onto a file", "conf", "/file", false, nil},
		{"a file into a directory", "conf/a", "/srv", false, []string{"/srv/a"}},
		{"a file as another", "conf/a", "/file", false, []string{"/file"}},
		{"a file as a new one", "conf/a", "/srv/b", false, []string{"/srv/b"}},
		{"a file into nowhere", "conf/a", "/nowhere/", false, nil},
		{"a link", "link", "/srv", false, []string{"/srv/link"}},
		{"what a link leads to", "link", "/srv", true, []string{"/srv/link"}},
		{"what is not there", "none", "/srv", false, nil},
	} {
		r := &replica{stats: stats}
		err := ToReplica(t.Context(), r, api.Archive{FollowLink: tc.follow}, dir+"/"+tc.source, tc.target, nil)
		if (err == nil) != (tc.want != nil) {
			t.Errorf("%s: %v", tc.name, err)
		}
		if diff := cmp.Diff(tc.want, slices.Sorted(maps.Keys(r.put))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
		for _, h := range r.heads {
			if h.Uid != 0 || h.Gid != 0 || h.Uname != "" {
				t.Errorf("%s: %s goes with owner %d %q", tc.name, h.Name, h.Uid, h.Uname)
			}
			if tc.name == "a link" && (h.Typeflag != tar.TypeSymlink || h.Linkname != "conf/a") {
				t.Errorf("the link went as %q to %q", h.Typeflag, h.Linkname)
			}
			if tc.follow && (h.Typeflag != tar.TypeReg || r.put["/srv/link"] != "A") {
				t.Errorf("the link was not followed: %q, %q", h.Typeflag, r.put["/srv/link"])
			}
		}
	}

	stream := tarOf(t, tar.Header{Name: "x", Typeflag: tar.TypeReg})
	r := &replica{stats: stats}
	if err := ToReplica(t.Context(), r, api.Archive{}, "-", "/srv", bytes.NewReader(stream)); err != nil || r.put["/srv/x"] != "of x" {
		t.Errorf("from standard input: %v, %v", err, r.put)
	}
	broken := &replica{broken: errors.New("the machine is gone")}
	if err := ToReplica(t.Context(), broken, api.Archive{}, dir+"/conf", "/srv", nil); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("a broken replica: %v", err)
	}
}
