package fake

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/machine"
)

// Name is the driver's.
const Name = "fake"

// Driver makes machines in memory. Its exported fields are set before the first
// machine starts.
type Driver struct {
	// Program is what containers and execs run; nil is Shell.
	Program Program

	// Probe answers the first probe of a container with a healthcheck; nil
	// answers healthy at once, HealthStarting leaves the verdict to
	// Guest.SetHealth.
	Probe func(wire.Container) (verdict wire.Health, output string)

	// BeforeStart and BeforeCreate fail a start or a container's creation.
	BeforeStart  func(machine.Config) error
	BeforeCreate func(wire.Container) error

	// OnServe is told after a machine was told what to serve.
	OnServe func()

	boot string

	mu     sync.Mutex
	guests []*Guest // running, in order of their start
	pids   int
}

// firstPID is above the largest pid that Linux hands out.
const firstPID = 1 << 23

// New returns a host without machines.
func New() *Driver {
	return &Driver{boot: wire.NewKey().String(), pids: firstPID}
}

// Name implements machine.Driver.
func (d *Driver) Name() string { return Name }

// Start implements machine.Driver.
func (d *Driver) Start(ctx context.Context, c machine.Config) (machine.Machine, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if d.BeforeStart != nil {
		if err := d.BeforeStart(c); err != nil {
			return nil, fmt.Errorf("starting machine %q: %w", c.Name, err)
		}
	}
	g, handles, err := newGuest(d, c)
	if err != nil {
		return nil, fmt.Errorf("starting machine %q: %w", c.Name, err)
	}
	d.mu.Lock()
	d.pids++
	g.record = machine.Record{
		Driver: Name, ID: c.ID, Name: c.Name, Dir: c.Dir,
		PID: d.pids, StartTime: uint64(d.pids), HostBoot: d.boot, Started: time.Now(),
		Key: c.Key, Accel: "none", Disks: slices.Clone(c.Disks),
	}
	for i := range g.record.Disks {
		g.record.Disks[i].Lock = nil
	}
	d.guests = append(d.guests, g)
	d.mu.Unlock()
	g.run()
	return newMachine(g, handles)
}

// Adopt implements machine.Driver.
func (d *Driver) Adopt(ctx context.Context, r machine.Record, handles machine.Handles) (machine.Machine, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d.mu.Lock()
	i := slices.IndexFunc(d.guests, func(g *Guest) bool {
		return g.record.PID == r.PID && g.record.StartTime == r.StartTime && d.boot == r.HostBoot
	})
	var g *Guest
	if i >= 0 {
		g = d.guests[i]
	}
	d.mu.Unlock()
	if g == nil {
		return nil, fmt.Errorf("adopting machine %q, process %d: %w", r.Name, r.PID, machine.ErrGone)
	}
	for _, name := range []string{handleControl, handleLogs, machine.HandleTrunk} {
		if handles[name] == nil {
			return nil, fmt.Errorf("adopting machine %q: no handle %q", r.Name, name)
		}
	}
	m, err := newMachine(g, handles)
	if err != nil {
		return nil, err
	}
	m.adopted = true
	switch paused, full := g.gate.status(); {
	case full: // which disk was said to the last owner
		m.notice(machine.Notice{Kind: machine.NoticeDiskFull, Text: "the host had no space for a disk"})
	case paused:
		m.notice(machine.Notice{Kind: machine.NoticePaused})
	}
	return m, nil
}

// Guest returns the running machine with this id, id prefix or name, nil when
// there is none.
func (d *Driver) Guest(name string) *Guest {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, g := range d.guests {
		if g.record.Name == name || (name != "" && strings.HasPrefix(g.record.ID, name)) {
			return g
		}
	}
	return nil
}

// Guests returns the running machines in the order they were started.
func (d *Driver) Guests() []*Guest {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.guests)
}

// Close kills every machine and waits for their goroutines.
func (d *Driver) Close() {
	for _, g := range d.Guests() {
		g.Kill()
	}
}

func (d *Driver) remove(g *Guest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.guests = slices.DeleteFunc(d.guests, func(o *Guest) bool { return o == g })
}

const (
	handleControl = "control"
	handleLogs    = "logs"
)

// pair returns both ends of a socket pair: the host's as a file, the guest's as
// a connection.
func pair(typ int, name string) (host *os.File, guest net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, typ, 0)
	if err != nil {
		return nil, nil, err
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	host = os.NewFile(uintptr(fds[0]), name)
	inside := os.NewFile(uintptr(fds[1]), name)
	defer inside.Close()
	if guest, err = net.FileConn(inside); err != nil {
		host.Close()
		return nil, nil, err
	}
	return host, guest, nil
}
