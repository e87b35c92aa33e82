package fake

import (
	"context"
	"errors"
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

// Guest is a running machine seen from inside. Its methods may be called
// concurrently, also after the machine has ended.
type Guest struct {
	driver *Driver
	config machine.Config
	record machine.Record // set before the first goroutine starts
	boot   string

	control, logs, trunk net.Conn
	shares               net.Conn // nil without a share server
	gate                 gate
	out                  *logQueue

	ctx    context.Context // of everything inside; ends with the machine
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine inside
	done   chan struct{}  // closed when the last has ended
	exit   machine.Exit   // valid when done is closed
	once   sync.Once      // of the end

	mu         sync.Mutex
	holds      []*Machine
	disks      map[string]machine.Disk
	locks      map[string]*os.File
	console    strings.Builder
	containers map[string]*container
	order      []string // ids in order of creation
	watchers   map[chan wire.Event]struct{}
	nextPID    int
	hello      wire.Hello
	changes    []wire.ShareChanges
	served     *wire.Serve // by OpServe
	stopped    bool        // shutdown has begun: nothing new runs
}

func newGuest(d *Driver, c machine.Config) (_ *Guest, _ machine.Handles, err error) {
	g := &Guest{
		driver: d, config: c, boot: wire.NewKey().String(),
		done:  make(chan struct{}),
		disks: map[string]machine.Disk{}, locks: map[string]*os.File{},
		containers: map[string]*container{}, watchers: map[chan wire.Event]struct{}{},
		nextPID: 1,
	}
	g.gate.init()
	g.out = newLogQueue()
	handles := machine.Handles{}
	defer func() {
		if err == nil {
			return
		}
		for _, f := range handles {
			f.Close()
		}
		g.closeEnds()
	}()
	for _, s := range []struct {
		name  string
		typ   int
		guest *net.Conn
	}{
		{handleControl, unix.SOCK_STREAM, &g.control},
		{handleLogs, unix.SOCK_STREAM, &g.logs},
		{machine.HandleTrunk, unix.SOCK_DGRAM, &g.trunk},
	} {
		host, guest, err := pair(s.typ, s.name)
		if err != nil {
			return nil, nil, err
		}
		handles[s.name], *s.guest = host, guest
	}
	g.control = gatedConn{g.control, &g.gate}
	g.logs = gatedConn{g.logs, &g.gate}
	if c.Shares != nil {
		if g.shares, err = net.FileConn(c.Shares); err != nil {
			return nil, nil, fmt.Errorf("shares: %w", err)
		}
	}
	for _, disk := range c.Disks {
		if err := g.addDisk(disk); err != nil {
			return nil, nil, err
		}
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	return g, handles, nil
}

// run starts the agent.
func (g *Guest) run() {
	g.printk("fake: machine " + g.record.Name + " booted")
	g.wg.Go(g.serveControl)
	g.wg.Go(g.serveLogs)
}

// end ends the machine and returns when it has ended; only the first exit counts.
func (g *Guest) end(exit machine.Exit) {
	g.once.Do(func() {
		g.exit = exit
		g.cancel()
		g.gate.close()
		g.out.close()
		go func() { // ends when everything inside has
			g.closeEnds()
			g.wg.Wait()
			g.driver.remove(g)
			g.mu.Lock()
			holds := slices.Clone(g.holds)
			for _, f := range g.locks {
				f.Close()
			}
			clear(g.locks)
			g.mu.Unlock()
			for _, m := range holds {
				m.endNotices()
			}
			close(g.done)
		}()
	})
}

func (g *Guest) closeEnds() {
	for _, c := range []net.Conn{g.control, g.logs, g.trunk, g.shares} {
		if c != nil {
			c.Close()
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ctx == nil { // never ran
		for _, f := range g.locks {
			f.Close()
		}
	}
}

// Kill ends the machine as the kernel's out-of-memory killer would on the host.
func (g *Guest) Kill() {
	g.end(machine.Exit{Known: true, Code: -1, Signal: "killed"})
	<-g.done
}

// Crash ends the machine as a panic of its kernel does: last lines on the
// console, no farewell.
func (g *Guest) Crash(lastLines string) {
	g.printk(lastLines)
	g.end(machine.Exit{Known: true, Code: 0})
	<-g.done
}

// Config is what the machine was made from.
func (g *Guest) Config() machine.Config { return g.config }

// Record is the machine's.
func (g *Guest) Record() machine.Record { return g.record }

// Trunk is the machine's end of its network card.
func (g *Guest) Trunk() net.Conn { return g.trunk }

// Shares is the machine's end of the shares port; nil without a share server.
func (g *Guest) Shares() net.Conn { return g.shares }

// BootID is what the agent answers to hello.
func (g *Guest) BootID() string { return g.boot }

// Disks are the serials of the attached disks, sorted.
func (g *Guest) Disks() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var serials []string
	for s := range g.disks {
		serials = append(serials, s)
	}
	slices.Sort(serials)
	return serials
}

// Hello is the last one the agent was told.
func (g *Guest) Hello() wire.Hello {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.hello
}

// ShareChanges are all that the agent was told.
func (g *Guest) ShareChanges() []wire.ShareChanges {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.changes)
}

// DiskFull pauses the machine as a hypervisor does that finds no space for a
// disk on the host; Machine.Resume ends it.
func (g *Guest) DiskFull(serial string) {
	g.gate.setFull()
	g.notify(machine.Notice{Kind: machine.NoticeDiskFull, Serial: serial, Text: "no space left on device"})
}

func (g *Guest) notify(n machine.Notice) {
	g.mu.Lock()
	holds := slices.Clone(g.holds)
	g.mu.Unlock()
	for _, m := range holds {
		m.notice(n)
	}
}

func (g *Guest) hold(m *Machine) {
	g.mu.Lock()
	g.holds = append(g.holds, m)
	g.mu.Unlock()
	select {
	case <-g.done: // too late for its end to reach m
		m.endNotices()
	default:
	}
}

func (g *Guest) release(m *Machine) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.holds = slices.DeleteFunc(g.holds, func(o *Machine) bool { return o == m })
}

func (g *Guest) addDisk(d machine.Disk) error {
	for _, e := range d.Extents {
		info, err := os.Stat(e.Path)
		if err != nil {
			return fmt.Errorf("attaching disk %q: %w", d.Serial, err)
		}
		if info.Size() < e.Bytes {
			return fmt.Errorf("attaching disk %q: %s has %d bytes, want %d", d.Serial, e.Path, info.Size(), e.Bytes)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ctx != nil && g.ctx.Err() != nil {
		return fmt.Errorf("attaching disk %q: %w", d.Serial, machine.ErrGone)
	}
	if _, ok := g.disks[d.Serial]; ok {
		return fmt.Errorf("attaching disk %q: the machine has a disk with that serial", d.Serial)
	}
	if d.Lock != nil {
		fd, err := unix.FcntlInt(d.Lock.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("attaching disk %q: its lock: %w", d.Serial, err)
		}
		g.locks[d.Serial] = os.NewFile(uintptr(fd), d.Lock.Name())
		d.Lock = nil
	}
	g.disks[d.Serial] = d
	return nil
}

func (g *Guest) removeDisk(serial string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.disks[serial]; !ok {
		return fmt.Errorf("detaching disk %q: the machine has none with that serial", serial)
	}
	for _, c := range g.containers {
		if c.uses(serial) {
			return fmt.Errorf("detaching disk %q: container %s uses it", serial, c.spec.Name)
		}
	}
	delete(g.disks, serial)
	if f := g.locks[serial]; f != nil {
		delete(g.locks, serial)
		return f.Close()
	}
	return nil
}

const consoleBytes = 64 << 10

// printk writes lines to the console.
func (g *Guest) printk(lines string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.console.WriteString(strings.TrimSuffix(lines, "\n") + "\n")
}

func (g *Guest) consoleTail() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.console.String()
	return s[max(0, len(s)-consoleBytes):]
}

// gate stops what passes it while the machine is paused.
type gate struct {
	mu     sync.Mutex
	cond   sync.Cond
	paused bool
	full   bool // paused for want of space
	closed bool
}

func (g *gate) init() { g.cond.L = &g.mu }

// set reports false when the machine has ended.
func (g *gate) set(paused bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.paused, g.full = paused, false
	g.cond.Broadcast()
	return !g.closed
}

func (g *gate) setFull() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.paused, g.full = true, true
}

func (g *gate) status() (paused, full bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.paused, g.full
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	g.cond.Broadcast()
}

func (g *gate) pass() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.paused && !g.closed {
		g.cond.Wait()
	}
	if g.closed {
		return errEnded
	}
	return nil
}

var errEnded = errors.New("the machine has ended")

type gatedConn struct {
	net.Conn
	gate *gate
}

func (c gatedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if gateErr := c.gate.pass(); gateErr != nil {
		return 0, gateErr
	}
	return n, err
}

func (c gatedConn) Write(b []byte) (int, error) {
	if err := c.gate.pass(); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// past is a deadline that ends blocked reads and writes.
var past = time.Unix(1, 0)
