//go:build linux

package qemu_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackvm/stack/guest/agent/boottest"
	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/machine"
	"github.com/stackvm/stack/runtime/machine/control"
	"github.com/stackvm/stack/runtime/sandbox"
)

const (
	id       = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	patience = 2 * time.Minute
)

// rig is a machine with a container of busybox on an image of two extents.
type rig struct {
	machine.Machine
	*control.Client
	ctx    context.Context
	volume string // path of its volume's disk
}

// newRig boots one whose volume is an ext4 of 64 MiB at this path. change may add
// to the machine and to its container.
func newRig(t *testing.T, volume string, change ...func(*machine.Config, *wire.Container)) *rig {
	t.Helper()
	box := wire.Container{
		ID: id, Name: "box", Root: wire.Root{Image: "image", Scratch: "scratch"}, Log: true,
		Args:   []string{"/bin/sh", "-c", "trap 'exit 7' TERM; while :; do sleep 1000 & wait; done"},
		Mounts: []wire.Mount{{Kind: wire.MountVolume, Source: "volume", Target: "/var/lib/data"}},
	}
	subject(t) // skips first
	image, err := os.ReadFile(boottest.Image(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	image = append(image, make([]byte, (4096-len(image)%4096)%4096)...)
	dir := t.TempDir()
	disk := machine.Disk{Serial: "image", Kind: machine.DiskImage}
	for i, part := range [][]byte{image[:4096], image[4096:]} {
		path := filepath.Join(dir, fmt.Sprintf("extent-%d", i))
		if err := os.WriteFile(path, part, 0o600); err != nil {
			t.Fatal(err)
		}
		disk.Extents = append(disk.Extents, machine.Extent{Path: path, Bytes: int64(len(part))})
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	m := start(t, func(c *machine.Config) {
		c.Disks = []machine.Disk{disk, writable(t, "scratch", machine.DiskScratch, boottest.Ext4(t, 64, 64))}
		for _, f := range change {
			f(c, &box)
		}
	})
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("console:\n%s", m.ConsoleTail())
		}
	})
	client, _, err := control.Open(ctx, m.Control(), m.Record().Key, wire.Hello{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	// The volume comes while the machine runs.
	if err := m.AddDisk(ctx, writable(t, "volume", machine.DiskVolume, volume)); err != nil {
		t.Fatal(err)
	}
	if err := client.Create(ctx, box); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Start(ctx, id); err != nil {
		t.Fatal(err)
	}
	return &rig{m, client, ctx, volume}
}

func writable(t *testing.T, serial string, kind machine.DiskKind, path string) machine.Disk {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return machine.Disk{Serial: serial, Kind: kind, Extents: []machine.Extent{{Path: path, Bytes: info.Size()}}}
}

// sh runs a script in the container; it must exit 0.
func (r *rig) sh(t *testing.T, script string) string {
	t.Helper()
	out, code, err := r.try(script)
	if err != nil || code != 0 {
		t.Fatalf("%s: exit %d, %v\n%s", script, code, err, out)
	}
	return out
}

func (r *rig) try(script string) (string, int, error) {
	s, _, err := r.Exec(r.ctx, wire.Exec{ID: id, Args: []string{"/bin/sh", "-c", script}})
	if err != nil {
		return "", 0, err
	}
	defer s.Close()
	var out bytes.Buffer
	exit, err := s.Run(&out, &out)
	return out.String(), exit.Code, err
}

// allocated is how much of a file takes space on the host.
func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func fsck(t *testing.T, path string) {
	t.Helper()
	if _, err := exec.LookPath("e2fsck"); err != nil {
		t.Log("file system not checked: e2fsck is not installed (apt install e2fsprogs)")
		return
	}
	if out, err := exec.Command("e2fsck", "-fn", path).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

// An image of several extents, a scratch disk and a volume added at run time do
// what they are for: read, write, sync, give space back, and be clean at the end.
func TestDisksInUse(t *testing.T) {
	r := newRig(t, boottest.Ext4(t, 64, 64))
	r.sh(t, "cmp /bin/busybox /bin/sh && echo scratch > /root/f && dd if=/dev/zero bs=1M count=30 2>/dev/null | tr '\\0' x > /var/lib/data/big && sync")
	full := allocated(t, r.volume)
	if full < 30<<20 {
		t.Errorf("the volume takes %d bytes on the host after 30 MiB were written and synced", full)
	}
	r.sh(t, "echo kept > /var/lib/data/f && rm /var/lib/data/big && sync")
	exit, err := r.Stop(r.ctx, wire.Stop{ID: id, Grace: patience})
	if err != nil || exit.Code != 7 {
		t.Errorf("Stop = %+v, %v; want 7, from the trap", exit, err)
	}
	if err := r.Remove(r.ctx, id); err != nil {
		t.Fatal(err)
	}
	for _, serial := range []string{"volume", "scratch", "image"} {
		if err := r.RemoveDisk(r.ctx, serial); err != nil {
			t.Error(err)
		}
	}
	fsck(t, r.volume)
	if now := allocated(t, r.volume); now > full-20<<20 {
		t.Errorf("the volume takes %d bytes on the host, %d when it was full: what was deleted did not come back", now, full)
	}
	if farewell, err := r.Shutdown(r.ctx, wire.Shutdown{}); err != nil || len(farewell.Unsynced) > 0 {
		t.Errorf("Shutdown = %+v, %v", farewell, err)
	}
}

// A full file system of the host pauses the machine with a notice; with space
// again it goes on, nothing lost, the volume's file system clean.
func TestHostDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("makes a small file system to fill, which only root can mount")
	}
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("mounting a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(small, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	volume := filepath.Join(small, "volume")
	if out, err := exec.Command("cp", "--sparse=always", boottest.Ext4(t, 64, 64), volume).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	// Not in use by the machine, and to be removed.
	ballast := filepath.Join(small, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 12<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, volume)
	written := make(chan error, 1)
	go func() {
		out, code, err := r.try("dd if=/dev/zero bs=1M count=16 2>/dev/null | tr '\\0' x > /var/lib/data/big && sync && wc -c < /var/lib/data/big")
		if err == nil && (code != 0 || strings.TrimSpace(out) != "16777216") {
			err = fmt.Errorf("exit %d: %s", code, out)
		}
		written <- err
	}()
	for {
		select {
		case n := <-r.Notices():
			if n.Kind == machine.NoticePaused || n.Kind == machine.NoticeResumed {
				continue
			}
			if n.Kind != machine.NoticeDiskFull || n.Serial != "volume" {
				t.Fatalf("notice %+v, want that the volume's disk is full", n)
			}
		case err := <-written:
			t.Fatalf("the machine wrote more than fits: %v", err)
		case <-r.ctx.Done():
			t.Fatal("no notice of the full disk")
		}
		break
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := r.Resume(r.ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-written; err != nil {
		t.Fatalf("writing after there was space again: %v", err)
	}
	if _, err := r.Shutdown(r.ctx, wire.Shutdown{Grace: patience}); err != nil {
		t.Error(err)
	}
	if _, err := r.Wait(r.ctx); err != nil {
		t.Error(err)
	}
	fsck(t, volume)
}

// takeOver closes one hold on a machine and returns another, as a supervisor's
// successor has it.
func takeOver(t *testing.T, d machine.Driver, m machine.Machine) machine.Machine {
	t.Helper()
	record, kept := m.Record(), machine.Handles{}
	for name, f := range m.Handles() {
		fd, err := sandbox.Dup(f)
		if err != nil {
			t.Fatal(err)
		}
		kept[name] = os.NewFile(uintptr(fd), name)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	adopted, err := d.Adopt(t.Context(), record, kept)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { adopted.Close() })
	return adopted
}

// Whoever adopts a paused machine is told.
func TestAdoptPaused(t *testing.T) {
	m := start(t, nil)
	if err := m.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	m = takeOver(t, subject(t).Driver, m)
	if n := <-m.Notices(); n.Kind != machine.NoticePaused {
		t.Errorf("notice %+v, want %s", n, machine.NoticePaused)
	}
}

// A supervisor killed again and again loses and doubles no log line, and no exec
// of its own disturbs the next one.
func TestLogsThroughAdoptions(t *testing.T) {
	r := newRig(t, boottest.Ext4(t, 64, 64))
	const lines = 20000
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	// The counter is a container's own output.
	counter := strings.Repeat("fe", 32)
	if err := r.Create(ctx, wire.Container{
		ID: counter, Name: "counter", Root: wire.Root{Image: "image"}, Log: true,
		Args: []string{"/bin/sh", "-c", fmt.Sprintf("i=0; while [ $i -lt %d ]; do echo $i; i=$((i+1)); done; sleep 1000", lines)},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Start(ctx, counter); err != nil {
		t.Fatal(err)
	}
	r.Client.Close()

	m := r.Machine
	driver := subject(t).Driver
	var last uint64
	next := 0
	died := errors.New("killed")
	for round := 0; next < lines; round++ {
		quota := 100 + 977*round%3000
		go func() {
			done <- control.ReadLogs(ctx, m.Logs(), m.Record().Key, last, func(rec wire.LogRecord) error {
				last = rec.Seq
				if rec.Container == counter {
					if want := fmt.Sprint(next); string(rec.Line) != want {
						t.Errorf("line %q, want %q", rec.Line, want)
						return io.ErrUnexpectedEOF
					}
					next++
				}
				if quota--; quota == 0 || next == lines {
					return died
				}
				return nil
			})
		}()
		if err := <-done; !errors.Is(err, died) {
			t.Fatalf("round %d, line %d: %v", round, next, err)
		}
		m = takeOver(t, driver, m)
	}
	client, _, err := control.Open(ctx, m.Control(), m.Record().Key, wire.Hello{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Top(ctx, counter); err != nil {
		t.Error(err)
	}
}
