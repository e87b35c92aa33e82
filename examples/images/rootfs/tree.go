package rootfs

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/stackvm/stack/examples/images/deb"
)

// maxSymlinks is what Linux follows before it answers ELOOP.
const maxSymlinks = 40

// epoch is the modification time of every entry: the same inputs give the same bytes.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// Tree is the file tree of an image while it is being made. It remembers which part
// belongs to the layer being made and which to the layers below.
//
// Paths are absolute or relative to the root, and go through symbolic links in their
// parents as they would in a running container; missing parents are made, owned by root,
// mode 0755. The first fault is kept and ends every later call: ask Err, or Layer.
// A Tree is for one goroutine.
type Tree struct {
	lower *Tree            // read only; nil for the first layer
	nodes map[string]*node // by clean path without the leading slash; a nil node hides one of lower
	err   error
}

// node is one inode; hard links share it.
type node struct {
	kind         byte // a tar type flag: directory, regular, symlink, char, block or fifo
	mode         int64
	uid, gid     int
	target       string // of a symlink
	content      []byte
	major, minor int64
	xattrs       map[string]string
	opaque       bool // directory that hides what lower layers have in it
}

// Attr are the attributes of a new file.
type Attr struct {
	Mode     fs.FileMode // permission bits with the setuid, setgid and sticky bits as chmod(2) counts them
	UID, GID int
	Xattrs   map[string]string
}

// New returns an empty tree.
func New() *Tree { return &Tree{nodes: map[string]*node{}} }

// Above returns a tree that starts with the content of t and whose layer holds only what
// changes from there. t must not change any more.
func (t *Tree) Above() *Tree { return &Tree{lower: t, nodes: map[string]*node{}, err: t.err} }

// Err returns the first fault met.
func (t *Tree) Err() error { return t.err }

// Dir makes a directory, or changes the attributes of one that exists.
func (t *Tree) Dir(name string, attr Attr) {
	t.put(name, &node{kind: tar.TypeDir}, attr)
}

// Opaque makes a directory in which nothing of the lower layers shows.
func (t *Tree) Opaque(name string, attr Attr) {
	t.Remove(name)
	t.put(name, &node{kind: tar.TypeDir, opaque: true}, attr)
}

// File makes a regular file, replacing one that exists.
func (t *Tree) File(name, content string, attr Attr) {
	t.put(name, &node{kind: tar.TypeReg, content: []byte(content)}, attr)
}

// Symlink makes a symbolic link, replacing a link or file that exists.
func (t *Tree) Symlink(name, target string) {
	t.put(name, &node{kind: tar.TypeSymlink, target: target}, Attr{Mode: 0o777})
}

// Device makes a device node; kind is tar.TypeChar or tar.TypeBlock.
func (t *Tree) Device(name string, kind byte, major, minor int64, attr Attr) {
	t.put(name, &node{kind: kind, major: major, minor: minor}, attr)
}

// Fifo makes a named pipe.
func (t *Tree) Fifo(name string, attr Attr) {
	t.put(name, &node{kind: tar.TypeFifo}, attr)
}

func (t *Tree) put(name string, n *node, attr Attr) {
	if n.mode, n.uid, n.gid, n.xattrs = int64(attr.Mode), attr.UID, attr.GID, attr.Xattrs; n.mode&^0o7777 != 0 {
		t.fail("making %s: mode %o has more than permission bits", name, n.mode)
	}
	t.insert(name, n)
}

func (t *Tree) insert(name string, n *node) {
	if t.err != nil {
		return
	}
	real, err := t.resolve(name)
	if err != nil {
		t.fail("making %s: %w", name, err)
		return
	}
	if old := t.lookup(real); old != nil && (old.kind == tar.TypeDir) != (n.kind == tar.TypeDir) && real != "" {
		t.fail("making %s: a file and a directory have that name", name)
		return
	} else if old != nil && old.opaque {
		n.opaque = true
	}
	for dir := path.Dir(real); dir != "." && t.lookup(dir) == nil; dir = path.Dir(dir) {
		t.nodes[dir] = &node{kind: tar.TypeDir, mode: 0o755}
	}
	if real != "" { // the root itself has no entry
		t.nodes[real] = n
	}
}

// Link makes name a hard link to the existing file target.
func (t *Tree) Link(name, target string) {
	if t.err != nil {
		return
	}
	real, err := t.resolve(target)
	if err != nil {
		t.fail("linking %s: %w", name, err)
		return
	}
	n := t.lookup(real)
	if n == nil || n.kind == tar.TypeDir {
		t.fail("linking %s: no file %s to link to", name, target)
		return
	}
	if t.nodes[real] == nil { // of a lower layer: a link cannot reach down, so both come up
		n = clone(n)
		t.nodes[real] = n
	}
	t.insert(name, n)
}

func clone(n *node) *node { c := *n; return &c }

// Remove removes a file, or a directory with all it holds. It is a fault if there is none.
func (t *Tree) Remove(name string) {
	if t.err != nil {
		return
	}
	real, err := t.resolve(name)
	if err == nil && t.lookup(real) == nil {
		err = fs.ErrNotExist
	}
	if err != nil {
		t.fail("removing %s: %w", name, err)
		return
	}
	for p := range t.nodes {
		if strings.HasPrefix(p, real+"/") {
			delete(t.nodes, p)
		}
	}
	delete(t.nodes, real)
	if t.lower.lookup(real) != nil {
		t.nodes[real] = nil
	}
}

// Exists says whether there is anything called name.
func (t *Tree) Exists(name string) bool {
	real, err := t.resolve(name)
	return err == nil && (real == "" || t.lookup(real) != nil)
}

// ReadFile returns the content of a regular file; a fault and "" if there is none.
func (t *Tree) ReadFile(name string) string {
	real, err := t.resolve(name)
	n := t.lookup(real)
	if err == nil && (n == nil || n.kind != tar.TypeReg) {
		err = fs.ErrNotExist
	}
	if err != nil {
		t.fail("reading %s: %w", name, err)
		return ""
	}
	return string(n.content)
}

// Append adds text to the end of a regular file and keeps its attributes.
func (t *Tree) Append(name, text string) {
	content := t.ReadFile(name)
	if t.err != nil {
		return
	}
	real, _ := t.resolve(name) // ReadFile has resolved it
	n := clone(t.lookup(real))
	n.content = []byte(content + text)
	t.nodes[real] = n
}

// Files returns the paths of everything below dir in this layer, sorted, with a leading slash.
func (t *Tree) Files(dir string) []string {
	real, err := t.resolve(dir)
	if err != nil {
		t.fail("listing %s: %w", dir, err)
		return nil
	}
	var files []string
	for p, n := range t.nodes {
		if n != nil && (real == "" || strings.HasPrefix(p, real+"/")) {
			files = append(files, "/"+p)
		}
	}
	slices.Sort(files)
	return files
}

// Unpack adds the files of a Debian package for which keep says so; keep gets absolute
// paths as the package has them. Directories that exist keep their attributes, as dpkg
// keeps them.
func (t *Tree) Unpack(pkg io.Reader, keep func(name string) bool) error {
	_, err := deb.Read(pkg, func(h *tar.Header, body io.Reader) error {
		name := path.Clean("/" + h.Name)
		if name == "/" || !keep(name) {
			return t.err
		}
		attr := Attr{Mode: fs.FileMode(h.Mode & 0o7777), UID: h.Uid, GID: h.Gid}
		switch h.Typeflag {
		case tar.TypeDir:
			if !t.Exists(name) {
				t.Dir(name, attr)
			}
		case tar.TypeReg:
			content, err := io.ReadAll(body)
			if err != nil {
				return err
			}
			t.File(name, string(content), attr)
		case tar.TypeSymlink:
			t.Symlink(name, h.Linkname)
		case tar.TypeLink:
			t.Link(name, path.Clean("/"+h.Linkname))
		case tar.TypeChar, tar.TypeBlock:
			t.Device(name, h.Typeflag, h.Devmajor, h.Devminor, attr)
		default:
			return fmt.Errorf("unpacking %s: entry of type %q", name, h.Typeflag)
		}
		return t.err
	})
	if err != nil && t.err == nil {
		t.err = err
	}
	return err
}

func (t *Tree) lookup(real string) *node {
	for ; t != nil; t = t.lower {
		if n, ok := t.nodes[real]; ok {
			return n
		}
		// A directory removed or made opaque here hides what is below it there.
		for dir := path.Dir(real); dir != "."; dir = path.Dir(dir) {
			if n, ok := t.nodes[dir]; ok && (n == nil || n.opaque) {
				return nil
			}
		}
	}
	return nil
}

// resolve follows symbolic links in the parents of name, within the tree, and returns the
// clean path without the leading slash; "" is the root.
func (t *Tree) resolve(name string) (string, error) {
	rest := strings.Split(strings.TrimPrefix(path.Clean("/"+name), "/"), "/")
	done := ""
	for links := 0; len(rest) > 0; {
		step := rest[0]
		rest = rest[1:]
		switch step {
		case "", ".":
			continue
		case "..":
			if done = path.Dir(done); done == "." {
				done = ""
			}
			continue
		}
		next := path.Join(done, step)
		n := t.lookup(next)
		if n == nil || len(rest) == 0 || n.kind == tar.TypeDir {
			done = next
			continue
		}
		if n.kind != tar.TypeSymlink {
			return "", fmt.Errorf("%s is no directory", next)
		}
		if links++; links > maxSymlinks {
			return "", errors.New("too many symbolic links")
		}
		if path.IsAbs(n.target) {
			done = ""
		}
		rest = append(strings.Split(n.target, "/"), rest...)
	}
	return done, nil
}

func (t *Tree) fail(format string, args ...any) {
	if t.err == nil {
		t.err = fmt.Errorf(format, args...)
	}
}
