package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// readCpio is the format read from its description, apart from the writer.
func readCpio(t *testing.T, archive []byte) []entry {
	t.Helper()
	var entries []entry
	for {
		if len(archive) < 110 || string(archive[:6]) != "070701" {
			t.Fatalf("no header in the %d bytes %.20q", len(archive), archive)
		}
		field := func(i int) int {
			n, err := strconv.ParseUint(string(archive[6+8*i:14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
		mode, uid, gid, mtime, size, major, minor, nameLen := field(1), field(2), field(3), field(5), field(6), field(9), field(10), field(11)
		if uid != 0 || gid != 0 || mtime != 0 {
			t.Errorf("owner %d:%d, time %d", uid, gid, mtime)
		}
		name := strings.TrimSuffix(string(archive[110:110+nameLen]), "\x00")
		if len(name) != nameLen-1 {
			t.Fatalf("name %q of length %d", name, nameLen)
		}
		start := (110 + nameLen + 3) / 4 * 4
		end := (start + size + 3) / 4 * 4
		if name == "TRAILER!!!" {
			if len(archive) != end {
				t.Errorf("%d bytes after the trailer", len(archive)-end)
			}
			return entries
		}
		entries = append(entries, entry{name: name, mode: uint32(mode), major: uint32(major), minor: uint32(minor), data: archive[start : start+size : start+size]})
		archive = archive[end:]
	}
}

func TestWriteInitramfs(t *testing.T) {
	for size := range 6 { // every alignment
		agent := bytes.Repeat([]byte("x"), size)
		path := filepath.Join(t.TempDir(), "initramfs")
		if err := writeInitramfs(path, agent); err != nil {
			t.Fatal(err)
		}
		archive, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want := []entry{
			{name: "dev", mode: 0o040755, data: []byte{}},
			{name: "dev/console", mode: 0o020600, major: 5, minor: 1, data: []byte{}},
			{name: "init", mode: 0o100755, data: agent},
			{name: "proc", mode: 0o040555, data: []byte{}},
			{name: "sys", mode: 0o040555, data: []byte{}},
		}
		if diff := cmp.Diff(want, readCpio(t, archive), cmp.AllowUnexported(entry{})); diff != "" {
			t.Errorf("agent of %d bytes (-want +got):\n%s", size, diff)
		}
		if size != 5 {
			continue
		}
		again := filepath.Join(t.TempDir(), "initramfs")
		if err := writeInitramfs(again, agent); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(again); err != nil || !bytes.Equal(b, archive) {
			t.Errorf("two archives of one agent differ (%v)", err)
		}
		t.Run("listed by cpio", func(t *testing.T) {
			cpio, err := exec.LookPath("cpio")
			if err != nil {
				t.Skip(err)
			}
			cmd := exec.Command(cpio, "-it")
			cmd.Stdin = bytes.NewReader(archive)
			out, err := cmd.Output()
			if diff := cmp.Diff("dev\ndev/console\ninit\nproc\nsys\n", string(out)); err != nil || diff != "" {
				t.Errorf("cpio: %v (-want +got):\n%s", err, diff)
			}
		})
	}
}
