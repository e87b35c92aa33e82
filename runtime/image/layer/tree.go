package layer

import (
	"fmt"
	"slices"
	"strings"

	"github.com/stackvm/stack/runtime/image/erofs"
)

// Tree is the content of one layer without its file data: what it adds,
// replaces and removes.
type Tree struct {
	Blocks  uint64   // length of the data blob, in erofs.BlockSize
	Skipped []string // what was left out of the layer, for the log: at most a few lines

	root   *node
	inodes int // a hint of its size, zero after Decode
}

// node is one name of a layer.
type node struct {
	name string
	kind kind

	inode *erofs.Inode // inode and dir; shared by the names of a hard-linked file

	// dir
	implied  bool    // the layer never described it: a lower layer's attributes stay
	opaque   bool    // nothing of lower layers shines through
	children []*node // in byte order of name; while unpacking, in index instead
	index    map[string]*node

	target string // pending
}

type kind byte

const (
	file     kind = iota // anything but a directory
	dir                  // a directory
	whiteout             // the name is removed from lower layers
	pending              // a hard link to a file of a lower layer
)

func newDir(name string) *node {
	return &node{name: name, kind: dir, implied: true, inode: &erofs.Inode{Mode: erofs.TypeDir | 0o755}}
}

// lookup returns the child of a sorted directory, or nil.
func (n *node) lookup(name string) *node {
	k, ok := slices.BinarySearchFunc(n.children, name, func(c *node, name string) int { return strings.Compare(c.name, name) })
	if !ok {
		return nil
	}
	return n.children[k]
}

// Blob is where a layer's data blob begins, in blocks from the end of the
// metadata image.
type Blob struct {
	Tree *Tree
	Base uint64
}

// Merge lays the layers over each other, lowest first, and returns the root of
// what a container sees: whiteouts and opaque directories are applied, and
// every file's block is shifted to where its blob begins. It consumes the trees.
func Merge(layers []Blob) (*erofs.Inode, error) {
	merged := newDir("")
	for n, l := range layers {
		links, err := resolve(merged, l.Tree.root, nil)
		if err != nil {
			return nil, fmt.Errorf("layer %d of %d: %w", n+1, len(layers), err)
		}
		shift(l.Tree.root, l.Base, make(map[*erofs.Inode]bool))
		for _, link := range links {
			link.node.kind, link.node.inode = file, link.inode
		}
		merge(merged, l.Tree.root)
	}
	entries(merged)
	return merged.inode, nil
}

type link struct {
	node  *node
	inode *erofs.Inode
}

// resolve finds the lower-layer files that hard links of n's tree lead to.
func resolve(lower, n *node, links []link) ([]link, error) {
	for _, c := range n.children {
		switch c.kind {
		case pending:
			at := lower
			for name := range strings.SplitSeq(c.target, "/") {
				if at = at.lookup(name); at == nil {
					break
				}
			}
			if at == nil || at.kind != file {
				return nil, fmt.Errorf("entry %q: hard link to %q, which is no file of this or a lower layer", c.name, c.target)
			}
			links = append(links, link{c, at.inode})
		case dir:
			var err error
			if links, err = resolve(lower, c, links); err != nil {
				return nil, err
			}
		}
	}
	return links, nil
}

// shift moves the data of every file of the tree by base blocks, once.
func shift(n *node, base uint64, done map[*erofs.Inode]bool) {
	for _, c := range n.children {
		switch {
		case c.kind == dir:
			shift(c, base, done)
		case c.kind == file && c.inode.Type() == erofs.TypeFile && !done[c.inode]:
			done[c.inode] = true
			c.inode.Block += base
		}
	}
}

// merge lays the directory up over lower, which becomes the result.
func merge(lower, up *node) {
	if !up.implied {
		lower.inode, lower.implied = up.inode, false
	}
	if up.opaque {
		lower.children = nil
	}
	if len(up.children) == 0 {
		return
	}
	all := make([]*node, 0, len(lower.children)+len(up.children))
	below := lower.children
	for _, c := range up.children {
		for len(below) > 0 && below[0].name < c.name {
			all = append(all, below[0])
			below = below[1:]
		}
		var under *node
		if len(below) > 0 && below[0].name == c.name {
			under = below[0]
			below = below[1:]
		}
		switch {
		case c.kind == whiteout:
		case c.kind == dir && under != nil && under.kind == dir:
			merge(under, c)
			all = append(all, under)
		case c.kind == dir:
			// Over an empty directory, so that whiteouts inside it vanish too.
			fresh := newDir(c.name)
			merge(fresh, c)
			all = append(all, fresh)
		default:
			all = append(all, c)
		}
	}
	lower.children = append(all, below...)
}

// entries gives every directory's inode its entries.
func entries(n *node) {
	n.inode.Entries = make([]erofs.Entry, 0, len(n.children))
	for _, c := range n.children {
		if c.kind == dir {
			entries(c)
		}
		n.inode.Entries = append(n.inode.Entries, erofs.Entry{Name: c.name, Inode: c.inode})
	}
}
