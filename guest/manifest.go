package guest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// The files of a guest, beside the manifest that lists them.
const (
	KernelFile    = "vmlinux"
	ConfigFile    = "config" // the kernel's final .config
	InitramfsFile = "initramfs"
	Ext4File      = "ext4.img.zst"

	manifestName = "guest.json"
)

// schema is the manifest format this binary reads; it changes when a file is
// added or its meaning changes, not when a new field may be ignored.
const schema = 1

// maxManifest bounds what is read of a guest.json, in bytes.
const maxManifest = 64 << 10

// Manifest is guest.json.
type Manifest struct {
	Schema   int             `json:"schema"`
	Arch     string          `json:"arch"`     // x86_64 or arm64
	Kernel   string          `json:"kernel"`   // release, as uname -r inside says
	Fragment string          `json:"fragment"` // hex SHA-256 of the config fragment it was built from
	Agent    string          `json:"agent"`    // hex SHA-256 of the agent binary
	Ext4Size int64           `json:"ext4Size"` // bytes of the template once expanded
	Files    map[string]File `json:"files"`
	Digest   string          `json:"digest"`
}

// File is a file of a guest.
type File struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Write lists the files of dir in dir/guest.json, filling in m's Schema, Files
// and Digest.
func (m *Manifest) Write(dir string) error {
	m.Schema = schema
	m.Files = map[string]File{}
	for _, name := range files() {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("listing the guest: %w", err)
		}
		sum, err := hashFile(path)
		if err != nil {
			return fmt.Errorf("listing the guest: %w", err)
		}
		m.Files[name] = File{Size: info.Size(), SHA256: sum}
	}
	m.Digest = m.digest()
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, manifestName), append(text, '\n'), 0o644)
}

func files() []string { return []string{ConfigFile, Ext4File, InitramfsFile, KernelFile} }

// digest is the identity of a guest with these contents: everything but how it
// came about.
func (m *Manifest) digest() string {
	h := sha256.New()
	fmt.Fprintf(h, "stack guest %d %q %d\n", m.Schema, m.Arch, m.Ext4Size)
	for _, name := range slices.Sorted(maps.Keys(m.Files)) {
		fmt.Fprintf(h, "%q %d %q\n", name, m.Files[name].Size, m.Files[name].SHA256)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func readManifest(path string) (Manifest, error) {
	f, err := os.Open(path)
	if err != nil {
		return Manifest{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return Manifest{}, err
	}
	return parseManifest(text)
}

func parseManifest(text []byte) (Manifest, error) {
	if len(text) > maxManifest {
		return Manifest{}, fmt.Errorf("reading %s: it is larger than %d bytes", manifestName, maxManifest)
	}
	var m Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return Manifest{}, fmt.Errorf("reading %s: %w", manifestName, err)
	}
	if m.Schema != schema {
		return Manifest{}, fmt.Errorf("its format is %d, this stack reads %d: use the guest of the same release, or run `make guest`", m.Schema, schema)
	}
	if names := slices.Sorted(maps.Keys(m.Files)); !slices.Equal(names, files()) {
		return Manifest{}, fmt.Errorf("reading %s: it lists the files %q, not %q", manifestName, names, files())
	}
	if m.Ext4Size <= 0 {
		return Manifest{}, fmt.Errorf("reading %s: the size of the ext4 template is %d", manifestName, m.Ext4Size)
	}
	if m.Digest != m.digest() {
		return Manifest{}, errors.New("reading " + manifestName + ": its digest does not belong to its files")
	}
	return m, nil
}
