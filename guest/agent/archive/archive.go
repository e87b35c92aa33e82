//go:build linux

package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/stackvm/stack/guest/agent/inroot"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// object is a path in a container that was found.
type object struct {
	name string   // last component of what was asked for, "." and "/" included
	dir  *os.File // of the object, or the object itself
	base string   // in dir; "." when dir is the object
	st   unix.Stat_t
}

// find opens the directory of what is at name. A last link is followed only when
// asked, or when the name ends with a slash, which asks for a directory.
func find(root *inroot.Root, name string, follow bool) (*object, error) {
	clean := path.Clean("/" + name)
	o := &object{name: path.Base(clean)}
	slash := strings.HasSuffix(name, "/") || strings.HasSuffix(name, "/.")
	if strings.HasSuffix(name, "/.") {
		o.name = "."
	}
	var err error
	if slash || clean == "/" {
		o.base = "."
		o.dir, err = root.Open(clean, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	} else {
		o.base = path.Base(clean)
		o.dir, err = root.Open(path.Dir(clean), unix.O_PATH|unix.O_DIRECTORY, 0)
	}
	if err != nil {
		return nil, missing(name, err)
	}
	if err := unix.Fstatat(int(o.dir.Fd()), o.base, &o.st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		o.dir.Close()
		return nil, missing(name, err)
	}
	if follow && o.st.Mode&unix.S_IFMT == unix.S_IFLNK {
		// What the link leads to, under the link's own name.
		f, err := root.Open(clean, unix.O_PATH, 0)
		if err != nil {
			o.dir.Close()
			return nil, missing(name, err)
		}
		o.dir.Close()
		o.dir, o.base = f, ""
		if err := unix.Fstat(int(f.Fd()), &o.st); err != nil {
			f.Close()
			return nil, missing(name, err)
		}
	}
	return o, nil
}

func missing(name string, err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return &wire.Error{Code: wire.CodeNotFound, Message: fmt.Sprintf("Could not find the file %s", name)}
	}
	return fmt.Errorf("%s: %w", name, err)
}

// Stat describes what is at name.
func Stat(root *inroot.Root, name string, follow bool) (*wire.ArchiveStat, error) {
	o, err := find(root, name, follow)
	if err != nil {
		return nil, err
	}
	defer o.dir.Close()
	return o.describe()
}

func (o *object) describe() (*wire.ArchiveStat, error) {
	s := &wire.ArchiveStat{
		Name: o.name, Size: o.st.Size, Mode: uint32(fileMode(o.st.Mode)),
		ModTime: time.Unix(o.st.Mtim.Unix()),
	}
	if o.st.Mode&unix.S_IFMT == unix.S_IFLNK {
		target, err := readlink(int(o.dir.Fd()), o.base)
		if err != nil {
			return nil, err
		}
		s.LinkTarget = target
	}
	return s, nil
}

// fileMode converts a mode of stat(2).
func fileMode(m uint32) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	for bit, as := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if m&bit != 0 {
			mode |= as
		}
	}
	switch m & unix.S_IFMT {
	case unix.S_IFDIR:
		mode |= fs.ModeDir
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	case unix.S_IFIFO:
		mode |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		mode |= fs.ModeSocket
	case unix.S_IFBLK:
		mode |= fs.ModeDevice
	case unix.S_IFCHR:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	}
	return mode
}

func readlink(dir int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
