package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// version is that of the store's files. A newer one is refused, untouched.
const version = 1

// readJSON reads a file of ours into v, which embeds header or has its field.
func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var header struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &header); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if header.Version != version {
		return fmt.Errorf("%s: written by another version of stack (format %d, this one knows %d): use that one", path, header.Version, version)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// writeJSON replaces a file of ours.
func (s *Store) writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.writeFile(path, append(b, '\n'))
}

func (s *Store) writeFile(path string, b []byte) error {
	return s.create(path, func(f *os.File) error {
		_, err := f.Write(b)
		return err
	})
}

// create makes path of what fill writes, or leaves everything as it was. When it
// returns without error the file survives a crash.
func (s *Store) create(path string, fill func(*os.File) error) error {
	f, err := os.CreateTemp(s.path("tmp"), filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, remove(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// readAtMost reads r to its end, of at most limit bytes.
func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	return b, err
}
