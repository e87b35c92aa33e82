package erofs

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"sort"
)

// Sizes and offsets on disk, in bytes: fs/erofs/erofs_fs.h of Linux.
const (
	superOffset     = 1024
	superSize       = 128
	inodeSize       = 64 // the extended inode: 32-bit ids and a time of its own
	inodeSlot       = 32 // a nid counts these
	xattrHeaderSize = 12
	xattrEntrySize  = 4
	direntSize      = 12

	magic          = 0xE0F5E1E2
	compatChecksum = 1 << 0
	compatMtime    = 1 << 1

	layoutPlain  = 0 // data in whole blocks
	layoutInline = 2 // the last, partial block of data follows the inode

	noBlock = math.MaxUint32
)

// maxInline is the largest tail kept behind its inode. A tail must not cross a
// block boundary, so a larger one would cost more padding before the inode than
// the block of its own it gets instead.
const maxInline = BlockSize / 2

// Write writes the metadata image of the tree below root to w and returns its
// length in bytes, a multiple of BlockSize. dataBlocks is the number of blocks
// that will follow it on the device; every file must lie within them.
//
// Equal trees give equal bytes. Write sets unexported fields of the inodes, so
// one tree must not be written twice at the same time; otherwise it is left as
// it is.
func Write(w io.Writer, root *Inode, dataBlocks uint64) (int64, error) {
	l, err := newLayout(root)
	if err != nil {
		return 0, err
	}
	total := uint64(l.blocks) + dataBlocks
	if total >= noBlock || dataBlocks >= noBlock {
		return 0, fmt.Errorf("%d blocks of metadata and %d of data: a disk holds fewer than 2^32", l.blocks, dataBlocks)
	}
	out := &output{w: bufio.NewWriterSize(w, 64<<10)}
	out.zero(superOffset)
	out.write(l.superblock(total))
	for i := range l.files {
		f := &l.files[i]
		out.zero(int(f.offset - out.n))
		head, err := f.head(uint64(l.blocks), dataBlocks)
		if err != nil {
			return 0, err
		}
		out.write(head)
		if f.inline {
			out.write(l.ownBlock(f, len(f.cuts)))
		}
	}
	for i := range l.files {
		f := &l.files[i]
		for n := range int(f.ownBlocks) {
			out.zero(int((int64(f.startBlock)+int64(n))*BlockSize - out.n))
			out.write(l.ownBlock(f, n))
		}
	}
	out.zero(int(int64(l.blocks)*BlockSize - out.n))
	return out.n, out.flush()
}

// layout is where everything goes: inodes in breadth-first order, each with its
// attributes and perhaps its tail; then the whole blocks of directories and
// long links.
type layout struct {
	files  []file
	blocks uint32 // of metadata
}

// file is one inode with its place.
type file struct {
	*Inode
	parent *Inode // of a directory
	nlink  uint32

	offset    int64 // of the inode in the image
	xattrSize int
	inline    bool // the last partial block of its own data follows the inode

	// What a directory or a link keeps in the image itself.
	size       int64
	ownBlocks  uint32
	startBlock uint32
	cuts       []int // directory: number of the first entry of each block after the first
}

func newLayout(root *Inode) (*layout, error) {
	if root.Type() != TypeDir {
		return nil, fmt.Errorf("root of mode %#o: must be a directory", root.Mode)
	}
	l := &layout{}
	add := func(i, parent *Inode) *file {
		i.index = len(l.files)
		l.files = append(l.files, file{Inode: i, parent: parent})
		return &l.files[i.index]
	}
	known := func(i *Inode) bool {
		return i.index >= 0 && i.index < len(l.files) && l.files[i.index].Inode == i
	}
	add(root, root).nlink = 2
	for n := 0; n < len(l.files); n++ {
		i := l.files[n].Inode
		if err := i.check(); err != nil {
			return nil, err
		}
		if i.Type() != TypeDir {
			continue
		}
		for _, e := range i.Entries {
			switch dir := e.Inode.Type() == TypeDir; {
			case dir && known(e.Inode):
				return nil, fmt.Errorf("name %q: a second link to a directory", e.Name)
			case dir:
				add(e.Inode, i).nlink = 2
				l.files[n].nlink++
			case known(e.Inode):
				l.files[e.Inode.index].nlink++
			default:
				add(e.Inode, i).nlink = 1
			}
		}
	}

	pos := int64(superOffset + superSize)
	for n := range l.files {
		if err := l.files[n].place(&pos); err != nil {
			return nil, err
		}
	}
	block := (pos + BlockSize - 1) / BlockSize
	for n := range l.files {
		f := &l.files[n]
		if f.ownBlocks > 0 {
			f.startBlock = uint32(block)
			block += int64(f.ownBlocks)
		}
	}
	if block >= noBlock {
		return nil, fmt.Errorf("%d blocks of metadata: a disk holds fewer than 2^32", block)
	}
	l.blocks = uint32(block)
	return l, nil
}

// place gives the inode its offset at or after *pos and advances *pos behind it.
func (f *file) place(pos *int64) error {
	var err error
	if f.xattrSize, err = xattrArea(f.Xattrs); err != nil {
		return err
	}
	switch f.Type() {
	case TypeDir:
		f.cutDirectory()
	case TypeLink:
		f.size = int64(len(f.Target))
	}
	tail := int(f.size % BlockSize)
	f.inline = tail > 0 && tail <= maxInline && inodeSize+f.xattrSize+tail <= BlockSize
	f.ownBlocks = uint32(f.size / BlockSize)
	if tail > 0 && !f.inline {
		f.ownBlocks++
	}

	// Kernels have read an inode or a short link across a block boundary in
	// different ways; inside one block there is nothing to get wrong. Only
	// attributes too large for that may run on.
	need := inodeSize
	if f.inline {
		need += f.xattrSize + tail
	} else if inodeSize+f.xattrSize <= BlockSize {
		need += f.xattrSize
	}
	*pos = align(*pos, inodeSlot)
	if left := BlockSize - *pos%BlockSize; int64(need) > left {
		*pos += left
	}
	f.offset = *pos
	*pos += int64(inodeSize + f.xattrSize)
	if f.inline {
		*pos += int64(tail)
	}
	return nil
}

// dirents calls fn for every entry from the from-th on, "." and ".." at their
// place in byte order, until fn returns false.
func (f *file) dirents(from int, fn func(n int, name string, i *Inode) bool) {
	before := func(name string) int { // entries in front of name
		return sort.Search(len(f.Entries), func(k int) bool { return f.Entries[k].Name >= name })
	}
	dot, dotdot := before("."), before("..")+1
	for n := from; n < len(f.Entries)+2; n++ {
		name, i := ".", f.Inode
		switch {
		case n < dot:
			name, i = f.Entries[n].Name, f.Entries[n].Inode
		case n == dot:
		case n < dotdot:
			name, i = f.Entries[n-1].Name, f.Entries[n-1].Inode
		case n == dotdot:
			name, i = "..", f.parent
		default:
			name, i = f.Entries[n-2].Name, f.Entries[n-2].Inode
		}
		if !fn(n, name, i) {
			return
		}
	}
}

// cutDirectory decides which entries share a block, and so the directory's size.
func (f *file) cutDirectory() {
	used := 0
	f.dirents(0, func(n int, name string, _ *Inode) bool {
		need := direntSize + len(name)
		if used+need > BlockSize {
			f.cuts = append(f.cuts, n)
			used = 0
		}
		used += need
		return true
	})
	f.size = int64(len(f.cuts))*BlockSize + int64(used)
}

// head encodes the inode and its attributes. metaBlocks come before the data
// blocks on the device.
func (f *file) head(metaBlocks, dataBlocks uint64) ([]byte, error) {
	b := make([]byte, inodeSize+f.xattrSize)
	le := binary.LittleEndian
	format := uint16(1 | layoutPlain<<1)
	if f.inline {
		format = 1 | layoutInline<<1
	}
	le.PutUint16(b[0:], format)
	if f.xattrSize > 0 {
		le.PutUint16(b[2:], uint16((f.xattrSize-xattrHeaderSize)/xattrEntrySize)+1)
	}
	le.PutUint16(b[4:], f.Mode)
	size, where := uint64(f.size), uint32(noBlock)
	switch f.Type() {
	case TypeFile:
		size = f.Size
		if blocks := (size + BlockSize - 1) / BlockSize; blocks > 0 {
			if f.Block > dataBlocks || blocks > dataBlocks-f.Block {
				return nil, fmt.Errorf("file of %d bytes at block %d: there are %d blocks of data", size, f.Block, dataBlocks)
			}
			where = uint32(metaBlocks + f.Block)
		}
	case TypeChar, TypeBlock:
		where = f.Minor&0xff | f.Major<<8 | (f.Minor&^0xff)<<12 // new_encode_dev of Linux
	case TypeDir, TypeLink:
		if f.ownBlocks > 0 {
			where = f.startBlock
		}
	default:
		where = 0
	}
	le.PutUint64(b[8:], size)
	le.PutUint32(b[16:], where)
	le.PutUint32(b[20:], uint32(f.index)+1) // st_ino where 32 bits must do
	le.PutUint32(b[24:], f.UID)
	le.PutUint32(b[28:], f.GID)
	le.PutUint64(b[32:], uint64(f.Sec))
	le.PutUint32(b[40:], f.Nsec)
	le.PutUint32(b[44:], f.nlink)

	x := b[inodeSize:]
	if len(x) > 0 {
		x = x[xattrHeaderSize:] // no name filter, nothing shared
	}
	for _, a := range f.Xattrs {
		index, suffix, _ := splitXattr(a.Name)
		x[0], x[1] = byte(len(suffix)), index
		le.PutUint16(x[2:], uint16(len(a.Value)))
		copy(x[xattrEntrySize:], suffix)
		copy(x[xattrEntrySize+len(suffix):], a.Value)
		x = x[align(xattrEntrySize+len(suffix)+len(a.Value), 4):]
	}
	return b, nil
}

// ownBlock encodes the n-th block of what a directory or a link keeps in the
// image. A directory's block is its entries, then their names.
func (l *layout) ownBlock(f *file, n int) []byte {
	if f.Type() == TypeLink {
		return []byte(f.Target)
	}
	first, end := 0, len(f.Entries)+2
	if n > 0 {
		first = f.cuts[n-1]
	}
	if n < len(f.cuts) {
		end = f.cuts[n]
	}
	b := make([]byte, direntSize*(end-first), BlockSize)
	f.dirents(first, func(k int, name string, i *Inode) bool {
		if k == end {
			return false
		}
		d := b[direntSize*(k-first):]
		binary.LittleEndian.PutUint64(d[0:], uint64(l.files[i.index].offset/inodeSlot)) // nid
		binary.LittleEndian.PutUint16(d[8:], uint16(len(b)))
		d[10] = direntType(i.Type())
		b = append(b, name...)
		return true
	})
	return b
}

// direntType is the file type as directory entries number it (FT_* of Linux).
func direntType(mode uint16) byte {
	switch mode {
	case TypeFile:
		return 1
	case TypeDir:
		return 2
	case TypeChar:
		return 3
	case TypeBlock:
		return 4
	case TypeFIFO:
		return 5
	case TypeSocket:
		return 6
	default:
		return 7 // a link
	}
}

// superblock encodes the superblock but for its checksum.
func (l *layout) superblock(total uint64) []byte {
	b := make([]byte, superSize)
	le := binary.LittleEndian
	le.PutUint32(b[0:], magic)
	le.PutUint32(b[8:], compatChecksum|compatMtime)
	b[12] = 12 // log2 of BlockSize
	le.PutUint16(b[14:], uint16(l.files[0].offset/inodeSlot))
	le.PutUint64(b[16:], uint64(len(l.files)))
	le.PutUint32(b[36:], uint32(total))
	// Inode numbers count from block 0, no attribute is shared; times are the
	// inodes' own, and neither a UUID nor a build time makes two writes differ.
	return b
}

// output counts what is written and holds the first block back until it is
// whole, for its checksum.
type output struct {
	w    *bufio.Writer
	n    int64
	head []byte
	err  error
}

func (o *output) write(b []byte) {
	o.n += int64(len(b))
	if room := BlockSize - len(o.head); room > 0 {
		k := min(room, len(b))
		o.head = append(o.head, b[:k]...)
		b = b[k:]
		if len(o.head) == BlockSize {
			// The kernel's crc32c lacks the final inversion of Go's.
			sum := ^crc32.Checksum(o.head[superOffset:], castagnoli)
			binary.LittleEndian.PutUint32(o.head[superOffset+4:], sum)
			_, o.err = o.w.Write(o.head)
		}
	}
	if o.err == nil && len(b) > 0 {
		_, o.err = o.w.Write(b)
	}
}

func (o *output) zero(n int) {
	for n > 0 {
		k := min(n, BlockSize)
		o.write(zeroes[:k])
		n -= k
	}
}

// flush ends the output, whose length is a multiple of BlockSize.
func (o *output) flush() error {
	if o.err != nil {
		return o.err
	}
	return o.w.Flush()
}

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	zeroes     [BlockSize]byte
)
