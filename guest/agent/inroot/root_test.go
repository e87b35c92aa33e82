//go:build linux

package inroot

import (
	"os"
	"path/filepath"
	"testing"
)

func open(t *testing.T) (*Root, string) {
	t.Helper()
	base := t.TempDir()
	dir := filepath.Join(base, "root")
	if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(base, "outside"), []byte("outside"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, dir
}

// A file's own mode has no x: the directories made on the way to it must have.
func TestFileMakesDirectoriesThatCanBePassed(t *testing.T) {
	r, dir := open(t)
	f, err := r.File("/run/secrets/deep/password", 0o444)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	for _, name := range []string{"run", "run/secrets", "run/secrets/deep"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v; want mode 0755", name, info, err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "run/secrets/deep/password")); err != nil || info.Mode().Perm() != 0o444 {
		t.Errorf("the file: %v, %v", info, err)
	}
}

func TestLinksStayInside(t *testing.T) {
	r, dir := open(t)
	for name, target := range map[string]string{"abs": "/outside", "up": "../outside", "far": "../../../../../../../../etc", "loop": "loop", "dangling": "/no/such/place"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"/abs", "/up", "/../outside", "/etc/../../outside", "/loop"} {
		if text, err := r.ReadFile(path, 100); err == nil {
			t.Errorf("ReadFile(%q) = %q", path, text)
		}
	}
	for _, path := range []string{"/far/made", "/dangling/made", "/../../made"} {
		f, err := r.File(path, 0o600)
		if err != nil {
			t.Errorf("File(%q): %v", path, err)
			continue
		}
		f.Close()
	}
	for _, inside := range []string{"etc/made", "no/such/place/made", "made"} {
		if _, err := os.Stat(filepath.Join(dir, inside)); err != nil {
			t.Errorf("not made inside the root: %v", err)
		}
	}
	if _, err := r.File("/loop/x", 0o600); err == nil {
		t.Error("a link to itself was followed for ever")
	}
	if entries, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(entries) != 2 {
		t.Errorf("outside of the root: %v, %v", entries, err)
	}
}
