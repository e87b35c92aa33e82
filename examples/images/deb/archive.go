package deb

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// ar header layout: name 16, mtime 12, uid 6, gid 6, mode 8, size 10, then two magic bytes.
const (
	arMagic      = "!<arch>\n"
	arHeaderSize = 60
)

// archive reads the members of an ar archive of the simple kind deb(5) allows: short
// names, decimal sizes.
type archive struct {
	r    io.Reader
	body *io.LimitedReader // what is left of the current member
	pad  bool              // one byte follows the current member
}

func newArchive(r io.Reader) (*archive, error) {
	magic := make([]byte, len(arMagic))
	if _, err := io.ReadFull(r, magic); err != nil {
		return nil, fmt.Errorf("%w: reading the ar magic: %w", ErrFormat, noEOF(err))
	}
	if string(magic) != arMagic {
		return nil, fmt.Errorf("%w: it does not start with the ar magic", ErrFormat)
	}
	return &archive{r: r, body: &io.LimitedReader{R: r}}, nil
}

// next skips what is left of the current member and returns the next; io.EOF after the last.
func (a *archive) next() (string, io.Reader, error) {
	skip := a.body.N
	if a.pad {
		skip++
	}
	if n, err := io.CopyN(io.Discard, a.r, skip); err != nil {
		// Some writers leave out the padding after the last member.
		if errors.Is(err, io.EOF) && a.pad && n == skip-1 {
			return "", nil, io.EOF
		}
		return "", nil, fmt.Errorf("%w: skipping the rest of a member: %w", ErrFormat, noEOF(err))
	}
	header := make([]byte, arHeaderSize)
	if _, err := io.ReadFull(a.r, header); errors.Is(err, io.EOF) {
		a.body.N, a.pad = 0, false
		return "", nil, io.EOF
	} else if err != nil {
		return "", nil, fmt.Errorf("%w: reading a member's header: %w", ErrFormat, err)
	}
	if !bytes.Equal(header[58:], []byte("`\n")) {
		return "", nil, fmt.Errorf("%w: a member's header does not end as it must", ErrFormat)
	}
	size, err := strconv.ParseUint(strings.TrimRight(string(header[48:58]), " "), 10, 40)
	if err != nil {
		return "", nil, fmt.Errorf("%w: a member's size is %q", ErrFormat, header[48:58])
	}
	name := strings.TrimRight(string(header[:16]), " ")
	name = strings.TrimSuffix(name, "/") // as GNU ar writes it
	a.body.N, a.pad = int64(size), size%2 == 1
	return name, a.body, nil
}

// noEOF keeps the end of the input from passing for a regular end.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
