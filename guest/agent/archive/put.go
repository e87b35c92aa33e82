//go:build linux

package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/stackvm/stack/guest/agent/inroot"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// Owner is who unpacked files belong to.
type Owner struct{ UID, GID int }

// Directory checks that dir exists and is a directory, links followed, and tells
// the device it is on.
func Directory(root *inroot.Root, dir string) (dev uint64, err error) {
	f, err := root.Open(path.Clean("/"+dir), unix.O_PATH, 0)
	if err != nil {
		return 0, missing(dir, err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return 0, &wire.Error{Code: wire.CodeInvalid, Message: fmt.Sprintf("extraction point %s is not a directory", dir)}
	}
	return st.Dev, nil
}

// Put unpacks a tar into the directory dir. Files keep the owners of the archive,
// or get the one given. A directory takes no file's place, nor a file a
// directory's; other things that are there are replaced.
func Put(root *inroot.Root, dir string, owner *Owner, r io.Reader) error {
	if _, err := Directory(root, dir); err != nil {
		return err
	}
	return (&unpacker{root: root, dir: path.Clean("/" + dir), owner: owner}).unpack(r)
}

// Fill unpacks what Tree wrote, or another tar, into root: what it says of the
// root itself counts, every extended attribute is kept, and blocks of zeros
// become holes.
func Fill(root *inroot.Root, r io.Reader) error {
	return (&unpacker{root: root, dir: "/", whole: true}).unpack(r)
}

func (u *unpacker) unpack(r io.Reader) error {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return &wire.Error{Code: wire.CodeInvalid, Message: fmt.Sprintf("archive: %v", err)}
		}
		if err := u.entry(h, t); err != nil {
			return fmt.Errorf("unpacking %q: %w", h.Name, err)
		}
	}
	// Times last: making a directory's entries changed its own.
	for _, d := range u.dirs {
		if f, err := u.root.Open(d.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err == nil {
			_ = unix.UtimesNanoAt(unix.AT_FDCWD, inroot.Path(f), times(d.at), 0)
			f.Close()
		}
	}
	return nil
}

type unpacker struct {
	root  *inroot.Root
	dir   string
	owner *Owner
	whole bool // as Fill does it
	dirs  []directory
}

type directory struct {
	path string
	at   time.Time
}

// within is an archive's name as a path of the container: below the directory,
// whatever dots it has.
func (u *unpacker) within(name string) string { return path.Join(u.dir, path.Clean("/"+name)) }

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	full := u.within(h.Name)
	if full == u.dir { // the directory itself, which is there
		if u.whole && h.Typeflag == tar.TypeDir {
			return u.top(h)
		}
		return nil
	}
	parent, err := u.root.Dir(path.Dir(full), 0o755)
	if err != nil {
		return err
	}
	defer parent.Close()
	dir, base := int(parent.Fd()), path.Base(full)
	var old unix.Stat_t
	exists := unix.Fstatat(dir, base, &old, unix.AT_SYMLINK_NOFOLLOW) == nil
	oldDir := exists && old.Mode&unix.S_IFMT == unix.S_IFDIR
	newDir := h.Typeflag == tar.TypeDir
	switch {
	case exists && oldDir && !newDir:
		return &wire.Error{Code: wire.CodeInvalid, Message: fmt.Sprintf("cannot overwrite directory %q with non-directory", full)}
	case exists && !oldDir && newDir:
		return &wire.Error{Code: wire.CodeInvalid, Message: fmt.Sprintf("cannot overwrite non-directory %q with directory", full)}
	case exists && !oldDir:
		if err := unix.Unlinkat(dir, base, 0); err != nil && (err != unix.EBUSY || h.Typeflag != tar.TypeReg) {
			return err // EBUSY: a file is mounted there, and is written to instead
		}
	}
	uid, gid := h.Uid, h.Gid
	if u.owner != nil {
		uid, gid = u.owner.UID, u.owner.GID
	}
	mode := uint32(h.Mode & 0o7777)
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		return u.regular(dir, base, mode, uid, gid, h, content)
	case tar.TypeDir:
		if !oldDir {
			if err := unix.Mkdirat(dir, base, 0o700); err != nil {
				return err
			}
		}
		u.dirs = append(u.dirs, directory{full, h.ModTime})
		if u.whole {
			fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			err = u.attributes(fd, h)
			unix.Close(fd)
			if err != nil {
				return err
			}
		}
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, dir, base); err != nil {
			return err
		}
	case tar.TypeLink:
		target := u.within(h.Linkname)
		from, err := u.root.Open(path.Dir(target), unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer from.Close()
		return unix.Linkat(int(from.Fd()), path.Base(target), dir, base, 0) // its owner and mode are the other's
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		kind := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
		dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
		if err := unix.Mknodat(dir, base, kind|0o600, int(dev)); err != nil {
			return err
		}
	default:
		return &wire.Error{Code: wire.CodeInvalid, Message: fmt.Sprintf("entry of type %q: not supported", h.Typeflag)}
	}
	if err := unix.Fchownat(dir, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeSymlink {
		// By a descriptor: the container may have put a link there since.
		fd, err := unix.Openat(dir, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT == unix.S_IFLNK {
			return errors.Join(err, unix.ELOOP)
		}
		if err := unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(dir, base, times(h.ModTime), unix.AT_SYMLINK_NOFOLLOW)
}

// top makes the directory that is unpacked in what the archive says of it.
func (u *unpacker) top(h *tar.Header) error {
	f, err := u.root.Open(u.dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fchown(int(f.Fd()), h.Uid, h.Gid); err != nil {
		return err
	}
	if err := unix.Fchmod(int(f.Fd()), uint32(h.Mode&0o7777)); err != nil {
		return err
	}
	u.dirs = append(u.dirs, directory{u.dir, h.ModTime})
	return u.attributes(int(f.Fd()), h)
}

// attributes sets the extended attributes that an archive may give: those docker
// copies, or all but an overlay's own.
func (u *unpacker) attributes(fd int, h *tar.Header) error {
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		switch {
		case !ok || strings.HasPrefix(name, "trusted.overlay."):
			continue
		case !u.whole && name != capability && !strings.HasPrefix(name, "user."):
			continue
		}
		if err := unix.Fsetxattr(fd, name, []byte(value), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
	}
	return nil
}

func (u *unpacker) regular(dir int, base string, mode uint32, uid, gid int, h *tar.Header, content io.Reader) error {
	fd, err := unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	if u.whole {
		err = copyHoles(f, content)
	} else {
		_, err = io.Copy(f, content)
	}
	if err == nil {
		err = unix.Fchown(fd, uid, gid)
	}
	if err == nil {
		err = unix.Fchmod(fd, mode)
	}
	if err == nil {
		err = u.attributes(fd, h)
	}
	if err == nil {
		err = unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), times(h.ModTime), 0)
	}
	return errors.Join(err, f.Close())
}

// copyHoles copies content to an empty file and leaves holes for its zeros.
func copyHoles(f *os.File, content io.Reader) error {
	buf := make([]byte, len(zeros)*16)
	size := int64(0)
	for {
		n, err := 0, error(nil)
		for n < len(buf) && err == nil { // not io.ReadFull, which hides where an archive breaks off
			var read int
			read, err = content.Read(buf[n:])
			n += read
		}
		for at := 0; at < n; at += len(zeros) {
			block := buf[at:min(at+len(zeros), n)]
			if bytes.Equal(block, zeros[:len(block)]) {
				continue
			}
			if _, err := f.WriteAt(block, size+int64(at)); err != nil {
				return err
			}
		}
		size += int64(n)
		switch {
		case errors.Is(err, io.EOF):
			return f.Truncate(size)
		case err != nil:
			return err
		}
	}
}

func times(at time.Time) []unix.Timespec {
	ts := unix.NsecToTimespec(at.UnixNano())
	return []unix.Timespec{ts, ts}
}
