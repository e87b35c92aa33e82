package volume

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
)

// Template is the empty ext4 file system that disks are cloned from: compressed
// in the guest artefact, expanded once into a cache.
type Template struct {
	find  func() (compressed, digest string, err error)
	cache string
}

// NewTemplate returns the template whose compressed image find returns, with the
// digest of the guest artefact. It is expanded into cacheDir at the first Clone.
func NewTemplate(find func() (compressed, digest string, err error), cacheDir string) *Template {
	return &Template{find: find, cache: cacheDir}
}

// Clone makes a disk of bytes at path, which must not exist: the template with a
// UUID of its own, followed by a hole. The machine's agent grows the file system
// into it. The disk is synced before Clone returns.
func (t *Template) Clone(path string, bytes int64) (err error) {
	from, err := t.open()
	if err != nil {
		return err
	}
	defer from.Close()
	info, err := from.Stat()
	if err != nil {
		return err
	}
	if bytes%512 != 0 || bytes < info.Size() {
		return fmt.Errorf("a disk of %d bytes is not possible: at least %d, and a multiple of 512", bytes, info.Size())
	}
	to, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, to.Close())
		if err != nil {
			os.Remove(path)
		}
	}()
	if err := cloneSparse(to, from, info.Size()); err != nil {
		return fmt.Errorf("copying the file system template: %w", err)
	}
	if err := to.Truncate(bytes); err != nil {
		return err
	}
	if err := setUUID(to); err != nil {
		return err
	}
	return to.Sync()
}

// open returns the expanded template, expanding it when it is not there. Two
// processes may do so at once: each renames a whole one into place.
func (t *Template) open() (*os.File, error) {
	compressed, digest, err := t.find()
	if err != nil {
		return nil, err
	}
	expanded := filepath.Join(t.cache, "ext4-"+digest+".img")
	f, err := os.Open(expanded)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	if err := expand(compressed, expanded); err != nil {
		return nil, fmt.Errorf("expanding the file system template %s: %w", compressed, err)
	}
	return os.Open(expanded)
}

// maxTemplate bounds what the compressed template may expand to.
const maxTemplate = 4 << 30

func expand(compressed, expanded string) (err error) {
	if err := os.MkdirAll(filepath.Dir(expanded), 0o700); err != nil {
		return err
	}
	in, err := os.Open(compressed)
	if err != nil {
		return err
	}
	defer in.Close()
	z, err := zstd.NewReader(in)
	if err != nil {
		return err
	}
	defer z.Close()
	out, err := os.CreateTemp(filepath.Dir(expanded), ".ext4-*")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name()) // fails after the rename, as it should
	defer func() { err = errors.Join(err, out.Close()) }()
	size, err := writeSparse(out, z)
	if err != nil {
		return err
	}
	if err := out.Truncate(size); err != nil {
		return err
	}
	if err := out.Sync(); err != nil {
		return err
	}
	if err := os.Rename(out.Name(), expanded); err != nil {
		return err
	}
	return syncPath(filepath.Dir(expanded))
}

// writeSparse writes r to out, leaving holes where whole blocks are zero.
func writeSparse(out *os.File, r io.Reader) (size int64, err error) {
	const block = 64 << 10
	buf, zero := make([]byte, block), make([]byte, block)
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 && string(buf[:n]) != string(zero[:n]) {
			if _, err := out.WriteAt(buf[:n], size); err != nil {
				return size, err
			}
		}
		size += int64(n)
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return size, nil
		case err != nil:
			return size, err
		case size > maxTemplate:
			return size, fmt.Errorf("more than %d bytes", int64(maxTemplate))
		}
	}
}

// Places in an ext4 superblock, which starts at byte 1024 (kernel
// documentation, filesystems/ext4, "The Super Block").
const (
	superblockAt  = 1024
	superblockLen = 1024
	magicAt       = 0x38
	incompatAt    = 0x60
	roCompatAt    = 0x64
	uuidAt        = 0x68
	checksumAt    = 0x3fc

	ext4Magic           = 0xef53
	featureMetadataCsum = 0x400  // of s_feature_ro_compat
	featureChecksumSeed = 0x2000 // of s_feature_incompat
)

// setUUID gives a clone an identity of its own. Checksums of all other metadata
// start from the seed in the superblock, not the UUID (metadata_csum_seed), so
// that only the superblock's own has to be made anew.
func setUUID(disk *os.File) error {
	sb := make([]byte, superblockLen)
	if _, err := disk.ReadAt(sb, superblockAt); err != nil {
		return fmt.Errorf("reading the file system template's superblock: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint16(sb[magicAt:]) != ext4Magic {
		return errors.New("the file system template is not ext4")
	}
	checksummed := le.Uint32(sb[roCompatAt:])&featureMetadataCsum != 0
	if checksummed && le.Uint32(sb[incompatAt:])&featureChecksumSeed == 0 {
		return errors.New("the file system template lacks metadata_csum_seed: its UUID cannot be changed")
	}
	uuid := sb[uuidAt : uuidAt+16]
	rand.Read(uuid)               // never fails, see crypto/rand
	uuid[6] = uuid[6]&0x0f | 0x40 // version 4, RFC 9562
	uuid[8] = uuid[8]&0x3f | 0x80 // its variant
	if checksummed {
		// The kernel's crc32c has no final inversion, Go's does.
		le.PutUint32(sb[checksumAt:], ^crc32.Checksum(sb[:checksumAt], crc32.MakeTable(crc32.Castagnoli)))
	}
	if _, err := disk.WriteAt(sb, superblockAt); err != nil {
		return fmt.Errorf("writing the disk's superblock: %w", err)
	}
	return nil
}
