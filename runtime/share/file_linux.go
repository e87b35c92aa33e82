package share

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
	"golang.org/x/sys/unix"
)

// file is a fid: a node, on behalf of one user of the machine.
type file struct {
	p9.DefaultWalkGetAttr
	tree *tree
	node *node
	uid  uint32

	mu      sync.Mutex // guards what follows
	open    *os.File   // after Open or Create
	entries []p9.Dirent
}

// Attach implements p9.Attacher. The walk that follows says for which user.
func (t *tree) Attach() (p9.File, error) { return &attachPoint{tree: t}, nil }

// attachPoint is what an attach starts from: its only names are user ids.
type attachPoint struct {
	file
	tree *tree
}

func (a *attachPoint) Walk(names []string) ([]p9.QID, p9.File, error) {
	f := &file{tree: a.tree, node: a.tree.top}
	if len(names) > 0 {
		uid, ok := attachedID(names[0])
		if !ok || len(names) > 1 {
			return nil, nil, linux.ENOENT
		}
		f.uid = uid
	}
	a.tree.retain(f.node)
	if len(names) == 0 {
		return nil, f, nil
	}
	qid, _, _, err := f.GetAttr(p9.AttrMaskAll)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return []p9.QID{qid}, f, nil
}

func (a *attachPoint) GetAttr(mask p9.AttrMask) (p9.QID, p9.AttrMask, p9.Attr, error) {
	return p9.QID{Type: p9.TypeDir}, mask, p9.Attr{Mode: p9.ModeDirectory | 0o555}, nil
}

func (a *attachPoint) Close() error { return nil }

// withPath calls fn with an O_PATH descriptor of the file: of what was opened,
// if it was, whatever its name is now.
func (f *file) withPath(fn func(fd int) error) error {
	f.mu.Lock()
	open := f.open
	f.mu.Unlock()
	if open != nil {
		raw, err := open.SyscallConn()
		if err != nil {
			return err
		}
		var inner error
		err = raw.Control(func(fd uintptr) { inner = fn(int(fd)) })
		return exact(errors.Join(err, inner))
	}
	fd, err := f.tree.open(f.node, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return exact(fn(fd))
}

// virtual reports whether f is the directory that a single file is shown in.
func (f *file) virtual() bool { return !f.tree.isDir && f.node == f.tree.top }

func (f *file) Walk(names []string) ([]p9.QID, p9.File, error) {
	at := &file{tree: f.tree, node: f.node, uid: f.uid}
	f.tree.retain(at.node)
	var qids []p9.QID
	for _, name := range names {
		if err := validName(name); err != nil {
			at.Close()
			return nil, nil, err
		}
		next := &file{tree: f.tree, node: f.tree.child(at.node, name), uid: f.uid}
		at.Close()
		at = next
		qid, _, _, err := at.GetAttr(p9.AttrMaskAll)
		if err != nil {
			at.Close()
			return nil, nil, err
		}
		qids = append(qids, qid)
	}
	return qids, at, nil
}

func (f *file) GetAttr(mask p9.AttrMask) (p9.QID, p9.AttrMask, p9.Attr, error) {
	if f.virtual() {
		return p9.QID{Type: p9.TypeDir}, mask, p9.Attr{Mode: p9.ModeDirectory | 0o555, NLink: 2}, nil
	}
	var st unix.Stat_t
	var uid, gid uint32
	err := f.withPath(func(fd int) error {
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		uid, gid = owner(fd, &st)
		return nil
	})
	if err != nil {
		return p9.QID{}, p9.AttrMask{}, p9.Attr{}, err
	}
	mode := p9.FileMode(st.Mode)
	return p9.QID{Type: mode.QIDType(), Path: f.tree.qidPath(&st)}, mask, p9.Attr{
		Mode: mode, UID: p9.UID(uid), GID: p9.GID(gid), NLink: p9.NLink(st.Nlink), RDev: p9.Dev(st.Rdev),
		Size: uint64(st.Size), BlockSize: uint64(st.Blksize), Blocks: uint64(st.Blocks),
		ATimeSeconds: uint64(st.Atim.Sec), ATimeNanoSeconds: uint64(st.Atim.Nsec),
		MTimeSeconds: uint64(st.Mtim.Sec), MTimeNanoSeconds: uint64(st.Mtim.Nsec),
		CTimeSeconds: uint64(st.Ctim.Sec), CTimeNanoSeconds: uint64(st.Ctim.Nsec),
	}, nil
}

func (f *file) SetAttr(valid p9.SetAttrMask, attr p9.SetAttr) error {
	if f.tree.share.ReadOnly {
		return unix.EROFS
	}
	if f.virtual() {
		return linux.EPERM
	}
	return f.withPath(func(fd int) error {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		if valid.UID || valid.GID {
			uid, gid := owner(fd, &st)
			if valid.UID {
				uid = uint32(attr.UID)
			}
			if valid.GID {
				gid = uint32(attr.GID)
			}
			if err := setOwner(fd, &st, uid, gid); err != nil {
				return err
			}
		}
		if valid.Permissions && st.Mode&unix.S_IFMT != unix.S_IFLNK {
			if err := unix.Chmod(procPath(fd), uint32(attr.Permissions.Permissions())|uint32(attr.Permissions)&0o7000); err != nil {
				return err
			}
		}
		if valid.Size {
			if err := unix.Truncate(procPath(fd), int64(attr.Size)); err != nil {
				return err
			}
		}
		return setTimes(fd, valid, attr)
	})
}

func setTimes(fd int, valid p9.SetAttrMask, attr p9.SetAttr) error {
	if !valid.ATime && !valid.MTime {
		return nil
	}
	one := func(set, given bool, sec, nsec uint64) unix.Timespec {
		switch {
		case !set:
			return unix.Timespec{Nsec: unix.UTIME_OMIT}
		case !given:
			return unix.Timespec{Nsec: unix.UTIME_NOW}
		}
		return unix.Timespec{Sec: int64(sec), Nsec: int64(nsec)}
	}
	times := []unix.Timespec{
		one(valid.ATime, valid.ATimeNotSystemTime, attr.ATimeSeconds, attr.ATimeNanoSeconds),
		one(valid.MTime, valid.MTimeNotSystemTime, attr.MTimeSeconds, attr.MTimeNanoSeconds),
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, procPath(fd), times, 0)
}

func (f *file) Close() error {
	f.mu.Lock()
	open := f.open
	f.open = nil
	f.mu.Unlock()
	if open != nil {
		open.Close()
	}
	f.tree.release(f.node)
	return nil
}

// openFlags are the flags of a client's open that mean something here; O_APPEND
// stays, so that appends of several clients do not overwrite each other.
const openFlags = unix.O_ACCMODE | unix.O_APPEND | unix.O_TRUNC | unix.O_SYNC | unix.O_DSYNC | unix.O_NOATIME

func (f *file) Open(flags p9.OpenFlags) (p9.QID, uint32, error) {
	fl := int(flags) & openFlags &^ unix.O_NOATIME
	if f.tree.share.ReadOnly && (fl&unix.O_ACCMODE != unix.O_RDONLY || fl&unix.O_TRUNC != 0) {
		return p9.QID{}, 0, unix.EROFS
	}
	qid, _, attr, err := f.GetAttr(p9.AttrMaskAll)
	if err != nil {
		return p9.QID{}, 0, err
	}
	if f.virtual() {
		return qid, 0, nil
	}
	switch {
	case attr.Mode.IsDir():
		fl = unix.O_RDONLY | unix.O_DIRECTORY
	case !attr.Mode.IsRegular():
		return p9.QID{}, 0, unix.ENXIO // pipes and sockets work within one kernel only
	}
	fd, err := f.tree.open(f.node, fl|unix.O_NONBLOCK)
	if err != nil {
		return p9.QID{}, 0, err
	}
	f.mu.Lock()
	f.open = os.NewFile(uintptr(fd), f.node.name)
	f.mu.Unlock()
	return qid, 0, nil
}

// opened returns the open file.
func (f *file) opened() (*os.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open == nil {
		return nil, unix.EBADF
	}
	return f.open, nil
}

func (f *file) ReadAt(p []byte, offset int64) (int, error) {
	open, err := f.opened()
	if err != nil {
		return 0, err
	}
	return open.ReadAt(p, offset)
}

func (f *file) WriteAt(p []byte, offset int64) (int, error) {
	open, err := f.opened()
	if err != nil {
		return 0, err
	}
	// Not (*os.File).WriteAt, which refuses files opened for appending: the
	// kernel then ignores the offset (pwrite(2), bugs), which is what is wanted.
	raw, err := open.SyscallConn()
	if err != nil {
		return 0, err
	}
	done := 0
	err = raw.Write(func(fd uintptr) bool {
		for done < len(p) {
			var n int
			n, err = unix.Pwrite(int(fd), p[done:], offset+int64(done))
			if err == unix.EINTR { //nolint:errorlint // a bare errno
				continue
			}
			if err != nil {
				return true
			}
			done += n
		}
		return true
	})
	return done, err
}

func (f *file) FSync() error {
	if f.virtual() {
		return nil
	}
	open, err := f.opened()
	if err != nil {
		return err
	}
	return open.Sync()
}

func (f *file) StatFS() (p9.FSStat, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(f.tree.root, &st); err != nil {
		return p9.FSStat{}, err
	}
	return p9.FSStat{
		Type: uint32(st.Type), BlockSize: uint32(st.Bsize), Blocks: st.Blocks, BlocksFree: st.Bfree,
		BlocksAvailable: st.Bavail, Files: st.Files, FilesFree: st.Ffree, NameLength: uint32(st.Namelen),
	}, nil
}

func (f *file) Create(name string, flags p9.OpenFlags, mode p9.FileMode, _ p9.UID, gid p9.GID) (p9.File, p9.QID, uint32, error) {
	if err := validName(name); err != nil {
		return nil, p9.QID{}, 0, err
	}
	var n *node
	var open *os.File
	err := f.tree.withDir(f.node, func(dir int) error {
		fd, err := unix.Openat(dir, name, int(flags)&openFlags|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(mode)&0o7777)
		if err != nil {
			return err
		}
		open = os.NewFile(uintptr(fd), name)
		n = f.tree.childLocked(f.node, name)
		return made(fd, f.uid, uint32(gid))
	})
	if open == nil {
		return nil, p9.QID{}, 0, err
	}
	child := &file{tree: f.tree, node: n, uid: f.uid, open: open}
	if err == nil {
		var qid p9.QID
		if qid, _, _, err = child.GetAttr(p9.AttrMaskAll); err == nil {
			return child, qid, 0, nil
		}
	}
	child.Close()
	return nil, p9.QID{}, 0, err
}

// make makes something that is no regular file, and gives it to its maker.
func (f *file) make(name string, gid p9.GID, fn func(dir int) error) (p9.QID, error) {
	if err := validName(name); err != nil {
		return p9.QID{}, err
	}
	var qid p9.QID
	err := f.tree.withDir(f.node, func(dir int) error {
		if err := fn(dir); err != nil {
			return err
		}
		fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		qid = p9.QID{Type: p9.FileMode(st.Mode).QIDType(), Path: f.tree.qidPath(&st)}
		if !canOwn(&st) {
			return nil
		}
		return made(fd, f.uid, uint32(gid))
	})
	return qid, err
}

func (f *file) Mkdir(name string, mode p9.FileMode, _ p9.UID, gid p9.GID) (p9.QID, error) {
	return f.make(name, gid, func(dir int) error { return unix.Mkdirat(dir, name, uint32(mode)&0o7777) })
}

func (f *file) Symlink(target, name string, _ p9.UID, gid p9.GID) (p9.QID, error) {
	return f.make(name, gid, func(dir int) error { return unix.Symlinkat(target, dir, name) })
}

// Mknod makes pipes and sockets' names: they work between processes of one
// machine. Devices would need rights on the host.
func (f *file) Mknod(name string, mode p9.FileMode, _, _ uint32, _ p9.UID, gid p9.GID) (p9.QID, error) {
	switch {
	case mode.IsNamedPipe(), mode.IsSocket(), mode.IsRegular():
	default:
		return p9.QID{}, linux.EPERM
	}
	return f.make(name, gid, func(dir int) error { return unix.Mknodat(dir, name, uint32(mode), 0) })
}

func (f *file) Link(target p9.File, name string) error {
	from, ok := target.(*file)
	if !ok || from.tree != f.tree {
		return unix.EXDEV
	}
	if err := validName(name); err != nil {
		return err
	}
	return f.tree.withDir(f.node, func(dir int) error {
		p, ok := from.node.pathLocked()
		if !ok || from.node.parent == nil {
			return unix.ENOENT
		}
		parent, err := f.tree.openLocked(from.node.parent, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer unix.Close(parent)
		return unix.Linkat(parent, p[strings.LastIndex(p, "/")+1:], dir, name, 0)
	})
}

func (f *file) RenameAt(oldName string, newDir p9.File, newName string) error {
	to, ok := newDir.(*file)
	if !ok || to.tree != f.tree {
		return unix.EXDEV
	}
	if err := errors.Join(validName(oldName), validName(newName)); err != nil {
		return unix.EINVAL
	}
	t := f.tree
	return t.withDir(f.node, func(from int) error {
		dir, err := t.openLocked(to.node, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer unix.Close(dir)
		if err := unix.Renameat(from, oldName, dir, newName); err != nil {
			return err
		}
		if f.node == to.node && oldName == newName {
			return nil
		}
		t.forgetLocked(to.node, newName)
		n := f.node.children[oldName]
		if n == nil {
			return nil
		}
		delete(f.node.children, oldName)
		if to.node.children == nil {
			to.node.children = map[string]*node{}
		}
		to.node.refs++
		f.node.refs-- // the caller's fid keeps it above zero
		n.parent, n.name = to.node, newName
		to.node.children[newName] = n
		return nil
	})
}

// Rename is never called on a server.
func (f *file) Rename(p9.File, string) error { return unix.ENOSYS }

// Renamed is called for what RenameAt has done already.
func (f *file) Renamed(p9.File, string) {}

func (f *file) UnlinkAt(name string, flags uint32) error {
	if err := validName(name); err != nil {
		return err
	}
	return f.tree.withDir(f.node, func(dir int) error {
		if err := unix.Unlinkat(dir, name, int(flags)&unix.AT_REMOVEDIR); err != nil {
			return err
		}
		f.tree.forgetLocked(f.node, name)
		return nil
	})
}

// Readdir reads the whole directory at offset 0 and serves the following calls
// from that, so that offsets stay right while entries come and go.
func (f *file) Readdir(offset uint64, count uint32) (p9.Dirents, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if offset == 0 || f.entries == nil {
		if err := f.readEntriesLocked(); err != nil {
			return nil, err
		}
	}
	if offset >= uint64(len(f.entries)) {
		return nil, io.EOF
	}
	return slices.Clone(f.entries[offset:min(offset+uint64(count), uint64(len(f.entries)))]), nil
}

// maxEntries bounds what one open directory may take of memory.
const maxEntries = 4 << 20

func (f *file) readEntriesLocked() error {
	f.entries = []p9.Dirent{}
	add := func(name string, mode uint32, path uint64) {
		f.entries = append(f.entries, p9.Dirent{
			QID: p9.QID{Type: p9.FileMode(mode).QIDType(), Path: path}, Type: direntType(mode), Name: name, Offset: uint64(len(f.entries) + 1),
		})
	}
	if f.virtual() {
		add(FileName, unix.S_IFREG, 1)
		return nil
	}
	if f.open == nil {
		return unix.EBADF
	}
	if _, err := f.open.Seek(0, io.SeekStart); err != nil {
		return err
	}
	for _, name := range []string{".", ".."} {
		of := name
		if f.node == f.tree.top {
			of = "." // what is above is not shared
		}
		var st unix.Stat_t
		if err := statAt(f.open, of, &st); err != nil {
			return err
		}
		add(name, st.Mode, f.tree.qidPath(&st))
	}
	for {
		list, err := f.open.ReadDir(1024)
		for _, e := range list {
			var st unix.Stat_t
			if statAt(f.open, e.Name(), &st) != nil {
				continue // removed meanwhile
			}
			add(e.Name(), st.Mode, f.tree.qidPath(&st))
		}
		if len(f.entries) > maxEntries {
			return unix.EFBIG
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// direntType is the type that a directory entry has in Linux's dialect of 9P: that
// of readdir(3), which the kernel hands on, and not that of a QID, which the
// protocol library's field is made for.
func direntType(mode uint32) p9.QIDType { return p9.QIDType(mode & unix.S_IFMT >> 12) }

// statAt is fstatat(2) of an entry of an open directory.
func statAt(dir *os.File, name string, st *unix.Stat_t) error {
	raw, err := dir.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = unix.Fstatat(int(fd), name, st, unix.AT_SYMLINK_NOFOLLOW) })
	return errors.Join(err, inner)
}

func (f *file) Readlink() (string, error) {
	if f.virtual() {
		return "", unix.EINVAL
	}
	var target string
	err := f.withPath(func(fd int) error {
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, "", buf)
		if err == nil {
			target = string(buf[:n])
		}
		return err
	})
	return target, err
}

// clientAttribute says which extended attributes belong to containers: theirs,
// not the one that keeps the owner.
func clientAttribute(name string) bool {
	return strings.HasPrefix(name, "user.") && name != ownerAttribute
}

func (f *file) SetXattr(name string, data []byte, flags p9.XattrFlags) error {
	switch {
	case f.tree.share.ReadOnly:
		return unix.EROFS
	case f.virtual() || !clientAttribute(name):
		return unix.EOPNOTSUPP
	}
	return f.withPath(func(fd int) error { return unix.Setxattr(procPath(fd), name, data, int(flags)) })
}

func (f *file) GetXattr(name string) ([]byte, error) {
	if f.virtual() || !clientAttribute(name) {
		return nil, unix.EOPNOTSUPP
	}
	var value []byte
	err := f.withPath(func(fd int) error {
		buf := make([]byte, 64<<10) // the kernel's limit for a value
		n, err := unix.Getxattr(procPath(fd), name, buf)
		value = buf[:max(n, 0)]
		return err
	})
	return value, err
}

func (f *file) ListXattrs() ([]string, error) {
	if f.virtual() {
		return nil, nil
	}
	var names []string
	err := f.withPath(func(fd int) error {
		buf := make([]byte, 64<<10)
		n, err := unix.Listxattr(procPath(fd), buf)
		if err != nil {
			return err
		}
		for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
			if clientAttribute(name) {
				names = append(names, name)
			}
		}
		return nil
	})
	return names, err
}

func (f *file) RemoveXattr(name string) error {
	switch {
	case f.tree.share.ReadOnly:
		return unix.EROFS
	case f.virtual() || !clientAttribute(name):
		return unix.EOPNOTSUPP
	}
	return f.withPath(func(fd int) error { return unix.Removexattr(procPath(fd), name) })
}

// Lock implements advisory record locks on the host's file. They are the open
// file's (fcntl(2), "open file description locks"), and so shared by all of a
// machine's processes that have it open by this fid, for whom the machine's own
// kernel decides first.
func (f *file) Lock(_ int, kind p9.LockType, _ p9.LockFlags, start, length uint64, _ string) (p9.LockStatus, error) {
	open, err := f.opened()
	if err != nil {
		return p9.LockStatusError, err
	}
	lock := unix.Flock_t{Whence: io.SeekStart, Start: int64(start), Len: int64(length)}
	switch kind {
	case p9.ReadLock:
		lock.Type = unix.F_RDLCK
	case p9.WriteLock:
		lock.Type = unix.F_WRLCK
	default:
		lock.Type = unix.F_UNLCK
	}
	raw, err := open.SyscallConn()
	if err != nil {
		return p9.LockStatusError, err
	}
	var lockErr error
	if err := raw.Control(func(fd uintptr) {
		lockErr = unix.FcntlFlock(fd, unix.F_OFD_SETLK, &lock)
	}); err != nil {
		return p9.LockStatusError, err
	}
	switch {
	case lockErr == nil:
		return p9.LockStatusOK, nil
	case errors.Is(lockErr, unix.EAGAIN) || errors.Is(lockErr, unix.EACCES):
		return p9.LockStatusBlocked, nil // the client tries again, or reports it
	}
	return p9.LockStatusError, lockErr
}
