package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Errors that callers branch on.
var (
	// ErrNotFound: there is no volume of that name.
	ErrNotFound = errors.New("no such volume")
	// ErrExists: there is one already.
	ErrExists = errors.New("volume exists")
)

// BusyError is returned for a volume that a machine has attached.
type BusyError struct {
	Volume string
	Holder string // the machine's name for people; "" if it left none
}

func (e *BusyError) Error() string {
	if e.Holder == "" {
		return fmt.Sprintf("volume %q is in use by a running machine", e.Volume)
	}
	return fmt.Sprintf("volume %q is in use by %s", e.Volume, e.Holder)
}

// Sizes of disks that ask for none. The files are sparse and cost the host what
// is written to them, but the agent grows the file system at its first mount, 3 ms
// per GiB under emulation: once for a volume, at every start of a new container
// for a scratch disk.
const (
	DefaultBytes        = 64 << 30
	DefaultScratchBytes = 16 << 30
)

// Volume is one named volume.
type Volume struct {
	Version   int               `json:"version"`
	Name      string            `json:"name"`
	Key       string            `json:"key,omitempty"`     // in the compose file
	Project   string            `json:"project,omitempty"` // empty: of no project
	Hash      string            `json:"hash,omitempty"`    // of the definition it was made from
	Anonymous bool              `json:"anonymous,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Options   map[string]string `json:"options,omitempty"` // driver options it was asked for with
	Created   time.Time         `json:"created"`
	Bytes     int64             `json:"bytes"` // of the disk as the machine sees it

	Disk string `json:"-"` // path of the image
}

// version of the record; a newer one is refused.
const version = 1

// Store is a directory of volumes. Its methods may be called concurrently, by
// several processes too.
type Store struct {
	dir      string
	template *Template
}

// Open returns the volumes in dir; disks are made from template. Nothing is made
// before the first Create.
func Open(dir string, template *Template) *Store { return &Store{dir: dir, template: template} }

// name is docker's rule for volume names.
var name = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// Names of the files of a volume.
const (
	diskFile   = "disk.img"
	recordFile = "volume.json"
	lockFile   = "lock"
	holderFile = "holder"
)

// Used is how much of the host's disk the volume occupies.
func (v *Volume) Used() (int64, error) {
	info, err := os.Stat(v.Disk)
	if err != nil {
		return 0, fmt.Errorf("measuring volume %q: %w", v.Name, err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512, nil // stat(2): in units of 512 bytes, whatever the file system's
	}
	return info.Size(), nil
}

// tempPrefix starts the names of volumes in the making; no volume can have it.
const tempPrefix = ".new-"

// Create makes a volume. It returns ErrExists for a name that is taken.
func (s *Store) Create(v Volume) (_ *Volume, err error) {
	if !name.MatchString(v.Name) || len(v.Name) > 200 {
		return nil, fmt.Errorf("volume %q: a name has letters, digits, dots, dashes and underscores only", v.Name)
	}
	defer func() {
		if err != nil && !errors.Is(err, ErrExists) {
			err = fmt.Errorf("making volume %q: %w", v.Name, err)
		}
	}()
	v.Version = version
	if v.Bytes == 0 {
		v.Bytes = DefaultBytes
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	temp, err := os.MkdirTemp(s.dir, tempPrefix)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temp)
	if err := s.template.Clone(filepath.Join(temp, diskFile), v.Bytes); err != nil {
		return nil, err
	}
	record, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, err
	}
	for file, content := range map[string][]byte{recordFile: append(record, '\n'), lockFile: nil} {
		if err := writeSynced(filepath.Join(temp, file), content); err != nil {
			return nil, err
		}
	}
	if err := syncPath(temp); err != nil {
		return nil, err
	}
	// A directory is never renamed over one that is not empty (rename(2)), so a
	// volume made meanwhile stays.
	if err := os.Rename(temp, filepath.Join(s.dir, v.Name)); err != nil {
		if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
			return nil, fmt.Errorf("%w: %s", ErrExists, v.Name)
		}
		return nil, err
	}
	v.Disk = filepath.Join(s.dir, v.Name, diskFile)
	return &v, syncPath(s.dir)
}

// Get returns the volume of a name, or ErrNotFound.
func (s *Store) Get(volume string) (*Volume, error) {
	if !name.MatchString(volume) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, volume)
	}
	path := filepath.Join(s.dir, volume, recordFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, volume)
	}
	if err != nil {
		return nil, fmt.Errorf("reading volume %q: %w", volume, err)
	}
	return parse(volume, filepath.Join(s.dir, volume), text)
}

func parse(volume, dir string, text []byte) (*Volume, error) {
	var v Volume
	if err := json.Unmarshal(text, &v); err != nil {
		return nil, fmt.Errorf("reading volume %q: %s: %w", volume, recordFile, err)
	}
	switch {
	case v.Version > version:
		return nil, fmt.Errorf("volume %q was made by a newer stack (record version %d): use that one", volume, v.Version)
	case v.Name != volume:
		return nil, fmt.Errorf("volume %q: its record is of volume %q", volume, v.Name)
	}
	v.Disk = filepath.Join(dir, diskFile)
	return &v, nil
}

// List returns all volumes in the order of their names.
func (s *Store) List() ([]*Volume, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing volumes: %w", err)
	}
	var all []*Volume
	var faults []error
	for _, e := range entries {
		if !e.IsDir() || !name.MatchString(e.Name()) {
			continue
		}
		v, err := s.Get(e.Name())
		switch {
		case err == nil:
			all = append(all, v)
		case !errors.Is(err, ErrNotFound): // removed meanwhile
			faults = append(faults, err)
		}
	}
	slices.SortFunc(all, func(a, b *Volume) int { return strings.Compare(a.Name, b.Name) })
	return all, errors.Join(faults...)
}

// Lock takes a volume for the machine that holder names, and returns the open
// lock: the volume is taken until every duplicate of it is closed. The caller
// hands it to the machine's process and closes its own. A volume that is taken
// gives a *BusyError.
func (s *Store) Lock(volume, holder string) (*os.File, error) {
	if _, err := s.Get(volume); err != nil {
		return nil, err
	}
	f, err := s.lock(volume)
	if err != nil {
		return nil, err
	}
	// For people only: whoever finds the lock taken reads it.
	if err := os.WriteFile(filepath.Join(s.dir, volume, holderFile), []byte(holder), 0o600); err != nil {
		f.Close()
		return nil, fmt.Errorf("taking volume %q: %w", volume, err)
	}
	return f, nil
}

func (s *Store) lock(volume string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(s.dir, volume, lockFile), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("taking volume %q: %w", volume, err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, &BusyError{Volume: volume, Holder: s.holder(volume)}
	}
	return nil, fmt.Errorf("taking volume %q: %w", volume, err)
}

func (s *Store) holder(volume string) string {
	text, err := os.ReadFile(filepath.Join(s.dir, volume, holderFile))
	if err != nil || len(text) > 500 {
		return ""
	}
	return string(text)
}

// Remove deletes a volume and its data. One that a machine has attached gives a
// *BusyError and stays.
func (s *Store) Remove(volume string) error {
	if _, err := s.Get(volume); err != nil {
		return err
	}
	f, err := s.lock(volume)
	if err != nil {
		return err
	}
	defer f.Close()
	// Renamed first: a half-deleted volume must not look like one.
	gone, err := os.MkdirTemp(s.dir, tempPrefix)
	if err == nil {
		err = os.Rename(filepath.Join(s.dir, volume), filepath.Join(gone, volume))
	}
	if err == nil {
		err = syncPath(s.dir)
	}
	if err == nil {
		err = os.RemoveAll(gone)
	}
	if err != nil {
		return fmt.Errorf("removing volume %q: %w", volume, err)
	}
	return nil
}

// Sweep removes what a crash left of volumes in the making or being removed. No
// other process may be making one.
func (s *Store) Sweep() error {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for half-made volumes: %w", err)
	}
	var faults []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			faults = append(faults, os.RemoveAll(filepath.Join(s.dir, e.Name())))
		}
	}
	return errors.Join(faults...)
}

func writeSynced(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

// syncPath flushes a directory, so that renames in it survive a crash.
func syncPath(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
