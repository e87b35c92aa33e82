//go:build linux

package inroot

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links one path may pass, the kernel's own limit.
const maxLinks = 40

// Root is a directory below which paths are resolved as if it were "/".
type Root struct {
	fd int
}

// Open opens dir, a path of the agent's, as a root.
func Open(dir string) (*Root, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open root", Path: dir, Err: err}
	}
	return &Root{fd: fd}, nil
}

// At makes a root of the directory that f refers to. The root has a descriptor
// of its own.
func At(f *os.File) (*Root, error) {
	fd, err := unix.Openat(int(f.Fd()), ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open root", Path: f.Name(), Err: err}
	}
	return &Root{fd: fd}, nil
}

// Close releases the root.
func (r *Root) Close() error { return unix.Close(r.fd) }

// Open opens path, following links inside the root, with the flags of open(2).
// A final link is followed unless flags hold O_NOFOLLOW.
func (r *Root) Open(path string, flags int, mode uint32) (*os.File, error) {
	return r.open(path, flags, mode, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

func (r *Root) open(path string, flags int, mode uint32, resolve uint64) (*os.File, error) {
	if strings.IndexByte(path, 0) >= 0 {
		return nil, &os.PathError{Op: "open", Path: path, Err: unix.EINVAL}
	}
	if path == "" {
		path = "/"
	}
	how := &unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Resolve: resolve}
	if flags&(unix.O_CREAT|unix.O_TMPFILE) != 0 {
		how.Mode = uint64(mode)
	}
	for {
		fd, err := unix.Openat2(r.fd, path, how)
		switch err {
		case nil:
			return os.NewFile(uintptr(fd), path), nil
		case unix.EINTR, unix.EAGAIN: // EAGAIN: a rename raced with ".."
			continue
		}
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
}

// Stat returns the attributes of path; a final link is not followed.
func (r *Root) Stat(path string) (unix.Stat_t, error) {
	var st unix.Stat_t
	f, err := r.Open(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return st, err
	}
	defer f.Close()
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return st, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st, nil
}

// ReadFile reads the regular file at path, at most limit bytes of it. A device
// or a pipe in its place is an error, not a hang.
func (r *Root) ReadFile(path string, limit int64) ([]byte, error) {
	f, err := r.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, &os.PathError{Op: "read", Path: path, Err: errors.New("not a regular file")}
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

// Dir returns the directory at path, an O_PATH descriptor, making it and its
// parents with mode where they are missing. Links, dangling ones included, are
// followed inside the root.
func (r *Root) Dir(path string, mode uint32) (*os.File, error) {
	return r.ensure(path, mode, false)
}

// File returns what is at path, an O_PATH descriptor, making an empty file
// with mode there, and directories of mode 0755 to it, when it is missing.
func (r *Root) File(path string, mode uint32) (*os.File, error) {
	return r.ensure(path, mode, true)
}

func (r *Root) ensure(path string, mode uint32, file bool) (*os.File, error) {
	fault := func(err error) error { return &os.PathError{Op: "make", Path: path, Err: err} }
	// at is a path without links, rest what is still to be resolved below it.
	at, rest := "", components(path)
	links, made := 0, ""
	for len(rest) > 0 {
		name := rest[0]
		if name == ".." {
			at, rest = at[:max(strings.LastIndexByte(at, '/'), 0)], rest[1:]
			continue
		}
		next := at + "/" + name
		f, err := r.open(next, unix.O_PATH|unix.O_NOFOLLOW, 0, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS)
		if errors.Is(err, unix.ENOENT) && made != next {
			made = next // once: whoever removes it meanwhile gets an error
			last := file && len(rest) == 1
			perm := mode
			if file && !last {
				perm = 0o755 // mode is the file's: without x nobody but root passes a directory
			}
			if err := r.make(at, name, perm, last); err != nil {
				return nil, fault(err)
			}
			continue
		}
		if err != nil {
			return nil, fault(err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			f.Close()
			return nil, fault(err)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			target, err := readlink(f)
			f.Close()
			if err != nil {
				return nil, fault(err)
			}
			if links++; links > maxLinks {
				return nil, fault(unix.ELOOP)
			}
			if strings.HasPrefix(target, "/") {
				at = ""
			}
			rest = append(components(target), rest[1:]...)
			continue
		case unix.S_IFDIR:
			f.Close()
			at, rest = next, rest[1:]
		default:
			if len(rest) == 1 && file {
				return f, nil
			}
			f.Close()
			return nil, fault(unix.ENOTDIR)
		}
	}
	return r.open(at, unix.O_PATH|unix.O_DIRECTORY, 0, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS)
}

// make makes name in dir, a path without links.
func (r *Root) make(dir, name string, mode uint32, file bool) error {
	parent, err := r.open(dir, unix.O_PATH|unix.O_DIRECTORY, 0, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return err
	}
	defer parent.Close()
	if file {
		fd, err := unix.Openat(int(parent.Fd()), name, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_WRONLY, mode&0o666)
		if err == nil {
			err = unix.Close(fd)
		}
		return ignoreExist(err)
	}
	return ignoreExist(unix.Mkdirat(int(parent.Fd()), name, mode))
}

func ignoreExist(err error) error {
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func readlink(f *os.File) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", buf)
	if err != nil {
		return "", err
	}
	if n == 0 {
		return "", unix.ENOENT
	}
	return string(buf[:n]), nil
}

// components splits a path, leaving out what changes nothing.
func components(path string) []string {
	var parts []string
	for part := range strings.SplitSeq(path, "/") {
		if part != "" && part != "." {
			parts = append(parts, part)
		}
	}
	return parts
}

// Path names an open descriptor for system calls that take only paths. It is
// valid while f is open.
func Path(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }
