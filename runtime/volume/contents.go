package volume

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/klauspost/compress/zstd"
)

// Contents is what a tar archive of a volume holds: a digest of each entry, so
// that two can be compared without either being kept. Times are left out, and so
// are extended attributes, which not every writer of archives knows.
type Contents struct {
	Bytes   int64               // of all files
	entries map[string][32]byte // by path
}

// Entries is how many there are.
func (c Contents) Entries() int { return len(c.entries) }

// ReadContents reads a tar archive to its end, and what follows it.
// An archive that breaks off is an error.
func ReadContents(from io.Reader) (Contents, error) {
	c := Contents{entries: map[string][32]byte{}}
	r := &tail{r: from}
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return c, fmt.Errorf("reading the archive: %w", err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		sum := sha256.New()
		kind := h.Typeflag
		if kind == tar.TypeGNUSparse {
			kind = tar.TypeReg
		}
		fmt.Fprintf(sum, "%c %o %d:%d %q %d,%d\n", kind, h.Mode&0o7777, h.Uid, h.Gid, h.Linkname, h.Devmajor, h.Devminor)
		n, err := io.Copy(sum, t)
		if err != nil {
			return c, fmt.Errorf("reading %q of the archive: %w", h.Name, err)
		}
		c.Bytes += n
		digest := [32]byte(sum.Sum(nil))
		if h.Typeflag == tar.TypeLink {
			// Another name of a file: which of them an archive has first is up to it.
			first, ok := c.entries[clean(h.Linkname)]
			if !ok {
				return c, fmt.Errorf("reading %q of the archive: it links to %q, which has not come before", h.Name, h.Linkname)
			}
			digest = first
		}
		c.entries[clean(h.Name)] = digest
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return c, fmt.Errorf("reading the archive: %w", err)
	}
	if !bytes.Equal(r.last, make([]byte, endBytes)) {
		return c, errors.New("reading the archive: it breaks off")
	}
	return c, nil
}

// endBytes are the zeros that end a tar archive (POSIX pax, "ustar Interchange
// Format"). Package tar takes any end of its input between two entries, within
// the padding of one too, for the archive's.
const endBytes = 2 * 512

// tail keeps the last bytes that were read.
type tail struct {
	r    io.Reader
	last []byte
}

func (t *tail) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.last = append(t.last, p[max(0, n-endBytes):n]...)
	t.last = t.last[max(0, len(t.last)-endBytes):]
	return n, err
}

func clean(name string) string { return path.Clean("/" + name) }

// In reports the entries that other lacks or has otherwise.
func (c Contents) In(other Contents) error {
	var missing, differing int
	example := ""
	for name, digest := range c.entries {
		got, ok := other.entries[name]
		if ok && got == digest {
			continue
		}
		if ok {
			differing++
		} else {
			missing++
		}
		if example == "" || name < example {
			example = name
		}
	}
	if missing+differing == 0 {
		return nil
	}
	return fmt.Errorf("of %d entries %d are missing and %d differ, %q for one", len(c.entries), missing, differing, example)
}

// Decompress reads r plainly, whether it is compressed with gzip, with zstd or
// not at all. The caller closes what it returns, and r.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	head, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}): // RFC 1952
		return gzip.NewReader(b)
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}): // RFC 8878
		z, err := zstd.NewReader(b)
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(b), nil
}
