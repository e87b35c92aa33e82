package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	when   = time.Unix(1700000000, 0).UTC()
	sample = []file{
		{"bin/stack", 0o755, []byte("program")},
		{"lib/stack/guest/vmlinux", 0o644, []byte("odd")},
		{zshCompletion, 0o644, []byte("#compdef stack\n")},
	}
)

// dpkg itself is the reader, where there is one.
func TestDebian(t *testing.T) {
	dpkg, err := exec.LookPath("dpkg-deb")
	if err != nil {
		t.Skip("no dpkg-deb to read the package with:", err)
	}
	pkg, err := debian(sample, "0.1.0", when)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := debian(sample, "0.1.0", when); err != nil || !bytes.Equal(pkg, again) {
		t.Errorf("the same files give another package (%v)", err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "x.deb")
	if err := os.WriteFile(path, pkg, 0o644); err != nil {
		t.Fatal(err)
	}
	read := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(dpkg, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("dpkg-deb %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	for field, want := range map[string]string{"Package": "stack", "Version": "0.1.0", "Architecture": "amd64", "Depends": "qemu-system-x86 (>= 1:7.2)"} {
		if got := read("-f", path, field); got != want {
			t.Errorf("%s: %q, want %q", field, got, want)
		}
	}
	root := filepath.Join(dir, "root")
	read("-R", path, root)
	for name, want := range map[string]string{"usr/bin/stack": "program", "usr/lib/stack/guest/vmlinux": "odd", "usr/share/zsh/vendor-completions/_stack": "#compdef stack\n"} {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if info, err := os.Stat(filepath.Join(root, "usr/bin/stack")); err != nil || info.Mode().Perm() != 0o755 || !info.ModTime().Equal(when) {
		t.Errorf("usr/bin/stack: %v, %v", info, err)
	}
	sums := exec.Command("md5sum", "--check", "--strict", "DEBIAN/md5sums")
	sums.Dir = root
	if out, err := sums.CombinedOutput(); err != nil {
		t.Errorf("md5sums: %v\n%s", err, out)
	}
}

// Every version must be newer to dpkg than the one before.
func TestDebianVersion(t *testing.T) {
	rising := []string{
		debianVersion("dev", when),
		debianVersion("1abcdef", when.Add(time.Second)),
		debianVersion("abcdef0-dirty", when.Add(time.Minute)),
		debianVersion("v0.1.0", when),
		debianVersion("v0.1.0-3-g6af86d4", when),
		debianVersion("v0.2.0", when),
	}
	want := []string{"0~20231114221320+dev", "0~20231114221321+1abcdef", "0~20231114221420+abcdef0+dirty", "0.1.0", "0.1.0+3+g6af86d4", "0.2.0"}
	if diff := cmp.Diff(want, rising); diff != "" {
		t.Error(diff)
	}
	dpkg, err := exec.LookPath("dpkg")
	if err != nil {
		t.Skip("no dpkg to compare versions with:", err)
	}
	for i := range len(rising) - 1 {
		if err := exec.Command(dpkg, "--compare-versions", rising[i], "lt", rising[i+1]).Run(); err != nil {
			t.Errorf("%s is not before %s: %v", rising[i], rising[i+1], err)
		}
	}
}

func TestInstall(t *testing.T) {
	prefix := t.TempDir()
	for range 2 {
		if err := install(sample, prefix); err != nil {
			t.Fatal(err)
		}
	}
	list, err := os.ReadFile(filepath.Join(prefix, installedList))
	if err != nil {
		t.Fatal(err)
	}
	if want := "bin/stack\nlib/stack/guest/vmlinux\n" + zshCompletion + "\n" + installedList + "\n"; string(list) != want {
		t.Errorf("the list is %q, want %q", list, want)
	}
	var found []string
	if err := filepath.WalkDir(prefix, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found = append(found, strings.TrimPrefix(path, prefix+"/"))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Fields(string(list)), []string{"bin/stack", "lib/stack/guest/vmlinux", zshCompletion, installedList}); diff != "" {
		t.Error(diff)
	}
	if len(found) != len(sample)+1 {
		t.Errorf("files in the tree: %v", found)
	}
}

func TestSourceDate(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "1700000000": 1700000000} {
		if got, err := sourceDate(func(string) string { return text }); err != nil || got.Unix() != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"-1", "today", "1e9", " 1"} {
		if got, err := sourceDate(func(string) string { return text }); err == nil {
			t.Errorf("%q: %v, want an error", text, got)
		}
	}
}
