package deb

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

const (
	// maxControl bounds the unpacked control archive; the largest in Debian 12 is
	// below 2 MiB.
	maxControl = 16 << 20
	// maxData bounds the unpacked data archive: far above any package an image here
	// is made of, and low enough that a bomb does not fill the memory.
	maxData = 2 << 30
	// maxWindow bounds the decoder's dictionary. dpkg-deb's -9 uses 64 MiB.
	maxWindow = 64 << 20
)

// ErrFormat is in the chain of every error caused by the bytes of a package.
var ErrFormat = errors.New("not a valid Debian package")

// Control holds the fields of a package's control file, by name as written there.
// A field of several lines keeps its line breaks.
type Control map[string]string

// Read reads one package from r and calls visit for each entry of its data archive, in
// the archive's order; body is valid during the call only. Names and link targets reach
// visit as the archive has them. The first error of visit ends Read and is returned as it is.
func Read(r io.Reader, visit func(h *tar.Header, body io.Reader) error) (Control, error) {
	members, err := newArchive(r)
	if err != nil {
		return nil, err
	}
	name, body, err := members.next()
	if err != nil {
		return nil, fmt.Errorf("reading the first member: %w", noEOF(err))
	}
	if name != "debian-binary" {
		return nil, fmt.Errorf("%w: first member is %q, not debian-binary", ErrFormat, name)
	}
	version, err := io.ReadAll(io.LimitReader(body, 64))
	if err != nil {
		return nil, fmt.Errorf("reading the format version: %w", err)
	}
	if !bytes.HasPrefix(version, []byte("2.")) {
		return nil, fmt.Errorf("%w: format version %q, want 2.x", ErrFormat, version)
	}

	var control Control
	for {
		name, body, err := members.next()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%w: it has no data archive", ErrFormat)
		} else if err != nil {
			return nil, err
		}
		switch {
		case strings.HasPrefix(name, "_"): // deb(5): such members may come anywhere and are skipped
		case control == nil:
			if control, err = readControl(name, body); err != nil {
				return nil, err
			}
		default:
			if err := readData(name, body, visit); err != nil {
				return nil, err
			}
			return control, nil
		}
	}
}

func readControl(name string, body io.Reader) (Control, error) {
	plain, err := decompress(name, "control.tar", body, maxControl)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	archive := tar.NewReader(plain)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%w: %s has no file named control", ErrFormat, name)
		} else if err != nil {
			return nil, fmt.Errorf("%w: reading %s: %w", ErrFormat, name, err)
		}
		if strings.TrimPrefix(h.Name, "./") != "control" || h.Typeflag != tar.TypeReg {
			continue
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			return nil, fmt.Errorf("%w: reading %s: %w", ErrFormat, name, err)
		}
		return parseControl(text)
	}
}

func parseControl(text []byte) (Control, error) {
	control := Control{}
	last := ""
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxControl)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimRight(lines.Text(), " \t\r")
		switch {
		case line == "":
			last = ""
		case line[0] == ' ' || line[0] == '\t':
			if last == "" {
				return nil, fmt.Errorf("%w: control:%d continues no field", ErrFormat, n)
			}
			control[last] += "\n" + line[1:]
		default:
			key, value, ok := strings.Cut(line, ":")
			if !ok || key == "" || strings.ContainsAny(key, " \t") {
				return nil, fmt.Errorf("%w: control:%d is no field: %q", ErrFormat, n, line)
			}
			if _, twice := control[key]; twice {
				return nil, fmt.Errorf("%w: control:%d repeats field %s", ErrFormat, n, key)
			}
			control[key], last = strings.TrimSpace(value), key
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%w: reading control: %w", ErrFormat, err)
	}
	if control["Package"] == "" {
		return nil, fmt.Errorf("%w: control names no Package", ErrFormat)
	}
	return control, nil
}

func readData(name string, body io.Reader, visit func(h *tar.Header, body io.Reader) error) error {
	plain, err := decompress(name, "data.tar", body, maxData)
	if err != nil {
		return err
	}
	defer plain.Close()
	archive := tar.NewReader(plain)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("%w: reading %s: %w", ErrFormat, name, err)
		}
		if err := visit(h, archive); err != nil {
			return err
		}
	}
}

// decompress returns the plain bytes of the member called name, which must be want with
// the suffix of a compression deb(5) knows, and fails once they exceed limit.
func decompress(name, want string, body io.Reader, limit int64) (io.ReadCloser, error) {
	suffix, ok := strings.CutPrefix(name, want)
	if !ok {
		return nil, fmt.Errorf("%w: found member %q where %s should be", ErrFormat, name, want)
	}
	var (
		plain io.Reader
		closr = func() error { return nil }
		err   error
	)
	switch suffix {
	case "":
		plain = body
	case ".gz":
		plain, err = gzip.NewReader(body)
	case ".bz2":
		plain = bzip2.NewReader(body)
	case ".xz":
		plain, err = xz.ReaderConfig{DictCap: maxWindow}.NewReader(bufio.NewReaderSize(body, 64<<10))
	case ".zst":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow)); err == nil {
			plain, closr = z, func() error { z.Close(); return nil }
		}
	default:
		return nil, fmt.Errorf("%w: member %q has an unknown compression", ErrFormat, name)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: opening %s: %w", ErrFormat, name, err)
	}
	return &bounded{r: plain, left: limit, name: name, close: closr}, nil
}

// bounded fails, rather than ending early, when more than left bytes are read.
type bounded struct {
	r     io.Reader
	left  int64
	name  string
	close func() error
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("%w: %s is larger unpacked than any package may be", ErrFormat, b.name)
	}
	return n, err
}

func (b *bounded) Close() error { return b.close() }
