package erofstest

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	goerofs "github.com/erofs/go-erofs"
	"github.com/google/go-cmp/cmp"
)

// File is what a listing tells of one name.
type File struct {
	Path         string // relative to the root, which is "."
	Mode         fs.FileMode
	UID, GID     uint32
	Time         time.Time
	Size         int64  // of regular files
	Sum          string // of their content: first 4 bytes of its SHA-256, in hex
	Target       string // of links
	Major, Minor uint32 // of devices
	Nlink        uint64
	Ino          uint64
	Xattrs       map[string]string
}

// String is one line, without the inode number.
func (f File) String() string {
	s := fmt.Sprintf("%s %v %d:%d %d.%09d links=%d", f.Path, f.Mode, f.UID, f.GID, f.Time.Unix(), f.Time.Nanosecond(), f.Nlink)
	switch {
	case f.Mode.IsRegular():
		s += fmt.Sprintf(" size=%d sum=%s", f.Size, f.Sum)
	case f.Mode&fs.ModeSymlink != 0:
		s += " -> " + f.Target
	case f.Mode&fs.ModeDevice != 0:
		s += fmt.Sprintf(" dev=%d:%d", f.Major, f.Minor)
	}
	names := make([]string, 0, len(f.Xattrs))
	for name := range f.Xattrs {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		v := f.Xattrs[name]
		if len(v) > 32 {
			s += fmt.Sprintf(" %s=%d bytes %s", name, len(v), Sum([]byte(v)))
		} else {
			s += fmt.Sprintf(" %s=%q", name, v)
		}
	}
	return s
}

// Lines is the listing as text.
func Lines(files []File) []string {
	var lines []string
	for _, f := range files {
		lines = append(lines, f.String())
	}
	return lines
}

// Sum is the digest that listings show.
func Sum(b []byte) string {
	sum := sha256.Sum256(b)
	return fmt.Sprintf("%x", sum[:4])
}

// List walks the image with go-erofs and returns what it holds in path order,
// or the first fault the reader finds. Every name is checked to be one.
func List(image io.ReaderAt) ([]File, error) {
	img, err := goerofs.Open(image)
	if err != nil {
		return nil, err
	}
	var files []File
	err = fs.WalkDir(img, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := d.Name(); path != "." && (name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00")) {
			return fmt.Errorf("%q: name %q leads elsewhere", path, name)
		}
		info, err := img.(interface {
			Lstat(string) (fs.FileInfo, error)
		}).Lstat(path)
		if err != nil {
			return err
		}
		st := info.Sys().(*goerofs.Stat)
		f := File{
			Path: path, Mode: info.Mode(), UID: st.UID, GID: st.GID, Time: info.ModTime(),
			Nlink: uint64(st.Nlink), Ino: uint64(st.Ino), Xattrs: map[string]string{},
			Major: st.Rdev >> 8 & 0xfff, Minor: st.Rdev&0xff | st.Rdev>>12&^0xff,
		}
		for name, value := range st.Xattrs {
			f.Xattrs[strings.TrimSuffix(name, ".")] = value // 0.3.1 reads ACL names with a dot too many
		}
		switch {
		case f.Mode.IsRegular():
			content, err := fs.ReadFile(img, path)
			if err != nil {
				return err
			}
			f.Size, f.Sum = int64(len(content)), Sum(content)
		case f.Mode&fs.ModeSymlink != 0:
			if f.Target, err = img.(interface {
				ReadLink(string) (string, error)
			}).ReadLink(path); err != nil {
				return err
			}
		}
		files = append(files, f)
		return nil
	})
	sort.Slice(files, func(a, b int) bool { return files[a].Path < files[b].Path })
	return files, err
}

// Check reads the image file by every reader there is and fails the test where
// they disagree. It returns the kernel's listing and true, or go-erofs' and
// false: that one lacks the set-id and sticky bits.
func Check(t testing.TB, path string) ([]File, bool) {
	t.Helper()
	files := listFile(t, path)
	fsck(t, path)
	mounted, ok := mountAndList(t, path)
	if !ok {
		return files, false
	}
	comparable := slices.Clone(mounted)
	for n := range comparable {
		comparable[n].Mode &^= special
	}
	if diff := cmp.Diff(Lines(files), Lines(comparable)); diff != "" {
		t.Errorf("go-erofs (-) and the kernel (+) read %s differently:\n%s", path, diff)
	}
	return mounted, true
}

// special are the bits that go-erofs 0.3.1 does not report.
const special = fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
