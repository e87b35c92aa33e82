package guest

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fake fills dir with a guest whose files hold their own names.
func fake(t *testing.T, dir string, edit func(*Manifest)) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range files() {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(dir+name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m := Manifest{Arch: HostArch(), Kernel: "6.12.0-stack", Ext4Size: 4096}
	if edit != nil {
		edit(&m)
	}
	if err := m.Write(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func env(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

func TestFindOrder(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at := func(path string) string { return filepath.Join(root, path) }
	vars := map[string]string{"HOME": at("home"), "STACK_GUEST": at("asked")}

	// Each guest hides those after it; taking one away uncovers the next.
	fake(t, at("asked"), nil)
	fake(t, at("bin/guest"), nil)
	fake(t, at("lib/stack/guest"), nil)
	fake(t, at("home/.cache/stack/guest/guest-1"), nil)
	if err := os.Symlink("guest-1", at("home/.cache/stack/guest/current")); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"asked", "bin/guest", "lib/stack/guest", "home/.cache/stack/guest/guest-1"} {
		g, err := find(env(vars), at("bin/stack"))
		if err != nil {
			t.Fatalf("looking for %s: %v", want, err)
		}
		if g.Dir != at(want) {
			t.Fatalf("found %s, want %s", g.Dir, at(want))
		}
		if g.Kernel != at(want+"/vmlinux") || g.Initramfs != at(want+"/initramfs") || g.Ext4Template != at(want+"/ext4.img.zst") || len(g.Digest) != 64 {
			t.Errorf("found %+v", g)
		}
		if err := g.Verify(); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(at(want)); err != nil {
			t.Fatal(err)
		}
		delete(vars, "STACK_GUEST")
	}

	_, err = find(env(vars), at("bin/stack"))
	var missing *NotFoundError
	if !errors.As(err, &missing) {
		t.Fatalf("with no guest left: %v", err)
	}
	want := []string{at("bin/guest"), at("lib/stack/guest"), at("home/.cache/stack/guest/current")}
	if diff := cmp.Diff(want, missing.Looked); diff != "" {
		t.Errorf("looked in (-want +got):\n%s", diff)
	}
	if !strings.Contains(err.Error(), "make guest") {
		t.Errorf("no cure in %q", err)
	}
}

func TestFindThroughSymlinkedBinary(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := fake(t, filepath.Join(root, "opt/lib/stack/guest"), nil)
	exe := filepath.Join(root, "opt/bin/stack")
	if err := os.MkdirAll(filepath.Dir(exe), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(root, "stack")
	if err := os.Symlink(exe, link); err != nil {
		t.Fatal(err)
	}
	g, err := find(env(nil), link)
	if err != nil || g.Dir != dir {
		t.Errorf("find = %+v, %v; want the guest in %s", g, err, dir)
	}
}

func TestCacheDir(t *testing.T) {
	for _, test := range []struct {
		vars map[string]string
		want string
	}{
		{map[string]string{"STACK_GUEST_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a/stack/guest"},
		{map[string]string{"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/stack/guest"},
		{map[string]string{"XDG_CACHE_HOME": "b", "HOME": "/c"}, "/c/.cache/stack/guest"},
		{map[string]string{"HOME": "/c"}, "/c/.cache/stack/guest"},
		{nil, ""},
	} {
		got, err := CacheDir(env(test.vars))
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("CacheDir(%v) = %q, %v; want %q", test.vars, got, err, test.want)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	rewrite := func(edit func(*Manifest)) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			m, err := readManifest(filepath.Join(dir, manifestName))
			if err != nil {
				t.Fatal(err)
			}
			edit(&m)
			text, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, manifestName), text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, test := range []struct {
		name  string
		build func(*Manifest)
		spoil func(*testing.T, string)
		want  string
	}{
		{"other architecture", func(m *Manifest) { m.Arch = "riscv" }, nil, "for riscv, this host is " + HostArch()},
		{"newer format", nil, rewrite(func(m *Manifest) { m.Schema = 2 }), "its format is 2"},
		{"digest of other files", nil, rewrite(func(m *Manifest) { m.Digest = strings.Repeat("0", 64) }), "digest does not belong"},
		{"file of another name", nil, rewrite(func(m *Manifest) { m.Files["../../etc/passwd"] = File{} }), "it lists the files"},
		{"no template size", nil, rewrite(func(m *Manifest) { m.Ext4Size = 0 }), "size of the ext4 template"},
		{"not JSON", nil, func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, manifestName), []byte("{"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "reading guest.json"},
		{"endless manifest", nil, func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, manifestName), 1<<40); err != nil {
				t.Fatal(err)
			}
		}, "larger than 65536 bytes"},
		{"truncated kernel", nil, func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, KernelFile), 1); err != nil {
				t.Fatal(err)
			}
		}, "vmlinux is not the file of"},
		{"missing initramfs", nil, func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, InitramfsFile)); err != nil {
				t.Fatal(err)
			}
		}, "no such file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := fake(t, filepath.Join(t.TempDir(), "g"), test.build)
			if test.spoil != nil {
				test.spoil(t, dir)
			}
			_, err := Open(dir)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("Open: %v; want %q in it", err, test.want)
			}
			if !strings.Contains(err.Error(), dir) {
				t.Errorf("%q does not name the directory", err)
			}
			// A broken guest is never passed over for the next place.
			var missing *NotFoundError
			if _, err := find(env(map[string]string{"STACK_GUEST": dir}), ""); err == nil || errors.As(err, &missing) {
				t.Errorf("find with STACK_GUEST: %v", err)
			}
		})
	}
}

func TestFindAskedButAbsent(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	_, err := find(env(map[string]string{"STACK_GUEST": dir}), "")
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "STACK_GUEST") || !strings.Contains(err.Error(), dir) {
		t.Errorf("find: %v", err)
	}
}

func TestVerifyReportsEveryChangedFile(t *testing.T) {
	dir := fake(t, filepath.Join(t.TempDir(), "g"), nil)
	g, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{KernelFile, InitramfsFile} {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, info.Size()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(dir); err != nil {
		t.Errorf("Open reads no content, yet: %v", err)
	}
	err = g.Verify()
	if err == nil || !strings.Contains(err.Error(), KernelFile) || !strings.Contains(err.Error(), InitramfsFile) || strings.Contains(err.Error(), Ext4File) {
		t.Errorf("Verify: %v", err)
	}
}

func FuzzManifest(f *testing.F) {
	m := Manifest{Schema: schema, Arch: "x86_64", Ext4Size: 1, Files: map[string]File{}}
	for _, name := range files() {
		m.Files[name] = File{Size: 1, SHA256: "00"}
	}
	m.Digest = m.digest()
	text, err := json.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"schema":2}`))
	f.Add([]byte(`{"schema":1,"files":{"../x":{"size":-1}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := parseManifest(text)
		if err != nil {
			return
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		n, err := parseManifest(again)
		if err != nil || cmp.Diff(m, n) != "" {
			t.Errorf("%s is read as %+v, written again as %+v, %v", text, m, n, err)
		}
	})
}
