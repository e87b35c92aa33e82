package erofstest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mountAndList returns what the host's kernel reads; ok is false when it cannot
// be asked.
func mountAndList(t testing.TB, path string) (files []File, ok bool) {
	t.Helper()
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil || !strings.Contains(string(known), "\terofs\n") {
		t.Log("not mounted: this kernel has no EROFS loaded")
		return nil, false
	}
	dir, err := os.MkdirTemp("", "erofs-mount-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(dir)
	// Since Linux 6.12 EROFS mounts a plain file; an older one would need a
	// loop device.
	if err := unix.Mount(path, dir, "erofs", unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID, ""); err != nil {
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTBLK) || errors.Is(err, unix.ENODEV) {
			t.Logf("not mounted: %v", err)
			return nil, false
		}
		t.Errorf("the kernel refuses %s: %v", path, err)
		return nil, false
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	files, err = Walk(dir)
	if err != nil {
		t.Errorf("reading %s through the kernel: %v", path, err)
	}
	return files, err == nil
}

// Walk lists a mounted directory through the kernel, in path order.
func Walk(dir string) ([]File, error) {
	var files []File
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		f := File{
			Path: rel, Mode: info.Mode(), UID: st.Uid, GID: st.Gid, Time: info.ModTime(),
			Nlink: uint64(st.Nlink), Ino: st.Ino, Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev),
			Xattrs: map[string]string{},
		}
		switch {
		case f.Mode.IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			f.Size, f.Sum = int64(len(content)), Sum(content)
		case f.Mode&fs.ModeSymlink != 0:
			if f.Target, err = os.Readlink(path); err != nil {
				return err
			}
		}
		list := make([]byte, 64<<10)
		n, err := unix.Llistxattr(path, list)
		if err != nil {
			return err
		}
		for _, name := range strings.FieldsFunc(string(list[:n]), func(r rune) bool { return r == 0 }) {
			value := make([]byte, 64<<10)
			n, err := unix.Lgetxattr(path, name, value)
			if err != nil {
				return err
			}
			f.Xattrs[name] = string(value[:n])
		}
		files = append(files, f)
		return nil
	})
	sort.Slice(files, func(a, b int) bool { return files[a].Path < files[b].Path })
	return files, err
}
