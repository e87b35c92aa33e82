package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/stackvm/stack/runtime/image/erofs"
)

// Limits bound what one layer may claim. They are far above any real layer and
// exist so that a hostile one ends in an error instead of a full disk or an
// exhausted memory.
type Limits struct {
	Bytes    int64 // contents of all files together, holes included
	Inodes   int   // files, directories and removals together
	Metadata int64 // bytes of names, link targets and extended attributes together
}

// DefaultLimits are what Unpack applies for zero fields.
var DefaultLimits = Limits{
	Bytes:    256 << 30,
	Inodes:   1 << 20,
	Metadata: 256 << 20,
}

const (
	maxPath     = 4096 // bytes: PATH_MAX, beyond which no unpacker could have made the file
	maxFollowed = 40   // links on the way to one file, as in Linux (MAXSYMLINKS)
	maxSkipped  = 8    // lines in Tree.Skipped

	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh." // AUFS bookkeeping, which other stores skip as well
	opaqueMarker   = ".wh..wh..opq"
	paxXattr       = "SCHILY.xattr."
)

// Unpack reads the tar stream r to its end, writes the contents of its regular
// files to blob, and returns the rest. Where the stream holds a long run of
// zeroes blob is left unwritten: it must read as zero there and is
// Tree.Blocks long.
//
// Of entries with the same name the last one counts. Names may pass through
// symbolic links of the layer itself, which are followed inside it. Removals
// concern lower layers only, wherever they stand in the stream.
func Unpack(ctx context.Context, r io.Reader, blob io.WriterAt, limits Limits) (*Tree, error) {
	if limits.Bytes == 0 {
		limits.Bytes = DefaultLimits.Bytes
	}
	if limits.Inodes == 0 {
		limits.Inodes = DefaultLimits.Inodes
	}
	if limits.Metadata == 0 {
		limits.Metadata = DefaultLimits.Metadata
	}
	root := newDir("")
	u := &unpacker{limits: limits, left: limits, root: root, blob: newBlobWriter(blob), tree: &Tree{root: root, inodes: 1}}
	tr := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("reading the layer: %w", err)
		}
		if err := u.entry(ctx, h, tr); err != nil {
			return nil, fmt.Errorf("entry %q: %w", shorten(h.Name), err)
		}
	}
	// What follows the end marker belongs to the diff-id as well.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return nil, fmt.Errorf("reading the layer: %w", err)
	}
	if err := u.blob.flush(); err != nil {
		return nil, err
	}
	if err := u.finish(); err != nil {
		return nil, err
	}
	u.tree.Blocks = u.blob.blocks()
	return u.tree, nil
}

// unpacker is one Unpack under way.
type unpacker struct {
	limits, left Limits // left counts down
	tree         *Tree
	root         *node
	blob         *blobWriter
	removals     []removal
	pending      []*node // hard links that stood before their target, in stream order
}

// removal is a name of lower layers that a directory hides.
type removal struct {
	parent *node
	name   string
}

func (u *unpacker) entry(ctx context.Context, h *tar.Header, data io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	parts, err := split(h.Name)
	if err != nil {
		return err
	}
	if len(parts) == 0 { // the root itself
		if h.Typeflag != tar.TypeDir {
			return errors.New("the root must be a directory")
		}
		return u.setDir(u.root, h)
	}
	name := parts[len(parts)-1]
	if len(name) > erofs.MaxName {
		return fmt.Errorf("name of %d bytes, at most %d are possible", len(name), erofs.MaxName)
	}
	if strings.HasPrefix(name, whiteoutPrefix) {
		return u.remove(parts[:len(parts)-1], name)
	}
	if slices.ContainsFunc(parts, func(p string) bool { return strings.HasPrefix(p, whiteoutMeta) }) {
		return nil
	}
	parent, err := u.mkdirs(parts[:len(parts)-1])
	if err != nil {
		return err
	}
	old := parent.index[name]
	switch h.Typeflag {
	case tar.TypeDir:
		if old == nil || old.kind != dir {
			if err := u.count(name); err != nil {
				return err
			}
			fresh := newDir(strings.Clone(name))
			fresh.opaque = old != nil && old.kind == whiteout
			parent.add(fresh)
			old = fresh
		}
		return u.setDir(old, h)
	case tar.TypeLink:
		return u.hardLink(parent, name, h.Linkname)
	}

	i, err := u.inode(h)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		i.Mode |= erofs.TypeFile
		if h.Size < 0 || h.Size > u.left.Bytes {
			return fmt.Errorf("file of %d bytes: a layer may hold %d in all", h.Size, u.limits.Bytes)
		}
		u.left.Bytes -= h.Size
		i.Size, i.Block = uint64(h.Size), u.blob.blocks()
		if err := u.blob.copy(ctx, data, h.Size); err != nil {
			return err
		}
	case tar.TypeSymlink:
		i.Mode |= erofs.TypeLink
		i.Target = strings.Clone(h.Linkname)
		if len(i.Target) == 0 || len(i.Target) > erofs.MaxTarget || strings.Contains(i.Target, "\x00") {
			return fmt.Errorf("link target of %d bytes, 1 to %d are possible", len(i.Target), erofs.MaxTarget)
		}
	case tar.TypeChar, tar.TypeBlock:
		i.Mode |= erofs.TypeChar
		if h.Typeflag == tar.TypeBlock {
			i.Mode = i.Mode&^erofs.TypeMask | erofs.TypeBlock
		}
		if h.Devmajor < 0 || h.Devmajor > erofs.MaxMajor || h.Devminor < 0 || h.Devminor > erofs.MaxMinor {
			return fmt.Errorf("device %d:%d: at most %d:%d is possible", h.Devmajor, h.Devminor, erofs.MaxMajor, erofs.MaxMinor)
		}
		if h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0 {
			// A whiteout as overlays keep it, from a tool that archived one's
			// upper directory. Unpacked by docker it works as one too.
			if err := u.count(name); err != nil {
				return err
			}
			parent.add(&node{name: strings.Clone(name), kind: whiteout})
			return nil
		}
		i.Major, i.Minor = uint32(h.Devmajor), uint32(h.Devminor)
	case tar.TypeFifo:
		i.Mode |= erofs.TypeFIFO
	default:
		return fmt.Errorf("type %q: not a file type of layers", h.Typeflag)
	}
	if err := u.count(name, i.Target); err != nil {
		return err
	}
	parent.add(&node{name: strings.Clone(name), kind: file, inode: i})
	return nil
}

// add puts c in place of what had its name.
func (n *node) add(c *node) {
	if n.index == nil {
		n.index = make(map[string]*node)
	}
	n.index[c.name] = c
}

// count charges one inode and the bytes of its names.
func (u *unpacker) count(names ...string) error {
	u.left.Inodes--
	for _, s := range names {
		u.left.Metadata -= int64(len(s))
	}
	switch {
	case u.left.Inodes < 0:
		return fmt.Errorf("a layer may hold %d files", u.limits.Inodes)
	case u.left.Metadata < 0:
		return fmt.Errorf("a layer may hold %d bytes of names and attributes", u.limits.Metadata)
	}
	u.tree.inodes++
	return nil
}

// inode is the entry's inode but for what depends on its type.
func (u *unpacker) inode(h *tar.Header) (*erofs.Inode, error) {
	// 2^32-1 means "unchanged" to chown, so no file ever has that id.
	if h.Uid < 0 || int64(h.Uid) >= math.MaxUint32 || h.Gid < 0 || int64(h.Gid) >= math.MaxUint32 {
		return nil, fmt.Errorf("owner %d:%d: not a user and group of Linux", h.Uid, h.Gid)
	}
	i := &erofs.Inode{Mode: uint16(h.Mode & 0o7777), UID: uint32(h.Uid), GID: uint32(h.Gid)}
	if !h.ModTime.IsZero() {
		i.Sec, i.Nsec = h.ModTime.Unix(), uint32(h.ModTime.Nanosecond())
	}
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok {
			continue
		}
		// Marks of an overlay would steer the machine's own; a container could
		// not see them anyway.
		if strings.HasPrefix(name, "trusted.overlay.") {
			u.skip(h, name)
			continue
		}
		x := erofs.Xattr{Name: name, Value: value}
		supported, err := erofs.CheckXattr(x)
		if !supported {
			u.skip(h, name)
			continue
		}
		if err != nil {
			return nil, err
		}
		u.left.Metadata -= int64(len(name) + len(value))
		i.Xattrs = append(i.Xattrs, x)
	}
	slices.SortFunc(i.Xattrs, func(a, b erofs.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return i, erofs.CheckXattrs(i.Xattrs)
}

func (u *unpacker) skip(h *tar.Header, name string) {
	if len(u.tree.Skipped) < maxSkipped {
		u.tree.Skipped = append(u.tree.Skipped, fmt.Sprintf("%q: extended attribute %q", shorten(h.Name), shorten(name)))
	}
}

func (u *unpacker) setDir(n *node, h *tar.Header) error {
	i, err := u.inode(h)
	if err != nil {
		return err
	}
	i.Mode |= erofs.TypeDir
	n.inode, n.implied = i, false
	return nil
}

// hardLink gives name to the file target names. A target that this layer does
// not hold, at least not yet, is looked for again at the end and then below.
func (u *unpacker) hardLink(parent *node, name, target string) error {
	parts, err := split(target)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", shorten(target), err)
	}
	if len(parts) == 0 {
		return errors.New("hard link to the root")
	}
	clean := strings.Join(parts, "/")
	n := &node{name: strings.Clone(name), kind: pending, target: clean}
	if err := u.link(n); err != nil {
		return err
	}
	if err := u.count(name, n.target); err != nil {
		return err
	}
	if n.kind == pending {
		u.pending = append(u.pending, n)
	}
	parent.add(n)
	return nil
}

// link makes a pending node the file its target leads to, if there is one.
func (u *unpacker) link(n *node) error {
	to := u.find(strings.Split(n.target, "/"))
	for hops := 0; to != nil && to.kind == pending && hops < maxFollowed; hops++ {
		to = u.find(strings.Split(to.target, "/"))
	}
	switch {
	case to == nil:
	case to.kind == dir:
		return fmt.Errorf("hard link to %q, a directory", shorten(n.target))
	case to.kind == file:
		n.kind, n.inode, n.target = file, to.inode, ""
	}
	return nil
}

// remove records a whiteout or an opaque directory.
func (u *unpacker) remove(in []string, marker string) error {
	parent, err := u.mkdirs(in)
	if err != nil {
		return err
	}
	if marker == opaqueMarker {
		parent.opaque = true
		return nil
	}
	name := marker[len(whiteoutPrefix):]
	if strings.HasPrefix(marker, whiteoutMeta) {
		return nil
	}
	if name == "" || name == "." || name == ".." {
		return errors.New("a removal of no name")
	}
	if err := u.count(name); err != nil {
		return err
	}
	u.removals = append(u.removals, removal{parent, strings.Clone(name)})
	return nil
}

// mkdirs returns the directory, making what is missing of it.
func (u *unpacker) mkdirs(parts []string) (*node, error) { return u.walk(parts, true) }

// find returns what a name of the layer leads to, or nil. Its last part is not
// followed.
func (u *unpacker) find(parts []string) *node {
	in, err := u.walk(parts[:len(parts)-1], false)
	if err != nil || in == nil {
		return nil
	}
	return in.index[parts[len(parts)-1]]
}

// walk follows parts from the root through directories and symbolic links of
// the layer. ".." in a link stops at the root, as it does below a chroot.
// Without create, a missing part gives nil.
func (u *unpacker) walk(parts []string, create bool) (*node, error) {
	at := []*node{u.root}
	rest := slices.Clone(parts)
	for followed := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			if len(at) > 1 {
				at = at[:len(at)-1]
			}
			continue
		}
		here := at[len(at)-1]
		next := here.index[name]
		switch {
		case next == nil, next.kind == whiteout:
			if !create {
				return nil, nil
			}
			removed := next != nil
			if len(name) > erofs.MaxName {
				return nil, fmt.Errorf("name of %d bytes, at most %d are possible", len(name), erofs.MaxName)
			}
			if err := u.count(name); err != nil {
				return nil, err
			}
			next = newDir(strings.Clone(name))
			next.opaque = removed
			here.add(next)
			at = append(at, next)
		case next.kind == dir:
			at = append(at, next)
		case next.kind == file && next.inode.Type() == erofs.TypeLink:
			if followed++; followed > maxFollowed {
				return nil, fmt.Errorf("more than %d links on the way", maxFollowed)
			}
			if strings.HasPrefix(next.inode.Target, "/") {
				at = at[:1]
			}
			rest = append(strings.Split(next.inode.Target, "/"), rest...)
		default:
			return nil, fmt.Errorf("%q on the way is not a directory", shorten(name))
		}
		if len(at) > maxPath/2 {
			return nil, fmt.Errorf("path of more than %d directories", maxPath/2)
		}
	}
	return at[len(at)-1], nil
}

// finish resolves the pending hard links, applies removals and sorts every
// directory.
func (u *unpacker) finish() error {
	for _, n := range u.pending {
		if err := u.link(n); err != nil {
			return fmt.Errorf("entry %q: %w", n.name, err)
		}
	}
	for _, r := range u.removals {
		switch c := r.parent.index[r.name]; {
		case c == nil:
			r.parent.add(&node{name: r.name, kind: whiteout})
		case c.kind == dir:
			c.opaque = true // the layer's own directory of that name, and only that
		}
	}
	u.root.sort()
	return nil
}

func (n *node) sort() {
	n.children = make([]*node, 0, len(n.index))
	for _, c := range n.index {
		n.children = append(n.children, c)
		if c.kind == dir {
			c.sort()
		}
	}
	n.index = nil
	slices.SortFunc(n.children, func(a, b *node) int { return strings.Compare(a.name, b.name) })
}

// split returns the parts of a tar name: relative to the root, whatever it
// begins with. ".." is refused rather than resolved: no tool writes it.
func split(name string) ([]string, error) {
	if len(name) > maxPath {
		return nil, fmt.Errorf("path of %d bytes, at most %d are possible", len(name), maxPath)
	}
	if strings.Contains(name, "\x00") {
		return nil, errors.New("path with a NUL byte")
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "", ".":
		case "..":
			return nil, errors.New(`path with ".."`)
		default:
			parts = append(parts, part)
		}
	}
	return parts, nil
}

// shorten makes a hostile name fit into a message.
func shorten(s string) string {
	const most = 120
	if len(s) <= most {
		return s
	}
	return "…" + path.Clean("/" + s[len(s)-most:])[1:]
}
