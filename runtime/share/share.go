package share

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// FileName is the only entry of a share that is a single file.
const FileName = "file"

// Share is one host directory or file.
type Share struct {
	Name     string `json:"name"` // by which the machine opens it
	Path     string `json:"path"` // on the host, absolute; a link is followed once, when the server starts
	ReadOnly bool   `json:"readOnly,omitempty"`
}

// errName is for names that cannot cross the wire.
var errName = errors.New("a share needs a name of 1 to 255 bytes")

func (s Share) check() error {
	switch {
	case s.Name == "" || len(s.Name) > 255:
		return errName
	case !filepath.IsAbs(s.Path):
		return fmt.Errorf("share %s: %q is not an absolute path", s.Name, s.Path)
	}
	info, err := os.Stat(s.Path)
	if err != nil {
		return fmt.Errorf("share %s: %w", s.Name, err)
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return fmt.Errorf("share %s: %s is neither a directory nor a regular file", s.Name, s.Path)
	}
	return nil
}
