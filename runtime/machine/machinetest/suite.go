package machinetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/machine"
	"github.com/stackvm/stack/runtime/machine/control"
)

// Subject is a driver under test.
type Subject struct {
	Driver machine.Driver

	// Kernel, Initramfs and Cmdline go into every Config; Kernel is empty for
	// drivers that need none.
	Kernel, Initramfs string
	Cmdline           []string
}

// patience is how long anything may take on slow emulation.
const patience = time.Minute

// Run runs the suite; open makes a subject for each test and cleans up by
// t.Cleanup, before which every machine of the suite has ended.
func Run(t *testing.T, open func(t *testing.T) Subject) {
	for name, test := range map[string]func(*testing.T, *bench){
		"Life":              testLife,
		"Kill":              testKill,
		"Adopt":             testAdopt,
		"AdoptGone":         testAdoptGone,
		"AdoptMidSession":   testAdoptMidSession,
		"Disks":             testDisks,
		"DiskLock":          testDiskLock,
		"Pause":             testPause,
		"StartRefused":      testStartRefused,
		"CloseLeavesAlive":  testCloseLeavesAlive,
		"ContextsAreObeyed": testContexts,
		"Trunk":             testTrunk,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			t.Cleanup(cancel)
			test(t, &bench{Subject: open(t), t: t, ctx: ctx})
		})
	}
}

type bench struct {
	Subject
	t   *testing.T
	ctx context.Context
}

// Config returns one that s can start, with a directory of t's.
func (s Subject) Config(t testing.TB) machine.Config {
	var id [32]byte
	rand.Read(id[:])
	dir := filepath.Join(t.TempDir(), "machine")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return machine.Config{
		ID: hex.EncodeToString(id[:]), Name: "test-machine-1", Dir: dir,
		VCPUs: 1, MemoryMiB: 256,
		Kernel: s.Kernel, Initramfs: s.Initramfs, Cmdline: s.Cmdline, Key: wire.NewKey(),
		MAC: net.HardwareAddr{0x52, 0x54, 0, id[0], id[1], id[2]}, MTU: 65520,
	}
}

func (b *bench) start(c machine.Config) machine.Machine {
	b.t.Helper()
	m, err := b.Driver.Start(b.ctx, c)
	if err != nil {
		b.t.Fatalf("Start: %v", err)
	}
	b.t.Cleanup(func() {
		if b.t.Failed() {
			b.t.Logf("console of the machine:\n%s", m.ConsoleTail())
		}
		if err := m.Kill(context.Background()); err != nil {
			b.t.Errorf("Kill at the end: %v", err)
		}
		m.Close()
	})
	return m
}

// hello opens a session that closes with the test.
func (b *bench) hello(m machine.Machine) (*control.Client, wire.HelloReply) {
	b.t.Helper()
	c, reply, err := control.Open(b.ctx, m.Control(), m.Record().Key, wire.Hello{Hostname: "test"})
	if err != nil {
		b.t.Fatalf("the agent's hello: %v\nconsole:\n%s", err, m.ConsoleTail())
	}
	b.t.Cleanup(func() { c.Close() })
	return c, reply
}

// keep duplicates handles, as the keeper does.
func (b *bench) keep(h machine.Handles) machine.Handles {
	b.t.Helper()
	kept := machine.Handles{}
	for name, f := range h {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			b.t.Fatal(err)
		}
		kept[name] = os.NewFile(uintptr(fd), name)
	}
	return kept
}

func (b *bench) wait(m machine.Machine) machine.Exit {
	b.t.Helper()
	exit, err := m.Wait(b.ctx)
	if err != nil {
		b.t.Fatalf("Wait: %v", err)
	}
	return exit
}

// noticesEnd reads the machine's notices until the channel closes.
func (b *bench) noticesEnd(m machine.Machine) {
	b.t.Helper()
	for {
		select {
		case _, ok := <-m.Notices():
			if !ok {
				return
			}
		case <-b.ctx.Done():
			b.t.Fatal("the notices of an ended machine never closed")
		}
	}
}

func testLife(t *testing.T, b *bench) {
	c := b.Config(t)
	m := b.start(c)
	r := m.Record()
	if r.Driver != b.Driver.Name() || r.ID != c.ID || r.Name != c.Name || r.Dir != c.Dir || r.Key != c.Key || r.PID <= 0 || r.StartTime == 0 || r.HostBoot == "" {
		t.Errorf("Record = %+v, want what the machine was made from", r)
	}
	client, reply := b.hello(m)
	if reply.BootID == "" || reply.MemoryKiB <= 0 || reply.MemoryKiB > int64(c.MemoryMiB)<<10 {
		t.Errorf("hello = %+v, want a boot id and at most %d MiB", reply, c.MemoryMiB)
	}
	if _, err := client.Shutdown(b.ctx, wire.Shutdown{Grace: time.Second}); err != nil {
		t.Fatalf("Shutdown: %v", err)
	}
	if exit := b.wait(m); exit != (machine.Exit{Known: true}) {
		t.Errorf("Exit after a farewell = %+v, want a known 0", exit)
	}
	b.noticesEnd(m)
	if err := m.Kill(b.ctx); err != nil {
		t.Errorf("Kill of an ended machine: %v", err)
	}
}

func testKill(t *testing.T, b *bench) {
	m := b.start(b.Config(t))
	b.hello(m)
	if err := m.Kill(b.ctx); err != nil {
		t.Fatal(err)
	}
	if exit := b.wait(m); !exit.Known || exit.Signal == "" {
		t.Errorf("Exit after Kill = %+v, want a signal", exit)
	}
	if err := m.Kill(b.ctx); err != nil {
		t.Errorf("second Kill: %v", err)
	}
	if err := m.AddDisk(b.ctx, b.disk(t, "late", machine.DiskScratch)); err == nil {
		t.Error("AddDisk to an ended machine succeeded")
	}
	b.noticesEnd(m)
}

func testAdopt(t *testing.T, b *bench) {
	m := b.start(b.Config(t))
	_, first := b.hello(m)
	kept := b.keep(m.Handles())
	record := m.Record()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	b.noticesEnd(m)

	adopted, err := b.Driver.Adopt(b.ctx, record, kept)
	if err != nil {
		t.Fatalf("Adopt: %v", err)
	}
	t.Cleanup(func() { adopted.Close() })
	client, second := b.hello(adopted)
	if first.BootID != second.BootID {
		t.Errorf("boot id %q, after adoption %q", first.BootID, second.BootID)
	}
	if err := adopted.AddDisk(b.ctx, b.disk(t, "scratch-1", machine.DiskScratch)); err != nil {
		t.Errorf("AddDisk after adoption: %v", err)
	}
	if _, err := client.Shutdown(b.ctx, wire.Shutdown{}); err != nil {
		t.Errorf("Shutdown after adoption: %v", err)
	}
	b.wait(adopted)
	b.noticesEnd(adopted)
}

// A supervisor that dies leaves half a message behind, in both directions.
func testAdoptMidSession(t *testing.T, b *bench) {
	m := b.start(b.Config(t))
	_, first := b.hello(m)
	kept := b.keep(m.Handles())
	record := m.Record()
	if _, err := m.Control().Write([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0xff, 0xff, '{'}); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	adopted, err := b.Driver.Adopt(b.ctx, record, kept)
	if err != nil {
		t.Fatalf("Adopt: %v", err)
	}
	t.Cleanup(func() { adopted.Close() })
	if _, second := b.hello(adopted); first.BootID != second.BootID {
		t.Errorf("boot id %q, after adoption %q", first.BootID, second.BootID)
	}
}

func testAdoptGone(t *testing.T, b *bench) {
	m := b.start(b.Config(t))
	kept := b.keep(m.Handles())
	defer func() {
		for _, f := range kept {
			f.Close()
		}
	}()
	record := m.Record()
	for name, change := range map[string]func(*machine.Record){
		"another start time": func(r *machine.Record) { r.StartTime++ },
		"another boot":       func(r *machine.Record) { r.HostBoot = "0" },
	} {
		r := record
		change(&r)
		if _, err := b.Driver.Adopt(b.ctx, r, b.keep(kept)); !errors.Is(err, machine.ErrGone) {
			t.Errorf("%s: Adopt = %v, want ErrGone", name, err)
		}
	}
	if err := m.Kill(b.ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Driver.Adopt(b.ctx, record, b.keep(kept)); !errors.Is(err, machine.ErrGone) {
		t.Errorf("Adopt of a killed machine = %v, want ErrGone", err)
	}
}

// disk returns a disk of 8 MiB in a file of t's.
func (b *bench) disk(t *testing.T, serial string, kind machine.DiskKind) machine.Disk {
	t.Helper()
	path := filepath.Join(t.TempDir(), serial)
	const size = 8 << 20
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return machine.Disk{Serial: serial, Kind: kind, Extents: []machine.Extent{{Path: path, Bytes: size}}}
}

func testDisks(t *testing.T, b *bench) {
	c := b.Config(t)
	image := b.disk(t, "image-0", machine.DiskImage)
	more := b.disk(t, "image-1", machine.DiskImage)
	image.Extents = append(image.Extents, more.Extents...)
	c.Disks = []machine.Disk{image, b.disk(t, "scratch-0", machine.DiskScratch)}
	m := b.start(c)
	client, _ := b.hello(m)
	if !slices.EqualFunc(m.Record().Disks, c.Disks, func(a, b machine.Disk) bool { return a.Serial == b.Serial && a.Kind == b.Kind }) {
		t.Errorf("Record().Disks = %+v, want %+v", m.Record().Disks, c.Disks)
	}
	added := b.disk(t, "scratch-1", machine.DiskScratch)
	if err := m.AddDisk(b.ctx, added); err != nil {
		t.Fatalf("AddDisk: %v", err)
	}
	if err := m.AddDisk(b.ctx, added); err == nil || !strings.Contains(err.Error(), "scratch-1") {
		t.Errorf("AddDisk of the same serial = %v, want an error that names it", err)
	}
	missing := added
	missing.Serial = "scratch-2"
	missing.Extents = []machine.Extent{{Path: filepath.Join(t.TempDir(), "none"), Bytes: 512}}
	if err := m.AddDisk(b.ctx, missing); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("AddDisk of a missing file = %v, want ErrNotExist", err)
	}
	for range 3 { // what is removed can come back
		if err := m.RemoveDisk(b.ctx, "scratch-1"); err != nil {
			t.Fatalf("RemoveDisk: %v", err)
		}
		if err := m.AddDisk(b.ctx, added); err != nil {
			t.Fatalf("AddDisk after RemoveDisk: %v", err)
		}
	}
	if err := m.RemoveDisk(b.ctx, "no-such"); err == nil {
		t.Error("RemoveDisk of an unknown serial succeeded")
	}
	if err := m.RemoveDisk(b.ctx, "scratch-0"); err != nil {
		t.Errorf("RemoveDisk of a disk that was there at the start: %v", err)
	}
	if _, err := client.Stats(b.ctx); err != nil {
		t.Errorf("Stats after the disks came and went: %v", err)
	}
}

// A volume's lock is held as long as the disk is attached, and no longer.
func testDiskLock(t *testing.T, b *bench) {
	path := filepath.Join(t.TempDir(), "lock")
	lock := func() (*os.File, error) {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			return nil, err
		}
		return f, nil
	}
	attached := func() machine.Disk {
		t.Helper()
		f, err := lock()
		if err != nil {
			t.Fatalf("the lock is not free: %v", err)
		}
		d := b.disk(t, "volume-0", machine.DiskVolume)
		d.Lock = f
		return d
	}
	held := func(when string) {
		t.Helper()
		if f, err := lock(); err == nil {
			f.Close()
			t.Errorf("%s the lock is free", when)
		}
	}

	c := b.Config(t)
	c.Disks = []machine.Disk{attached()}
	m := b.start(c)
	c.Disks[0].Lock.Close()
	b.hello(m)
	held("while the machine runs with the disk,")
	if err := m.RemoveDisk(b.ctx, "volume-0"); err != nil {
		t.Fatal(err)
	}
	d := attached()
	if err := m.AddDisk(b.ctx, d); err != nil {
		t.Fatal(err)
	}
	d.Lock.Close()
	held("with the disk added,")

	kept, record := b.keep(m.Handles()), m.Record()
	m.Close()
	held("with nobody connected but a keeper,")
	for _, f := range kept {
		f.Close()
	}
	held("with supervisor and keeper gone,")
	_ = record
	if err := m.Kill(b.ctx); err != nil {
		t.Fatal(err)
	}
	if f, err := lock(); err != nil {
		t.Errorf("the lock after the machine's end: %v", err)
	} else {
		f.Close()
	}
}

func testPause(t *testing.T, b *bench) {
	m := b.start(b.Config(t))
	client, _ := b.hello(m)
	if err := m.Pause(b.ctx); err != nil {
		t.Fatal(err)
	}
	stats := make(chan error, 1)
	go func() {
		_, err := client.Stats(b.ctx)
		stats <- err
	}()
	select {
	case err := <-stats:
		t.Errorf("a paused machine answered: %v", err)
	case n := <-m.Notices():
		if n.Kind != machine.NoticePaused {
			t.Errorf("notice %+v, want %s", n, machine.NoticePaused)
		}
	case <-b.ctx.Done():
		t.Fatal("no notice of the pause")
	}
	if err := m.Resume(b.ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-stats; err != nil {
		t.Errorf("Stats after Resume: %v", err)
	}
}

func testStartRefused(t *testing.T, b *bench) {
	for name, change := range map[string]func(*machine.Config){
		"id":        func(c *machine.Config) { c.ID = "x" },
		"no memory": func(c *machine.Config) { c.MemoryMiB = 0 },
		"no cpu":    func(c *machine.Config) { c.VCPUs = 0 },
		"no key":    func(c *machine.Config) { c.Key = wire.Key{} },
		"MAC":       func(c *machine.Config) { c.MAC = net.HardwareAddr{1, 2} },
		"bad serial": func(c *machine.Config) {
			c.Disks = []machine.Disk{b.disk(t, "x", machine.DiskScratch)}
			c.Disks[0].Serial = "a,b"
		},
		"missing disk": func(c *machine.Config) {
			c.Disks = []machine.Disk{{Serial: "gone", Kind: machine.DiskScratch, Extents: []machine.Extent{{Path: filepath.Join(c.Dir, "none"), Bytes: 512}}}}
		},
	} {
		c := b.Config(t)
		change(&c)
		if m, err := b.Driver.Start(b.ctx, c); err == nil {
			m.Kill(b.ctx)
			m.Close()
			t.Errorf("%s: Start succeeded", name)
		}
	}
}

func testCloseLeavesAlive(t *testing.T, b *bench) {
	m := b.start(b.Config(t))
	kept := b.keep(m.Handles())
	for range 2 {
		if err := m.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	adopted, err := b.Driver.Adopt(b.ctx, m.Record(), kept)
	if err != nil {
		t.Fatalf("Adopt of a machine that was let go of: %v", err)
	}
	t.Cleanup(func() { adopted.Close() })
	b.hello(adopted)
}

func testContexts(t *testing.T, b *bench) {
	ended, cancel := context.WithCancel(b.ctx)
	cancel()
	if m, err := b.Driver.Start(ended, b.Config(t)); !errors.Is(err, context.Canceled) {
		if err == nil {
			m.Kill(b.ctx)
			m.Close()
		}
		t.Errorf("Start with an ended context = %v", err)
	}
	m := b.start(b.Config(t))
	if _, err := m.Wait(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait with an ended context = %v", err)
	}
	if err := m.AddDisk(ended, b.disk(t, "scratch-0", machine.DiskScratch)); !errors.Is(err, context.Canceled) {
		t.Errorf("AddDisk with an ended context = %v", err)
	}
	if err := m.Pause(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("Pause with an ended context = %v", err)
	}
	b.hello(m)
}

// The trunk is a datagram socket that takes a frame as long as the MTU allows.
func testTrunk(t *testing.T, b *bench) {
	m := b.start(b.Config(t))
	b.hello(m)
	trunk := m.Handles()[machine.HandleTrunk]
	if trunk == nil {
		t.Fatal("no handle for the trunk")
	}
	fd := int(trunk.Fd())
	if typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || typ != unix.SOCK_DGRAM {
		t.Fatalf("socket type %d, %v; want a datagram socket", typ, err)
	}
	frame := bytes.Repeat([]byte{0xff}, 65534)
	if err := unix.Sendto(fd, frame, 0, nil); err != nil {
		t.Errorf("sending a frame of %d bytes: %v", len(frame), err)
	}
}
