package erofs

import (
	"fmt"
	"strings"
)

// BlockSize is the unit of addresses, in bytes: the page size of every machine
// we boot, and the only block size all EROFS kernels since 5.4 accept.
const BlockSize = 4096

// File types in Inode.Mode, as in st_mode of Linux.
const (
	TypeMask   = 0o170000
	TypeFIFO   = 0o010000
	TypeChar   = 0o020000
	TypeDir    = 0o040000
	TypeBlock  = 0o060000
	TypeFile   = 0o100000
	TypeLink   = 0o120000
	TypeSocket = 0o140000
)

// Limits of the format and of the kernel behind it.
const (
	MaxName   = 255  // bytes in one directory entry (NAME_MAX)
	MaxTarget = 4095 // bytes in a symbolic link (PATH_MAX without its NUL)

	MaxMajor = 1<<12 - 1 // device numbers, as Linux packs them into 32 bits
	MaxMinor = 1<<20 - 1

	maxXattrName  = 255          // bytes after the namespace prefix: e_name_len is 8 bits
	maxXattrValue = 1<<16 - 1    // bytes: e_value_size is 16 bits
	maxXattrArea  = 12 + 65534*4 // bytes: i_xattr_icount is 16 bits, in units of 4
)

// Inode is one file of the tree. Hard links are Entries that point to the same
// Inode; a directory has exactly one.
type Inode struct {
	Mode     uint16 // type and permission bits, set-id and sticky bits included
	UID, GID uint32
	Sec      int64  // modification time, seconds since the epoch
	Nsec     uint32 // and its fraction

	Size  uint64 // regular file: bytes
	Block uint64 // regular file: first block of its data, counted from the end of the metadata

	Major, Minor uint32 // device node
	Target       string // symbolic link

	Xattrs  []Xattr // in ascending order of Name
	Entries []Entry // directory: in ascending byte order of Name, without "." and ".."

	index int // its place in the layout of the Write under way
}

// Xattr is one extended attribute, its name with the namespace prefix.
type Xattr struct{ Name, Value string }

// Entry is one name in a directory.
type Entry struct {
	Name  string
	Inode *Inode
}

// Type returns the type bits of the mode.
func (i *Inode) Type() uint16 { return i.Mode & TypeMask }

// The namespaces EROFS can express, with their number on disk. The two ACL
// names are complete: nothing follows the prefix.
var xattrPrefixes = []struct {
	prefix string
	index  byte
	whole  bool
}{
	{"user.", 1, false},
	{"system.posix_acl_access", 2, true},
	{"system.posix_acl_default", 3, true},
	{"trusted.", 4, false},
	{"security.", 6, false},
}

// splitXattr returns the number of the name's namespace and what follows it.
func splitXattr(name string) (index byte, suffix string, ok bool) {
	for _, p := range xattrPrefixes {
		if rest, found := strings.CutPrefix(name, p.prefix); found && p.whole == (rest == "") {
			return p.index, rest, true
		}
	}
	return 0, "", false
}

// CheckXattr says why the format cannot hold an attribute, or returns nil.
// supported is false when only its namespace is at fault: Linux answers
// ENOTSUP for such a name on most file systems, and an unpacker goes on
// without the attribute.
func CheckXattr(x Xattr) (supported bool, err error) {
	_, suffix, ok := splitXattr(x.Name)
	switch {
	case !ok:
		return false, fmt.Errorf("extended attribute %q: unknown namespace", x.Name)
	case len(suffix) > maxXattrName:
		return true, fmt.Errorf("extended attribute %.40q…: name of %d bytes, at most %d are possible", x.Name, len(suffix), maxXattrName)
	case len(x.Value) > maxXattrValue:
		return true, fmt.Errorf("extended attribute %q: value of %d bytes, at most %d are possible", x.Name, len(x.Value), maxXattrValue)
	}
	return true, nil
}

// CheckXattrs says why the format cannot hold the attributes of one inode
// together, or returns nil.
func CheckXattrs(xs []Xattr) error {
	_, err := xattrArea(xs)
	return err
}

// xattrArea returns the bytes the attributes take behind the inode.
func xattrArea(xs []Xattr) (int, error) {
	if len(xs) == 0 {
		return 0, nil
	}
	n := xattrHeaderSize
	for _, x := range xs {
		if _, err := CheckXattr(x); err != nil {
			return 0, err
		}
		_, suffix, _ := splitXattr(x.Name)
		n += align(xattrEntrySize+len(suffix)+len(x.Value), 4)
	}
	if n > maxXattrArea {
		return 0, fmt.Errorf("extended attributes of %d bytes, at most %d are possible", n, maxXattrArea)
	}
	return n, nil
}

// check says why the inode cannot be written, or returns nil.
func (i *Inode) check() error {
	switch i.Type() {
	case TypeDir:
		prev := ""
		for _, e := range i.Entries {
			switch {
			case e.Name == "" || e.Name == "." || e.Name == ".." || strings.ContainsAny(e.Name, "/\x00"):
				return fmt.Errorf("name %q: not a file name", e.Name)
			case len(e.Name) > MaxName:
				return fmt.Errorf("name %.40q…: %d bytes, at most %d are possible", e.Name, len(e.Name), MaxName)
			case e.Name <= prev:
				return fmt.Errorf("name %q: follows %q, but entries are unique and in byte order", e.Name, prev)
			case e.Inode == nil:
				return fmt.Errorf("name %q: without an inode", e.Name)
			}
			prev = e.Name
		}
	case TypeLink:
		if len(i.Target) == 0 || len(i.Target) > MaxTarget || strings.Contains(i.Target, "\x00") {
			return fmt.Errorf("link target of %d bytes, 1 to %d without NUL are possible", len(i.Target), MaxTarget)
		}
	case TypeChar, TypeBlock:
		if i.Major > MaxMajor || i.Minor > MaxMinor {
			return fmt.Errorf("device %d:%d: at most %d:%d is possible", i.Major, i.Minor, MaxMajor, MaxMinor)
		}
	case TypeFile:
		if i.Size > 1<<63-1 {
			return fmt.Errorf("size of %d bytes", i.Size)
		}
	case TypeFIFO, TypeSocket:
	default:
		return fmt.Errorf("mode %#o: unknown file type", i.Mode)
	}
	if i.Nsec >= 1e9 {
		return fmt.Errorf("modification time with %d nanoseconds", i.Nsec)
	}
	return nil
}

func align[T int | int64 | uint64](n, unit T) T { return (n + unit - 1) / unit * unit }
