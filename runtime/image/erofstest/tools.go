package erofstest

import (
	"os"
	"os/exec"
	"testing"
)

func listFile(t testing.TB, path string) []File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files, err := List(f)
	if err != nil {
		t.Fatalf("go-erofs: %v", err)
	}
	return files
}

// fsck runs fsck.erofs with extraction of every file to nowhere.
func fsck(t testing.TB, path string) {
	t.Helper()
	tool, err := exec.LookPath("fsck.erofs")
	if err != nil {
		t.Logf("not checked by fsck.erofs: %v", err)
		return
	}
	out, err := exec.Command(tool, "--extract", path).CombinedOutput()
	if err != nil {
		t.Errorf("fsck.erofs %s: %v\n%s", path, err, out)
	}
}
