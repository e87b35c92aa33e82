package guest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"

	"github.com/hashicorp/go-multierror"
)

// Guest is one artefact that passed the checks of Find. Its directory is
// resolved, so a `make guest` meanwhile changes neither the files behind the
// paths nor the identity.
type Guest struct {
	Dir          string // absolute
	Kernel       string // the vmlinux that a hypervisor boots directly
	Initramfs    string // holds only the agent, as /init
	Ext4Template string // zstd of the sparse ext4 that scratch disks and volumes begin as
	Digest       string // identity: hex SHA-256 over the files and what they are for

	Manifest Manifest
}

// NotFoundError says where Find looked in vain.
type NotFoundError struct {
	Looked []string
}

func (e *NotFoundError) Error() string {
	return "no guest (the kernel and agent that machines boot): looked in " + strings.Join(e.Looked, ", ") +
		": run `make guest` in the source tree, put a release's guest directory beside the binary, or set STACK_GUEST to it"
}

// Find returns the first guest among
//
//   - $STACK_GUEST, which must then be one,
//   - guest and ../lib/stack/guest beside the running executable,
//   - current in CacheDir, where `make guest` leaves its last result.
//
// It reads the manifest and compares the files' sizes; Verify compares their
// content. A place that holds a broken or foreign guest is an error, never
// passed over: the next place might hold an older one. When no place holds one
// the error is a *NotFoundError.
func Find(getenv func(string) string) (*Guest, error) {
	exe, err := os.Executable()
	if err != nil {
		exe = "" // no place beside it to look in
	}
	return find(getenv, exe)
}

func find(getenv func(string) string, exe string) (*Guest, error) {
	if dir := getenv("STACK_GUEST"); dir != "" {
		g, err := Open(dir)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: STACK_GUEST must name a directory made by `make guest`", err)
		}
		return g, err
	}
	var places []string
	if exe != "" {
		if real, err := filepath.EvalSymlinks(exe); err == nil {
			exe = real
		}
		bin := filepath.Dir(exe)
		places = append(places, filepath.Join(bin, "guest"), filepath.Join(bin, "../lib/stack/guest"))
	}
	if cache, err := CacheDir(getenv); err == nil {
		places = append(places, filepath.Join(cache, "current"))
	}
	for _, dir := range places {
		if _, err := os.Stat(filepath.Join(dir, manifestName)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return Open(dir)
	}
	return nil, &NotFoundError{Looked: places}
}

// CacheDir is where `make guest` keeps what it builds: stack/guest in
// $STACK_GUEST_CACHE, or else in the user's cache directory.
func CacheDir(getenv func(string) string) (string, error) {
	base := getenv("STACK_GUEST_CACHE")
	if base == "" {
		base = getenv("XDG_CACHE_HOME")
	}
	if !filepath.IsAbs(base) { // the XDG specification ignores a relative one
		home := getenv("HOME")
		if home == "" {
			return "", errors.New("finding the guest cache: set HOME, XDG_CACHE_HOME or STACK_GUEST_CACHE")
		}
		base = filepath.Join(home, ".cache")
	}
	return filepath.Join(base, "stack", "guest"), nil
}

// Open checks the guest in dir and returns it.
func Open(dir string) (*Guest, error) {
	g, err := open(dir)
	if err != nil {
		return nil, fmt.Errorf("opening guest %s: %w", dir, err)
	}
	return g, nil
}

func open(dir string) (*Guest, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	m, err := readManifest(filepath.Join(dir, manifestName))
	if err != nil {
		return nil, err
	}
	if arch := HostArch(); m.Arch != arch {
		return nil, fmt.Errorf("it is for %s, this host is %s", m.Arch, arch)
	}
	for name, f := range m.Files {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() || info.Size() != f.Size {
			return nil, fmt.Errorf("%s is not the file of %d bytes that %s lists: run `make guest` again", name, f.Size, manifestName)
		}
	}
	return &Guest{
		Dir:          dir,
		Kernel:       filepath.Join(dir, KernelFile),
		Initramfs:    filepath.Join(dir, InitramfsFile),
		Ext4Template: filepath.Join(dir, Ext4File),
		Digest:       m.Digest,
		Manifest:     m,
	}, nil
}

// HostArch is this host's architecture as guests name it.
func HostArch() string {
	if goruntime.GOARCH == "amd64" {
		return "x86_64"
	}
	return goruntime.GOARCH
}

// Verify reads every file and reports all whose content is not what the
// manifest says.
func (g *Guest) Verify() error {
	var faults *multierror.Error
	for name, want := range g.Manifest.Files {
		got, err := hashFile(filepath.Join(g.Dir, name))
		if err == nil && got != want.SHA256 {
			err = fmt.Errorf("its content is not what %s lists", manifestName)
		}
		if err != nil {
			faults = multierror.Append(faults, fmt.Errorf("verifying %s of guest %s: %w", name, g.Dir, err))
		}
	}
	return faults.ErrorOrNil()
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
