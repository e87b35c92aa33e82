package layer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/stackvm/stack/runtime/image/erofs"
)

// The record of a tree is its magic, then varints and strings, then the CRC-32C
// of all that. It is a cache of our own making, so a version that is not ours is
// simply an error: the layer is then fetched again.
const treeMagic = "stktree\x01"

const (
	flagImplied = 1 << 4
	flagOpaque  = 1 << 5
	flagShared  = 1 << 6 // file: the inode of an earlier name follows as its number
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode returns the record of the tree.
func (t *Tree) Encode() []byte {
	e := &encoder{b: make([]byte, 0, 64*t.inodes), files: make(map[*erofs.Inode]uint64)}
	e.b = append(e.b, treeMagic...)
	e.uint(t.Blocks)
	e.node(t.root)
	return binary.LittleEndian.AppendUint32(e.b, crc32.Checksum(e.b, castagnoli))
}

type encoder struct {
	b     []byte
	files map[*erofs.Inode]uint64 // number in order of appearance
}

func (e *encoder) uint(v uint64) { e.b = binary.AppendUvarint(e.b, v) }
func (e *encoder) int(v int64)   { e.b = binary.AppendVarint(e.b, v) }
func (e *encoder) string(s string) {
	e.uint(uint64(len(s)))
	e.b = append(e.b, s...)
}

func (e *encoder) node(n *node) {
	flags := uint64(n.kind)
	if n.implied {
		flags |= flagImplied
	}
	if n.opaque {
		flags |= flagOpaque
	}
	number, shared := uint64(0), false
	if n.kind == file {
		if number, shared = e.files[n.inode]; shared {
			flags |= flagShared
		} else {
			e.files[n.inode] = uint64(len(e.files))
		}
	}
	e.uint(flags)
	e.string(n.name)
	switch {
	case shared:
		e.uint(number)
	case n.kind == pending:
		e.string(n.target)
	case n.kind == file, n.kind == dir:
		e.inode(n.inode)
	}
	if n.kind == dir {
		e.uint(uint64(len(n.children)))
		for _, c := range n.children {
			e.node(c)
		}
	}
}

func (e *encoder) inode(i *erofs.Inode) {
	e.uint(uint64(i.Mode))
	e.uint(uint64(i.UID))
	e.uint(uint64(i.GID))
	e.int(i.Sec)
	e.uint(uint64(i.Nsec))
	switch i.Type() {
	case erofs.TypeFile:
		e.uint(i.Size)
		e.uint(i.Block)
	case erofs.TypeLink:
		e.string(i.Target)
	case erofs.TypeChar, erofs.TypeBlock:
		e.uint(uint64(i.Major))
		e.uint(uint64(i.Minor))
	}
	e.uint(uint64(len(i.Xattrs)))
	for _, x := range i.Xattrs {
		e.string(x.Name)
		e.string(x.Value)
	}
}

var errRecord = errors.New("damaged layer record")

// Decode returns the tree of a record. Whatever b holds, memory is bounded by
// a multiple of its length, and a tree that is returned can be merged.
func Decode(b []byte) (*Tree, error) {
	if len(b) < len(treeMagic)+4 || string(b[:len(treeMagic)-1]) != treeMagic[:len(treeMagic)-1] {
		return nil, errRecord
	}
	if v := b[len(treeMagic)-1]; v != treeMagic[len(treeMagic)-1] {
		return nil, fmt.Errorf("layer record of version %d, want %d", v, treeMagic[len(treeMagic)-1])
	}
	body := b[:len(b)-4]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(b[len(b)-4:]) {
		return nil, errRecord
	}
	d := &decoder{s: string(body[len(treeMagic):])}
	t := &Tree{Blocks: d.uint()}
	t.root = d.node(0)
	if d.err != nil || d.s != "" || t.root.kind != dir || t.root.name != "" {
		return nil, errRecord
	}
	return t, nil
}

// RecordHead is how much of a record RecordBlocks needs, in bytes.
const RecordHead = len(treeMagic) + binary.MaxVarintLen64

// RecordBlocks returns the length of the data blob that belongs to the tree whose
// record begins with head, without checking the rest.
func RecordBlocks(head []byte) (uint64, error) {
	if len(head) < len(treeMagic) || string(head[:len(treeMagic)]) != treeMagic {
		return 0, errRecord
	}
	d := &decoder{s: string(head[len(treeMagic):])}
	return d.uint(), d.err
}

// decoder takes values off the front of s. All strings share its memory. After
// an error everything reads as zero.
type decoder struct {
	s     string
	err   error
	files []*erofs.Inode

	// Slabs: one allocation for many.
	inodes []erofs.Inode
	nodes  []node
}

func (d *decoder) fail() {
	d.err, d.s = errRecord, ""
}

func (d *decoder) uint() uint64 {
	var v uint64
	for shift := 0; shift < 64 && len(d.s) > 0; shift += 7 {
		c := d.s[0]
		d.s = d.s[1:]
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return v
		}
	}
	d.fail()
	return 0
}

func (d *decoder) int() int64 {
	u := d.uint()
	return int64(u>>1) ^ -int64(u&1)
}

func (d *decoder) string() string {
	n := d.uint()
	if n > uint64(len(d.s)) {
		d.fail()
		return ""
	}
	s := d.s[:n]
	d.s = d.s[n:]
	return s
}

// count reads a number of things of which each takes at least one byte.
func (d *decoder) count() int {
	n := d.uint()
	if n > uint64(len(d.s)) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *decoder) node(depth int) *node {
	if len(d.nodes) == 0 {
		d.nodes = make([]node, min(1024, len(d.s)+1))
	}
	n := &d.nodes[0]
	d.nodes = d.nodes[1:]
	flags := d.uint()
	n.kind = kind(flags & 0xf)
	n.implied, n.opaque = flags&flagImplied != 0, flags&flagOpaque != 0
	n.name = d.string()
	switch {
	case n.kind == file && flags&flagShared != 0:
		k := d.uint()
		if k >= uint64(len(d.files)) {
			d.fail()
			return n
		}
		n.inode = d.files[k]
	case n.kind == file:
		n.inode = d.inode()
		if n.inode.Type() == erofs.TypeDir {
			d.fail()
		}
		d.files = append(d.files, n.inode)
	case n.kind == pending:
		n.target = d.string()
	case n.kind == dir:
		n.inode = d.inode()
		if n.inode.Type() != erofs.TypeDir || depth > maxPath {
			d.fail()
			return n
		}
		count := d.count()
		n.children = make([]*node, 0, min(count, 64)) // a claim is not yet a fact
		for range count {
			c := d.node(depth + 1)
			if d.err != nil {
				return n
			}
			if len(n.children) > 0 && n.children[len(n.children)-1].name >= c.name {
				d.fail()
				return n
			}
			n.children = append(n.children, c)
		}
	case n.kind != whiteout:
		d.fail()
	}
	return n
}

func (d *decoder) inode() *erofs.Inode {
	if len(d.inodes) == 0 {
		d.inodes = make([]erofs.Inode, min(1024, len(d.s)/4+1))
	}
	i := &d.inodes[0]
	d.inodes = d.inodes[1:]
	i.Mode = uint16(d.uint())
	i.UID, i.GID = uint32(d.uint()), uint32(d.uint())
	i.Sec, i.Nsec = d.int(), uint32(d.uint())
	switch i.Type() {
	case erofs.TypeFile:
		i.Size, i.Block = d.uint(), d.uint()
	case erofs.TypeLink:
		i.Target = d.string()
	case erofs.TypeChar, erofs.TypeBlock:
		i.Major, i.Minor = uint32(d.uint()), uint32(d.uint())
	}
	if n := d.count(); n > 0 {
		for range n {
			if d.err != nil {
				break
			}
			i.Xattrs = append(i.Xattrs, erofs.Xattr{Name: d.string(), Value: d.string()})
		}
	}
	return i
}
