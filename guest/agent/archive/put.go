//go:build linux

package archive

import (
	"archive/tar"
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
	u := unpacker{root: root, dir: path.Clean("/" + dir), owner: owner}
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
		if f, err := root.Open(d.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err == nil {
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
	case tar.TypeReg:
		return regular(dir, base, mode, uid, gid, h, content)
	case tar.TypeDir:
		if !oldDir {
			if err := unix.Mkdirat(dir, base, 0o700); err != nil {
				return err
			}
		}
		u.dirs = append(u.dirs, directory{full, h.ModTime})
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

func regular(dir int, base string, mode uint32, uid, gid int, h *tar.Header, content io.Reader) error {
	fd, err := unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	_, err = io.Copy(f, content)
	if err == nil {
		err = unix.Fchown(fd, uid, gid)
	}
	if err == nil {
		err = unix.Fchmod(fd, mode)
	}
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, paxXattr); ok && err == nil && (name == capability || strings.HasPrefix(name, "user.")) {
			if err = unix.Fsetxattr(fd, name, []byte(value), 0); errors.Is(err, unix.ENOTSUP) {
				err = nil
			}
		}
	}
	if err == nil {
		err = unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), times(h.ModTime), 0)
	}
	return errors.Join(err, f.Close())
}

func times(at time.Time) []unix.Timespec {
	ts := unix.NsecToTimespec(at.UnixNano())
	return []unix.Timespec{ts, ts}
}
