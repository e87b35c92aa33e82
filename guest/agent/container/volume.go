//go:build linux

package container

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/stackvm/stack/guest/agent/disk"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// A volume's file system holds its files in a directory of its own, so that
// neither lost+found nor the marker below is seen in it.
const (
	volumeFiles  = disk.Files
	volumeLock   = "lock"   // held by the machine that fills a shared volume
	volumeFilled = "filled" // exists once the first use's copy is complete
)

// volume opens the directory of a volume that is to be mounted, or the part of
// it that subpath names, which must exist.
func volume(dir string, m *wire.Mount) (*os.File, error) {
	files := dir + "/" + volumeFiles
	if m.Kind == wire.MountVolume { // a shared one's is made by the server
		if err := os.Mkdir(files, 0o755); err != nil && !os.IsExist(err) {
			return nil, err
		}
	}
	if m.Subpath == "" {
		return os.OpenFile(files, unix.O_PATH|unix.O_DIRECTORY, 0)
	}
	f, err := below(files, m)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("subpath %q: not in the volume", m.Subpath)
	}
	return f, err
}

// fill copies what the image has at the mount's place into a volume that is
// used for the first time. A copy that was cut off, by whatever, is made again
// from the start: until the marker is there nothing but the copy was written.
// Of machines that share the volume one copies, and the others wait for it.
func fill(from, volume *os.File, shared bool) error {
	// The marker lies beside the files. A mount of a subpath has no marker
	// there: docker copies only into whole volumes, and so do we.
	parent, err := unix.Openat(int(volume.Fd()), "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	return fillBeside(parent, from, volume, shared)
}

func fillBeside(parent int, from, volume *os.File, shared bool) error {
	var st, want unix.Stat_t
	if err := unix.Fstatat(parent, volumeFiles, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil // a subpath
	}
	if err := unix.Fstat(int(volume.Fd()), &want); err != nil {
		return err
	}
	if st.Ino != want.Ino || st.Dev != want.Dev {
		return nil
	}
	if isFilled(parent) {
		return nil
	}
	if shared {
		unlock, err := lockBeside(parent)
		if err != nil {
			return err
		}
		defer unlock()
		if isFilled(parent) {
			return nil
		}
	}
	source, err := unix.Openat(int(from.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(source)
	target, err := unix.Openat(int(volume.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	// A volume that somebody filled before us, an import for one, is not touched.
	if names, err := list(target, "."); err != nil {
		return err
	} else if len(names) > 0 && !partial(parent) {
		return mark(parent)
	}
	if err := begin(parent); err != nil {
		return err
	}
	if err := clear(target, want.Dev); err != nil {
		return err
	}
	c := copier{links: make(map[[2]uint64]string)}
	if err := c.directory(source, target, target, ""); err != nil {
		return err
	}
	if err := unix.Syncfs(target); err != nil {
		return err
	}
	return mark(parent)
}

func isFilled(parent int) bool {
	return unix.Faccessat(parent, volumeFilled, unix.F_OK, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// lockBeside takes the lock of whoever fills the volume; it goes with a machine
// that dies.
func lockBeside(parent int) (unlock func(), err error) {
	fd, err := unix.Openat(parent, volumeLock, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLKW, &unix.Flock_t{Type: unix.F_WRLCK})
		if err == nil {
			return func() { unix.Close(fd) }, nil
		}
		if err != unix.EINTR {
			unix.Close(fd)
			return nil, fmt.Errorf("locking: %w", err)
		}
	}
}

// volumeFilling exists from before the first file is copied to after the marker:
// it tells a copy that was cut off from files that came another way.
const volumeFilling = "filling"

func partial(parent int) bool {
	return unix.Faccessat(parent, volumeFilling, unix.F_OK, unix.AT_SYMLINK_NOFOLLOW) == nil
}

func begin(parent int) error { return touch(parent, volumeFilling) }

func mark(parent int) error {
	if err := touch(parent, volumeFilled); err != nil {
		return err
	}
	if err := unix.Unlinkat(parent, volumeFilling, 0); err != nil && err != unix.ENOENT {
		return err
	}
	return nil
}

// touch makes an empty file and has it on disk.
func touch(parent int, name string) error {
	fd, err := unix.Openat(parent, name, unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	dir, err := unix.Openat(parent, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return errors.Join(unix.Fsync(fd), unix.Fsync(dir))
}

// list returns the names in a directory called name in dir.
func list(dir int, name string) ([]string, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "directory")
	defer f.Close()
	return f.Readdirnames(-1)
}

// clear removes what is in a directory of the file system dev, and leaves alone
// what is mounted in it.
func clear(dir int, dev uint64) error {
	names, err := list(dir, ".")
	if err != nil {
		return err
	}
	for _, name := range names {
		err := unix.Unlinkat(dir, name, 0)
		if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) {
			err = clearDirectory(dir, name, dev)
		}
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EBUSY) { // EBUSY: a mount point
			return err
		}
	}
	return nil
}

func clearDirectory(dir int, name string, dev uint64) error {
	sub, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(sub)
	var st unix.Stat_t
	if err := unix.Fstat(sub, &st); err != nil || st.Dev != dev {
		return err
	}
	if err := clear(sub, dev); err != nil {
		return err
	}
	err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	if err == unix.ENOTEMPTY { // something is mounted below
		return nil
	}
	return err
}

// copier copies a tree with owners, modes, times, attributes and hard links. It
// follows no link and works with descriptors only, on a tree that nobody else
// writes to yet.
type copier struct {
	links map[[2]uint64]string // first copy of an inode with several names
}

// directory copies what is in from into to, and then what describes from
// itself. root is the copy's root and path that of to below it.
func (c *copier) directory(from, to, root int, path string) error {
	names, err := list(from, ".")
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := c.entry(from, to, root, path, name); err != nil {
			return fmt.Errorf("%s%s: %w", path, name, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return err
	}
	return describe(from, to, &st)
}

func (c *copier) entry(from, to, root int, path, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(from, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	kind := st.Mode & unix.S_IFMT
	inode := [2]uint64{st.Dev, st.Ino}
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		if first, ok := c.links[inode]; ok {
			return unix.Linkat(root, first, to, name, 0)
		}
		c.links[inode] = path + name
	}
	switch kind {
	case unix.S_IFDIR:
		if err := unix.Mkdirat(to, name, 0o700); err != nil {
			return err
		}
		source, err := unix.Openat(from, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(source)
		target, err := unix.Openat(to, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(target)
		return c.directory(source, target, root, path+name+"/")
	case unix.S_IFREG:
		return regular(from, to, name, &st)
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(from, name, buf)
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(string(buf[:n]), to, name); err != nil {
			return err
		}
	default: // devices, pipes, sockets
		if err := unix.Mknodat(to, name, st.Mode&^0o7777|0o600, int(st.Rdev)); err != nil {
			return err
		}
		if err := unix.Fchmodat(to, name, st.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	if err := unix.Fchownat(to, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return unix.UtimesNanoAt(to, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

func regular(from, to int, name string, st *unix.Stat_t) error {
	fd, err := unix.Openat(from, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	source := os.NewFile(uintptr(fd), name)
	defer source.Close()
	if fd, err = unix.Openat(to, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600); err != nil {
		return err
	}
	target := os.NewFile(uintptr(fd), name)
	_, err = io.Copy(target, source) // within the kernel
	if err == nil {
		err = describe(int(source.Fd()), int(target.Fd()), st)
	}
	return errors.Join(err, target.Close())
}

// describe gives an open copy the owner, mode, attributes and times of its
// original; the mode after the owner, which clears set-id bits.
func describe(from, to int, st *unix.Stat_t) error {
	if err := unix.Fchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmod(to, st.Mode&0o7777); err != nil {
		return err
	}
	if err := attributesOf(from, to); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", to), []unix.Timespec{st.Atim, st.Mtim}, 0)
}

func attributesOf(from, to int) error {
	names := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Flistxattr(from, names)
	if err == unix.ENOTSUP || n == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for name := range strings.SplitSeq(strings.TrimRight(string(names[:n]), "\x00"), "\x00") {
		if strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		n, err := unix.Fgetxattr(from, name, value)
		if err != nil {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
		if err := unix.Fsetxattr(to, name, value[:n], 0); err != nil && err != unix.ENOTSUP {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
	}
	return nil
}
