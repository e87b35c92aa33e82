//go:build linux

package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/stackvm/stack/guest/agent/inroot"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// Get finds what is at name, tells ready, and writes it to w as a tar whose
// entries begin with the name's last component. After an error in the middle the
// tar ends so that no reader takes it for whole.
func Get(root *inroot.Root, name string, follow bool, ready func(*wire.ArchiveStat) error, w io.Writer) error {
	o, err := find(root, name, follow)
	if err != nil {
		return err
	}
	defer o.dir.Close()
	stat, err := o.describe()
	if err != nil {
		return err
	}
	if err := ready(stat); err != nil {
		return err
	}
	t := newWriter(w)
	return t.finish(w, t.object(o))
}

// Whole is Get of all of the root's own files. Of what is mounted below the root
// only the place is there, empty; the entries' names begin at the root.
func Whole(root *inroot.Root, ready func(*wire.ArchiveStat) error, w io.Writer) error {
	o, err := find(root, "/", false)
	if err != nil {
		return err
	}
	defer o.dir.Close()
	stat, err := o.describe()
	if err != nil {
		return err
	}
	if err := ready(stat); err != nil {
		return err
	}
	t := newWriter(w)
	t.own = true
	return t.finish(w, t.below(o.dir, ""))
}

type writer struct {
	*tar.Writer
	links map[[2]uint64]string // name of the first entry of an inode with several
	whole bool                 // as Tree does it
	own   bool                 // leave out what is mounted below
}

func newWriter(w io.Writer) *writer {
	return &writer{Writer: tar.NewWriter(w), links: make(map[[2]uint64]string)}
}

// finish ends the tar, after an error so that no reader takes it for whole.
func (t *writer) finish(w io.Writer, err error) error {
	if err == nil {
		err = t.Close()
	}
	if err != nil {
		// No header, and no end; behind the padding, which readers do not insist on.
		_ = t.Flush()
		_, _ = w.Write([]byte{0xff})
	}
	return err
}

// Tree writes all that is below root to w as a tar whose entries begin with
// "./", the root's own first. Unlike Get it keeps every extended attribute and
// times to the nanosecond. After an error in the middle the tar ends so that no
// reader takes it for whole.
func Tree(root *inroot.Root, w io.Writer) error {
	f, err := root.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	t := &writer{Writer: tar.NewWriter(w), links: make(map[[2]uint64]string), whole: true}
	if err = t.entry(int(f.Fd()), ".", "."); err == nil {
		err = t.Close()
	}
	if err != nil {
		// No header, and no end; behind the padding, which readers do not insist on.
		_ = t.Flush()
		_, _ = w.Write([]byte{0xff})
	}
	return err
}

// below writes all that is in a directory, whose entries' names begin with
// prefix.
func (t *writer) below(f *os.File, prefix string) error {
	names, err := f.Readdirnames(-1)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%s: %w", prefix, err)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := t.entry(int(f.Fd()), name, prefix+name); err != nil {
			return err
		}
	}
	return nil
}

// mounted reports whether something is mounted at f.
func mounted(f *os.File) (bool, error) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, 0, &st); err != nil {
		return false, err
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

func (t *writer) object(o *object) error {
	if o.base != "" {
		return t.entry(int(o.dir.Fd()), o.base, o.name)
	}
	// A link that was followed: the descriptor is what it leads to.
	fd, err := unix.Open(inroot.Path(o.dir), openFlags(o.st.Mode), 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), o.name)
	defer f.Close()
	return t.opened(f, o.name, &o.st)
}

func openFlags(mode uint32) int {
	flags := unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	if mode&unix.S_IFMT == unix.S_IFDIR {
		flags |= unix.O_DIRECTORY
	} else if mode&unix.S_IFMT != unix.S_IFREG {
		flags = unix.O_PATH | unix.O_CLOEXEC // a device or a pipe is not opened
	}
	return flags
}

// entry writes name in dir, and all below it, as the entry as.
func (t *writer) entry(dir int, name, as string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if err == unix.ENOENT {
			return nil // removed meanwhile
		}
		return fmt.Errorf("%s: %w", as, err)
	}
	fd, err := unix.Openat(dir, name, openFlags(st.Mode)|unix.O_NOFOLLOW, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", as, err)
	}
	f := os.NewFile(uintptr(fd), as)
	defer f.Close()
	if err := unix.Fstat(fd, &st); err != nil { // what was opened, not what was there
		return err
	}
	return t.opened(f, as, &st)
}

func (t *writer) opened(f *os.File, as string, st *unix.Stat_t) error {
	h := &tar.Header{
		Name: as, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()),
	}
	place := false // of a mount that is left out
	if t.own {
		var err error
		if place, err = mounted(f); err != nil {
			return fmt.Errorf("%s: %w", as, err)
		}
		if place && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			h.Typeflag, h.Mode = tar.TypeReg, 0o644
			return t.WriteHeader(h)
		}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, as+"/"
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	case unix.S_IFLNK:
		target, err := readlink(int(f.Fd()), "")
		if err != nil {
			return err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	default:
		return nil // a socket means nothing elsewhere
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
		inode := [2]uint64{st.Dev, st.Ino}
		if first, ok := t.links[inode]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return t.WriteHeader(h)
		}
		t.links[inode] = as
	}
	switch {
	case t.whole:
		h.Format = tar.FormatPAX
		if h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeDir { // the rest is not open
			var err error
			if h.PAXRecords, err = attributes(int(f.Fd())); err != nil {
				return fmt.Errorf("%s: %w", as, err)
			}
		}
	case h.Typeflag == tar.TypeReg:
		buf := make([]byte, 64)
		if n, err := unix.Fgetxattr(int(f.Fd()), capability, buf); err == nil {
			h.PAXRecords = map[string]string{paxXattr + capability: string(buf[:n])}
		}
	}
	if err := t.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", as, err)
	}
	switch h.Typeflag {
	case tar.TypeReg:
		n, err := io.Copy(t, io.LimitReader(f, st.Size))
		for ; err == nil && n < st.Size; n += int64(len(zeros)) { // it shrank meanwhile
			_, err = t.Write(zeros[:min(int64(len(zeros)), st.Size-n)])
		}
		if err != nil {
			return fmt.Errorf("%s: %w", as, err)
		}
	case tar.TypeDir:
		if !place {
			return t.below(f, as+"/")
		}
	}
	return nil
}

// attributes are a file's extended attributes as the records of a tar.
func attributes(fd int) (map[string]string, error) {
	names := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Flistxattr(fd, names)
	if err == unix.ENOTSUP || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	records := make(map[string]string)
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for name := range strings.SplitSeq(strings.TrimRight(string(names[:n]), "\x00"), "\x00") {
		n, err := unix.Fgetxattr(fd, name, value)
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", name, err)
		}
		if !strings.ContainsRune(name, '=') { // which a record's name cannot hold
			records[paxXattr+name] = string(value[:n])
		}
	}
	return records, nil
}

// Of extended attributes docker copies file capabilities.
const (
	capability = "security.capability"
	paxXattr   = "SCHILY.xattr."
)

var zeros = make([]byte, 4096)
