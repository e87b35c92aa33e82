package dockercli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// tree is a place to install to, with a program that says its name.
func tree(t *testing.T) (dir string, n Names) {
	t.Helper()
	dir = t.TempDir()
	n = Names{filepath.Join(dir, "usr/bin/stack"), filepath.Join(dir, "usr/bin"), filepath.Join(dir, "home/.docker/cli-plugins")}
	program(t, n.Program, "stack")
	return dir, n
}

func program(t *testing.T, path, says string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho "+says+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func says(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command(path).Output()
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(out))
}

func TestTakeAndGive(t *testing.T) {
	dir, n := tree(t)
	for range 2 { // the second time changes nothing
		if err := n.Take(false); err != nil {
			t.Fatal(err)
		}
		for _, path := range n.paths() {
			if got := says(t, path); got != "stack" {
				t.Errorf("%s says %q", path, got)
			}
		}
	}
	// A tree made for a package is moved afterwards.
	moved := dir + "-moved"
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(moved)
	for _, path := range n.paths() {
		if got := says(t, moved+strings.TrimPrefix(path, dir)); got != "stack" {
			t.Errorf("%s says %q once moved", path, got)
		}
	}
	if err := os.Rename(moved, dir); err != nil {
		t.Fatal(err)
	}
	// The program has gone already; its links go all the same.
	if err := os.Remove(n.Program); err != nil {
		t.Fatal(err)
	}
	if err := n.Give(); err != nil {
		t.Fatal(err)
	}
	for _, path := range n.paths() {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s is left behind (%v)", path, err)
		}
	}
}

func TestTakeLeavesOthersAlone(t *testing.T) {
	_, n := tree(t)
	plugin := n.paths()[1]
	program(t, plugin, "docker")
	if err := n.Take(false); err == nil || !strings.Contains(err.Error(), plugin+" is another program's: with --force it is kept as docker-compose.before-stack") {
		t.Errorf("taking a name: %v", err)
	}
	if got := says(t, plugin); got != "docker" {
		t.Errorf("the plugin says %q", got)
	}
	if _, err := os.Lstat(n.paths()[0]); !os.IsNotExist(err) {
		t.Errorf("one name was taken though the other could not be (%v)", err)
	}

	if err := n.Take(true); err != nil {
		t.Fatal(err)
	}
	if got := says(t, plugin); got != "stack" {
		t.Errorf("the plugin says %q", got)
	}
	// Taking again must not lose what was kept.
	if err := n.Take(true); err != nil {
		t.Fatal(err)
	}
	if err := n.Give(); err != nil {
		t.Fatal(err)
	}
	if got := says(t, plugin); got != "docker" {
		t.Errorf("the plugin says %q after it was given back", got)
	}
	if left, err := filepath.Glob(filepath.Join(n.Plugins, "*before-stack")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	// Not ours: giving it back again changes nothing.
	if err := n.Give(); err != nil {
		t.Fatal(err)
	}
	if got := says(t, plugin); got != "docker" {
		t.Errorf("the plugin says %q", got)
	}
}

// A package upgrade may put its own plugin in the place of our link. The one
// kept earlier must not be overwritten.
func TestTakeKeepsTheFirst(t *testing.T) {
	_, n := tree(t)
	plugin := n.paths()[1]
	program(t, plugin, "docker-1")
	if err := n.Take(true); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(plugin); err != nil {
		t.Fatal(err)
	}
	program(t, plugin, "docker-2")
	if err := n.Take(true); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("taking the name again: %v", err)
	}
	if got := says(t, plugin) + says(t, plugin+keptSuffix); got != "docker-2docker-1" {
		t.Errorf("they say %q", got)
	}
}
