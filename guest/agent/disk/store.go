//go:build linux

package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/stackvm/stack/guest/agent/uevent"
	"golang.org/x/sys/unix"
)

// Store mounts disks below one directory.
type Store struct {
	dir string // on the agent's own tmpfs

	mu     sync.Mutex
	mounts map[string]*Mount // by serial
}

// Mount is a disk's mounted file system, shared by its users.
type Mount struct {
	Serial   string
	Dir      string // in the agent's tree
	Dev      uint64 // device number of the disk
	Writable bool

	store  *Store
	device string        // its name below /dev
	ready  chan struct{} // closed when mounting ended
	err    error
	users  int

	growing sync.Mutex
	size    int64 // the largest asked for; guarded by growing
	eager   bool  // no lazy initialisation is under way; guarded by growing
}

// Files is the directory of a volume's file system that holds its files, so that
// nothing else which lies on the disk is seen among them.
const Files = "files"

// New returns a store that mounts below dir.
func New(dir string) *Store {
	return &Store{dir: dir, mounts: make(map[string]*Mount)}
}

// Image mounts a read-only EROFS disk.
func (s *Store) Image(ctx context.Context, serial string) (*Mount, error) {
	return s.acquire(ctx, serial, false, func(device, dir string) error {
		return unix.Mount(device, dir, "erofs", unix.MS_RDONLY|unix.MS_NODEV, "")
	})
}

// A fault of the medium must not be written over.
const (
	ext4Flags   = unix.MS_NODEV | unix.MS_NOATIME
	ext4Options = "errors=remount-ro,discard"
)

// Writable mounts an ext4 disk and grows its file system to size bytes, or
// leaves it when size is 0 or not more than it has. Of several users of one disk
// the largest size counts, whoever comes first.
func (s *Store) Writable(ctx context.Context, serial string, size int64) (*Mount, error) {
	m, err := s.acquire(ctx, serial, true, func(device, dir string) error {
		return unix.Mount(device, dir, "ext4", ext4Flags, ext4Options)
	})
	if err != nil {
		return nil, err
	}
	if err := m.growTo(size); err != nil {
		_ = m.Release()
		return nil, fmt.Errorf("disk %q: %w", serial, err)
	}
	return m, nil
}

// growTo grows the file system to size bytes and ends the lazy initialisation of
// inode tables, which would write to every group of a sparse disk. That is
// switched off only afterwards: growing without it writes all of the new tables
// at once (256 MiB for 16 GiB).
func (m *Mount) growTo(size int64) error {
	m.growing.Lock()
	defer m.growing.Unlock()
	if m.eager && size <= m.size {
		return nil
	}
	if m.eager {
		if err := unix.Mount("", m.Dir, "", unix.MS_REMOUNT|ext4Flags, "init_itable,"+ext4Options); err != nil {
			return err
		}
		m.eager = false
	}
	if err := grow("/dev/"+m.device, m.Dir, size); err != nil {
		return err
	}
	if err := unix.Mount("", m.Dir, "", unix.MS_REMOUNT|ext4Flags, "noinit_itable,"+ext4Options); err != nil {
		return err
	}
	m.size, m.eager = size, true
	return nil
}

func (s *Store) acquire(ctx context.Context, serial string, writable bool, mount func(device, dir string) error) (*Mount, error) {
	if !validSerial(serial) {
		return nil, fmt.Errorf("disk %q: not a serial", serial)
	}
	s.mu.Lock()
	m := s.mounts[serial]
	if m != nil {
		m.users++
		s.mu.Unlock()
		<-m.ready
		if m.err == nil && m.Writable != writable {
			_ = m.Release()
			return nil, fmt.Errorf("disk %q: wanted both as an image and as a volume", serial)
		}
		if m.err != nil {
			return nil, m.err
		}
		return m, nil
	}
	m = &Mount{
		Serial: serial, Dir: filepath.Join(s.dir, serial), Writable: writable,
		store: s, ready: make(chan struct{}), users: 1,
	}
	s.mounts[serial] = m
	s.mu.Unlock()

	m.err = m.mount(ctx, mount)
	if m.err != nil {
		m.err = fmt.Errorf("disk %q: %w", serial, m.err)
		s.mu.Lock()
		delete(s.mounts, serial)
		s.mu.Unlock()
	}
	close(m.ready)
	if m.err != nil {
		return nil, m.err
	}
	return m, nil
}

func (m *Mount) mount(ctx context.Context, mount func(device, dir string) error) error {
	var name string
	if err := uevent.Wait(ctx, func() (found bool, err error) {
		name, err = find(m.Serial)
		return name != "", err
	}); err != nil {
		return fmt.Errorf("waiting for the device: %w", err)
	}
	device := "/dev/" + name
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		return fmt.Errorf("device %s: %w", name, err)
	}
	m.Dev, m.device = st.Rdev, name
	if err := os.MkdirAll(m.Dir, 0o700); err != nil {
		return err
	}
	if err := mount(device, m.Dir); err != nil {
		os.Remove(m.Dir)
		return fmt.Errorf("mounting %s: %w", name, err)
	}
	return nil
}

// Release gives up one use; the last one unmounts. The error says that what was
// written may not all have reached the disk.
func (m *Mount) Release() error {
	m.store.mu.Lock()
	defer m.store.mu.Unlock()
	if m.users--; m.users > 0 {
		return nil
	}
	delete(m.store.mounts, m.Serial)
	var errs []error
	if m.Writable {
		errs = append(errs, Sync(m.Dir))
	}
	if err := unix.Unmount(m.Dir, 0); err != nil {
		errs = append(errs, fmt.Errorf("unmounting: %w", err))
		// Detached, it at least goes when its last user does.
		unix.Unmount(m.Dir, unix.MNT_DETACH)
	}
	os.Remove(m.Dir)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("disk %q: %w", m.Serial, err)
	}
	return nil
}

// Sync flushes every writable disk and names those that could not be.
func (s *Store) Sync() map[string]error {
	s.mu.Lock()
	var writable []*Mount
	for _, m := range s.mounts {
		if m.Writable {
			m.users++
			writable = append(writable, m)
		}
	}
	s.mu.Unlock()
	faults := make(map[string]error)
	for _, m := range writable {
		<-m.ready
		if m.err != nil {
			continue
		}
		if err := Sync(m.Dir); err != nil {
			faults[m.Serial] = err
		}
		if err := m.Release(); err != nil {
			faults[m.Serial] = err
		}
	}
	return faults
}

// Devices returns the device numbers of all disks the machine has, which no
// container may touch.
func Devices() ([]uint64, error) {
	entries, err := os.ReadDir("/sys/block")
	if err != nil {
		return nil, err
	}
	var devs []uint64
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "sd") && !strings.HasPrefix(e.Name(), "vd") {
			continue
		}
		var st unix.Stat_t
		if unix.Stat("/dev/"+e.Name(), &st) == nil {
			devs = append(devs, st.Rdev)
		}
	}
	return devs, nil
}

// find returns the name of the block device with the serial, or "".
func find(serial string) (string, error) {
	entries, err := os.ReadDir("/sys/block")
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "loop") || strings.HasPrefix(e.Name(), "ram") {
			continue
		}
		dir := "/sys/block/" + e.Name()
		// SCSI shows page 0x80, four bytes of header first; virtio-blk a text file.
		if page, err := os.ReadFile(dir + "/device/vpd_pg80"); err == nil && len(page) > 4 && strings.TrimSpace(string(page[4:])) == serial {
			return e.Name(), nil
		}
		if text, err := os.ReadFile(dir + "/serial"); err == nil && strings.TrimSpace(string(text)) == serial {
			return e.Name(), nil
		}
	}
	return "", nil
}

// validSerial is runtime/machine's rule for Disk.Serial.
func validSerial(s string) bool {
	if s == "" || len(s) > 20 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// Sync returns once all that was written to the file system at dir has reached its
// disk; see syncfs(2).
func Sync(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Syncfs(fd); err != nil {
		return fmt.Errorf("syncing: %w", err)
	}
	return nil
}
