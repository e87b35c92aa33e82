package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Format is the version of every file written here. It rises when an older
// program would misread a newer file; a field that may be ignored does not
// raise it.
const Format = 1

// maxFile bounds what is read of one state file, in bytes. The largest is a
// resolved.json with the configs and secrets of a replica.
const maxFile = 96 << 20

// NewerError is returned for a file that a newer program has written.
type NewerError struct {
	Path   string
	Format int
}

func (e *NewerError) Error() string {
	return fmt.Sprintf("%s was written by a newer stack (format %d, this one reads %d): use that version, nothing was changed", e.Path, e.Format, Format)
}

// encode puts the format beside v's own fields.
func encode(v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	head := fmt.Appendf(nil, `{"format":%d`, Format)
	if !bytes.Equal(body, []byte("{}")) {
		head = append(head, ',')
	}
	return append(append(head, body[1:]...), '\n'), nil
}

// decode reads what encode wrote.
func decode(text []byte, path string, v any) error {
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	switch {
	case head.Format > Format:
		return &NewerError{Path: path, Format: head.Format}
	case head.Format < 1:
		return fmt.Errorf("reading %s: it names no format", path)
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

func readFile(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	if len(text) > maxFile {
		return fmt.Errorf("reading %s: it is larger than %d MiB", path, maxFile>>20)
	}
	return decode(text, path, v)
}

// writeFile replaces path by v's encoding: whoever reads sees the old file or
// the new one, also after a power cut.
func writeFile(path string, v any) (err error) {
	text, err := encode(v)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, tmpPrefix+"*") // mode 0600
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return syncDir(dir)
}

// tmpPrefix starts the names of files not yet in place.
const tmpPrefix = ".tmp-"

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	err = errors.Join(d.Sync(), d.Close())
	if err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	return nil
}

// removeFile removes path; that it is not there is no error.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
