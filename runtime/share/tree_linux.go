package share

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"

	"github.com/hugelgupf/p9/linux"
	"golang.org/x/sys/unix"
)

// tree is one share's files as its clients know them. Clients name files by
// nodes, not by paths: a rename moves a node for all of them.
type tree struct {
	share Share
	root  int // O_PATH descriptor of the directory or file, constant
	isDir bool
	dev   uint64 // of the root: other devices' inode numbers are mixed with theirs

	mu  sync.RWMutex // guards the nodes; taken for writing by what changes names
	top *node
}

// node is a name in a tree that some fid refers to.
type node struct {
	parent   *node // nil for the top, and when the name is gone
	name     string
	gone     bool // unlinked, or replaced by a rename
	refs     int  // fids and children
	children map[string]*node
}

func newTree(s Share) (*tree, error) {
	fd, err := unix.Open(s.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("share %s: opening %s: %w", s.Name, s.Path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("share %s: %s: %w", s.Name, s.Path, err)
	}
	t := &tree{share: s, root: fd, isDir: st.Mode&unix.S_IFMT == unix.S_IFDIR, dev: st.Dev, top: &node{refs: 1}}
	return t, nil
}

func (t *tree) close() { unix.Close(t.root) }

// child returns the node of a name, with a reference for the caller.
func (t *tree) child(dir *node, name string) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.childLocked(dir, name)
}

func (t *tree) childLocked(dir *node, name string) *node {
	c := dir.children[name]
	if c == nil {
		c = &node{parent: dir, name: name}
		if dir.children == nil {
			dir.children = map[string]*node{}
		}
		dir.children[name] = c
		dir.refs++
	}
	c.refs++
	return c
}

func (t *tree) retain(n *node) {
	t.mu.Lock()
	n.refs++
	t.mu.Unlock()
}

func (t *tree) release(n *node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for n != nil {
		if n.refs--; n.refs > 0 {
			return
		}
		p := n.parent
		if p != nil && p.children[n.name] == n {
			delete(p.children, n.name)
		}
		n = p
	}
}

// forgetLocked takes a name away from its node: what is there now, or will be,
// is another file.
func (t *tree) forgetLocked(dir *node, name string) {
	c := dir.children[name]
	if c == nil {
		return
	}
	delete(dir.children, name)
	c.gone = true
	// The parent reference goes with the node's last fid.
}

// pathLocked is a node's path below the root; ok is false when it has none.
func (n *node) pathLocked() (p string, ok bool) {
	var parts []string
	for ; n.parent != nil; n = n.parent {
		if n.gone {
			return "", false
		}
		parts = append(parts, n.name)
	}
	if n.gone {
		return "", false
	}
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return strings.Join(parts, "/"), true
}

// open opens a node, O_PATH unless flags say otherwise, never following a link.
func (t *tree) open(n *node, flags int) (int, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	fd, err := t.openLocked(n, flags)
	return fd, exact(err)
}

// exact keeps an error number as it is: the protocol library would make EACCES of
// EPERM, and EEXIST of ENOTEMPTY.
func exact(err error) error {
	var number unix.Errno
	if errors.As(err, &number) {
		return linux.Errno(number)
	}
	return err
}

func (t *tree) openLocked(n *node, flags int) (int, error) {
	p, ok := n.pathLocked()
	switch {
	case !ok:
		return -1, unix.ENOENT
	case !t.isDir && p != FileName:
		return -1, unix.ENOENT
	case p == "" || !t.isDir:
		// The share itself, by its descriptor.
		if flags&unix.O_PATH != 0 {
			return unix.FcntlInt(uintptr(t.root), unix.F_DUPFD_CLOEXEC, 3)
		}
		return reopen(t.root, flags)
	}
	return beneath(t.root, p, flags)
}

// beneath opens a path below a directory: no link is followed, none of the
// kernel's magic ones either, and ".." does not lead above it (openat2(2)).
func beneath(dir int, p string, flags int) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(dir, p, &how)
		// EAGAIN: a rename on the host raced with the walk (openat2(2)).
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// reopen opens what an O_PATH descriptor refers to.
func reopen(fd, flags int) (int, error) {
	return unix.Open(procPath(fd), flags|unix.O_CLOEXEC, 0)
}

func procPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// validName refuses what is no single component.
func validName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") || path.Clean(name) != name {
		return unix.EINVAL
	}
	return nil
}

// withDir calls fn with a descriptor of a directory that holds names, which may
// be changed; the tree is locked for writing.
func (t *tree) withDir(n *node, fn func(dir int) error) error {
	if t.share.ReadOnly {
		return unix.EROFS
	}
	if !t.isDir {
		return linux.EPERM // a single file's directory is ours
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	dir, err := t.openLocked(n, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return exact(fn(dir))
}

// qidPath numbers a file uniquely: its inode number, and for mounts below the
// root a mixture with the device's.
func (t *tree) qidPath(st *unix.Stat_t) uint64 {
	if st.Dev == t.dev {
		return st.Ino
	}
	return st.Ino ^ (st.Dev+1)*0x9e3779b97f4a7c15
}
