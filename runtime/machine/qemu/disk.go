//go:build linux

package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stackvm/stack/guest/kernel/cmdline"
	"github.com/stackvm/stack/runtime/machine"
)

// A disk SERIAL is, in QEMU: fdsets with its files, a node "file-SERIAL" of the
// file (of the descriptor, when there are several extents), a node "disk-SERIAL"
// of its format on that, the descriptor of its lock under the name "lock-SERIAL",
// and the device "disk-SERIAL" on the SCSI bus.
const (
	diskPrefix = "disk-"
	filePrefix = "file-"
	lockPrefix = "lock-"
)

// maxTargets is how many disks fit on the bus: a kernel that is just booting looks
// at no more (a disk added later would be found anywhere).
const maxTargets = cmdline.ScanTargets

// attached is what has to be undone for one disk.
type attached struct {
	target int
	fdsets []int64
	// What exists, so far.
	file, format, lock, device bool
}

// openDisk opens a disk's extents as its kind asks, and checks their lengths.
func openDisk(d machine.Disk) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(files)
		}
	}()
	mode := os.O_RDWR
	if d.Kind == machine.DiskImage {
		mode = os.O_RDONLY
	}
	for _, e := range d.Extents {
		f, err := os.OpenFile(e.Path, mode|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			return files, err
		}
		files = append(files, f)
		info, err := f.Stat()
		if err != nil {
			return files, err
		}
		if !info.Mode().IsRegular() || info.Size() < e.Bytes {
			return files, fmt.Errorf("%s: %s of %d bytes, want a file of %d", e.Path, info.Mode().Type(), info.Size(), e.Bytes)
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// AddDisk implements machine.Machine.
func (m *Machine) AddDisk(ctx context.Context, d machine.Disk) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("machine %q: %w", m.record.Name, err)
	}
	m.disksMu.Lock()
	defer m.disksMu.Unlock()
	if err := m.addDiskLocked(ctx, d); err != nil {
		return fmt.Errorf("machine %q: attaching disk %q: %w", m.record.Name, d.Serial, err)
	}
	return nil
}

func (m *Machine) addDiskLocked(ctx context.Context, d machine.Disk) (err error) {
	if m.disks[d.Serial] != nil {
		return errors.New("the machine has a disk with that serial")
	}
	target, err := m.freeTargetLocked()
	if err != nil {
		return err
	}
	files, err := openDisk(d)
	if err != nil {
		return err
	}
	defer closeAll(files)

	a := &attached{target: target}
	m.disks[d.Serial] = a
	defer func() {
		if err != nil {
			// With a context of its own: what was half done must not stay because
			// the caller's patience ended.
			if undo := m.detachLocked(context.WithoutCancel(ctx), d.Serial); undo != nil {
				err = fmt.Errorf("%w (and undoing it: %w)", err, undo)
			}
		}
	}()

	// The lock first: no byte is written without it.
	if d.Lock != nil {
		if _, err := m.qmp.execute(ctx, "getfd", map[string]string{"fdname": lockPrefix + d.Serial}, d.Lock); err != nil {
			return err
		}
		a.lock = true
	}
	names := make([]string, len(files))
	for i, f := range files {
		if names[i], err = m.addFD(ctx, d.Serial, f); err != nil {
			return err
		}
	}
	name := names[0]
	readOnly := d.Kind == machine.DiskImage
	format := "raw"
	if readOnly && len(files) > 1 {
		format = "vmdk"
		descriptor, err := vmdk(d.Extents, names)
		if err != nil {
			return err
		}
		defer descriptor.Close()
		if name, err = m.addFD(ctx, d.Serial, descriptor); err != nil {
			return err
		}
	}
	cache := map[string]bool{"direct": false, "no-flush": d.Kind == machine.DiskScratch}
	discard := "unmap"
	if readOnly {
		discard = "ignore"
	}
	if _, err := m.qmp.execute(ctx, "blockdev-add", map[string]any{
		"driver": "file", "node-name": filePrefix + d.Serial, "filename": name,
		"read-only": readOnly, "cache": cache, "discard": discard,
		"locking": "off", // ours is a file of its own, see machine.Disk
		"aio":     "threads",
	}); err != nil {
		return err
	}
	a.file = true
	node := map[string]any{
		"driver": format, "node-name": diskPrefix + d.Serial, "file": filePrefix + d.Serial,
		"read-only": readOnly, "cache": cache, "discard": discard,
	}
	if format == "raw" {
		node["size"] = d.Extents[0].Bytes
	}
	if _, err := m.qmp.execute(ctx, "blockdev-add", node); err != nil {
		return err
	}
	a.format = true
	device := map[string]any{
		"driver": "scsi-hd", "bus": "scsi.0", "id": diskPrefix + d.Serial, "drive": diskPrefix + d.Serial,
		"scsi-id": target, "lun": 0, "serial": d.Serial, "device_id": d.Serial,
		"werror": "enospc", "rerror": "report",
	}
	if !readOnly {
		// Blocks of the host's file systems: nothing is read in order to be written.
		device["physical_block_size"] = 4096
		device["discard_granularity"] = 4096
	}
	if _, err := m.qmp.execute(ctx, "device_add", device); err != nil {
		return err
	}
	a.device = true
	return nil
}

// addFD gives QEMU a file of a disk and returns the name by which it opens it.
func (m *Machine) addFD(ctx context.Context, serial string, f *os.File) (string, error) {
	// The opaque text tells whoever adopts the machine what the file belongs to.
	reply, err := m.qmp.execute(ctx, "add-fd", map[string]string{"opaque": serial}, f)
	if err != nil {
		return "", err
	}
	var set struct {
		ID int64 `json:"fdset-id"`
	}
	if err := json.Unmarshal(reply, &set); err != nil {
		return "", fmt.Errorf("qemu: add-fd: %w", err)
	}
	a := m.disks[serial]
	a.fdsets = append(a.fdsets, set.ID)
	return fmt.Sprintf("/dev/fdset/%d", set.ID), nil
}

func (m *Machine) freeTargetLocked() (int, error) {
	used := map[int]bool{}
	for _, a := range m.disks {
		used[a.target] = true
	}
	for t := range maxTargets {
		if !used[t] {
			return t, nil
		}
	}
	return 0, fmt.Errorf("the machine has %d disks, the most it can", maxTargets)
}

// vmdk returns WriteVMDK's descriptor in a file without a name.
func vmdk(extents []machine.Extent, names []string) (*os.File, error) {
	fd, err := unix.MemfdCreate("vmdk", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("making a disk descriptor: %w", err)
	}
	f := os.NewFile(uintptr(fd), "vmdk")
	if err := WriteVMDK(f, extents, names); err != nil {
		f.Close()
		return nil, fmt.Errorf("making a disk descriptor: %w", err)
	}
	// Read-only for QEMU, whose file driver asks for a descriptor opened so.
	ro, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("making a disk descriptor: %w", err)
	}
	return ro, nil
}

// RemoveDisk implements machine.Machine.
func (m *Machine) RemoveDisk(ctx context.Context, serial string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.disksMu.Lock()
	defer m.disksMu.Unlock()
	if m.disks[serial] == nil {
		return fmt.Errorf("machine %q: detaching disk %q: the machine has none with that serial", m.record.Name, serial)
	}
	if err := m.detachLocked(ctx, serial); err != nil {
		return fmt.Errorf("machine %q: detaching disk %q: %w", m.record.Name, serial, err)
	}
	return nil
}

// detachLocked undoes what exists of a disk, in the order that QEMU asks for, and
// stops at the first thing that does not go, so that a second call goes on there.
func (m *Machine) detachLocked(ctx context.Context, serial string) error {
	a := m.disks[serial]
	if a.device {
		gone := m.deviceGone(diskPrefix + serial)
		defer m.forgetDevice(diskPrefix + serial)
		if _, err := m.qmp.execute(ctx, "device_del", map[string]string{"id": diskPrefix + serial}); err != nil {
			return err
		}
		select {
		case <-gone:
		case <-m.done:
			return machine.ErrGone
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		a.device = false
	}
	for _, n := range []struct {
		exists *bool
		name   string
	}{{&a.format, diskPrefix + serial}, {&a.file, filePrefix + serial}} {
		if !*n.exists {
			continue
		}
		if _, err := m.qmp.execute(ctx, "blockdev-del", map[string]string{"node-name": n.name}); err != nil {
			return err
		}
		*n.exists = false
	}
	for len(a.fdsets) > 0 {
		last := len(a.fdsets) - 1
		if _, err := m.qmp.execute(ctx, "remove-fd", map[string]int64{"fdset-id": a.fdsets[last]}); err != nil {
			return err
		}
		a.fdsets = a.fdsets[:last]
	}
	if a.lock {
		_, err := m.qmp.execute(ctx, "closefd", map[string]string{"fdname": lockPrefix + serial})
		var fault *qmpError
		if err != nil && !(m.adopted && errors.As(err, &fault)) { // whether an adopted machine has one cannot be asked
			return err
		}
		a.lock = false
	}
	delete(m.disks, serial)
	return nil
}

// deviceGone returns a channel that closes when QEMU says that a device has gone.
func (m *Machine) deviceGone(id string) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	ch := make(chan struct{})
	m.leaving[id] = ch
	return ch
}

func (m *Machine) forgetDevice(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.leaving, id)
}

// learnDisks finds out what disks an adopted machine has, and undoes those that
// its last owner was in the middle of attaching or detaching.
func (m *Machine) learnDisks(ctx context.Context) error {
	var (
		nodes []struct {
			Name string `json:"node-name"`
		}
		sets []struct {
			ID  int64 `json:"fdset-id"`
			FDs []struct {
				Opaque string `json:"opaque"`
			} `json:"fds"`
		}
		devices []struct {
			Name string `json:"name"`
		}
	)
	for _, q := range []struct {
		command string
		args    any
		into    any
	}{
		{"query-named-block-nodes", map[string]bool{"flat": true}, &nodes},
		{"query-fdsets", nil, &sets},
		{"qom-list", map[string]string{"path": "/machine/peripheral"}, &devices},
	} {
		reply, err := m.qmp.execute(ctx, q.command, q.args)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(reply, q.into); err != nil {
			return fmt.Errorf("qemu: %s: %w", q.command, err)
		}
	}

	m.disksMu.Lock()
	defer m.disksMu.Unlock()
	disk := func(serial string) *attached {
		if m.disks[serial] == nil {
			m.disks[serial] = &attached{target: -1, lock: true}
		}
		return m.disks[serial]
	}
	for _, n := range nodes {
		if serial, ok := strings.CutPrefix(n.Name, diskPrefix); ok {
			disk(serial).format = true
		}
		if serial, ok := strings.CutPrefix(n.Name, filePrefix); ok {
			disk(serial).file = true
		}
	}
	for _, s := range sets {
		for _, fd := range s.FDs {
			if fd.Opaque != "" {
				a := disk(fd.Opaque)
				a.fdsets = append(a.fdsets, s.ID)
			}
		}
	}
	for _, d := range devices {
		serial, ok := strings.CutPrefix(d.Name, diskPrefix)
		if !ok {
			continue
		}
		reply, err := m.qmp.execute(ctx, "qom-get", map[string]string{"path": "/machine/peripheral/" + d.Name, "property": "scsi-id"})
		if err != nil {
			return err
		}
		a := disk(serial)
		a.device = true
		if err := json.Unmarshal(reply, &a.target); err != nil {
			return fmt.Errorf("qemu: qom-get: %w", err)
		}
	}
	for serial, a := range m.disks {
		if !a.device {
			if err := m.detachLocked(ctx, serial); err != nil {
				return fmt.Errorf("detaching disk %q, left half attached: %w", serial, err)
			}
		}
	}
	return nil
}
