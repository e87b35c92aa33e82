//go:build linux

package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackvm/stack/guest/kernel/cmdline"
	"github.com/stackvm/stack/runtime/machine"
	"github.com/stackvm/stack/runtime/sandbox"
)

// Name is the driver's.
const Name = "qemu"

// Names of the handles besides machine.HandleTrunk.
const (
	handleControl = "control"
	handleLogs    = "logs"
	handleMonitor = "monitor"
	handleConsole = "console"
	handleErrors  = "errors"
)

// Options are what a Driver is made with; the zero value works.
type Options struct {
	// Binary is QEMU's path; empty looks for qemu-system-x86_64 in PATH.
	Binary string

	// Accel is KVM, TCG, or empty for what Verdict finds: STACK_ACCEL.
	Accel Accel

	// CacheDir keeps verdicts on the accelerator; empty keeps them in memory.
	CacheDir string

	// Log takes what only we need to know; nil discards.
	Log *slog.Logger
}

// Driver makes machines with QEMU.
type Driver struct {
	opt Options
	log *slog.Logger

	mu     sync.Mutex
	binary Binary // zero until found

	probing  sync.Mutex // held during a probe; guards verdicts; not taken under mu
	verdicts map[string]Verdict
}

// New returns a driver. Nothing is looked for until a machine is started.
func New(opt Options) *Driver {
	log := opt.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Driver{opt: opt, log: log, verdicts: map[string]Verdict{}}
}

// Name implements machine.Driver.
func (d *Driver) Name() string { return Name }

// Start implements machine.Driver. The first start on a host boots a machine for
// a moment to find out whether KVM works, see Verdict.
func (d *Driver) Start(ctx context.Context, c machine.Config) (machine.Machine, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	verdict, err := d.Verdict(ctx, c.Kernel, c.Initramfs)
	if err != nil {
		return nil, fmt.Errorf("starting machine %q: %w", c.Name, err)
	}
	m, err := d.start(ctx, c, verdict.Accel)
	if err != nil {
		return nil, fmt.Errorf("starting machine %q: %w", c.Name, err)
	}
	return m, nil
}

// ends are both sides of a machine's streams.
type ends struct {
	host  machine.Handles
	guest []*os.File // in the order of the fd constants
	errs  *os.File   // QEMU's standard error
}

func (e *ends) closeGuest() {
	closeAll(e.guest)
	if e.errs != nil {
		e.errs.Close()
	}
}

func (e *ends) close() {
	e.closeGuest()
	for _, f := range e.host {
		f.Close()
	}
}

func newEnds(c machine.Config) (_ *ends, err error) {
	e := &ends{host: machine.Handles{}}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	for _, s := range []struct {
		name string
		typ  int
	}{
		fdMonitor - 3: {handleMonitor, unix.SOCK_STREAM},
		fdConsole - 3: {handleConsole, unix.SOCK_STREAM},
		fdControl - 3: {handleControl, unix.SOCK_STREAM},
		fdLogs - 3:    {handleLogs, unix.SOCK_STREAM},
		fdTrunk - 3:   {machine.HandleTrunk, unix.SOCK_DGRAM},
	} {
		fds, err := unix.Socketpair(unix.AF_UNIX, s.typ|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("making a socket pair: %w", err)
		}
		// Blocking files: os.File.Fd leaves their mode alone, and net.FileConn
		// sets it for what it duplicates.
		e.host[s.name] = os.NewFile(uintptr(fds[0]), s.name)
		e.guest = append(e.guest, os.NewFile(uintptr(fds[1]), s.name))
		if s.typ == unix.SOCK_DGRAM {
			raiseBuffers(fds[0])
			raiseBuffers(fds[1])
		}
	}
	if c.Shares != nil {
		fd, err := sandbox.Dup(c.Shares)
		if err != nil {
			return nil, fmt.Errorf("the shares port: %w", err)
		}
		e.guest = append(e.guest, os.NewFile(uintptr(fd), "shares"))
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	// QEMU's end does not block: what nobody reads is lost, and QEMU runs on.
	e.host[handleErrors] = os.NewFile(uintptr(pipe[0]), handleErrors)
	e.errs = os.NewFile(uintptr(pipe[1]), "stderr")
	return e, nil
}

// trunkBuffer is asked for on both ends of the trunk. A stock kernel grants
// 212,992 bytes, three frames of the largest MTU.
const trunkBuffer = 8 << 20

func raiseBuffers(fd int) {
	// Best effort: less is slower, not wrong.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, trunkBuffer)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, trunkBuffer)
}

// start starts a machine with this accelerator.
func (d *Driver) start(ctx context.Context, c machine.Config, accel Accel) (_ *Machine, err error) {
	binary, err := d.Find(ctx)
	if err != nil {
		return nil, err
	}
	boot, err := hostBoot()
	if err != nil {
		return nil, err
	}
	// What is missing is said before anything runs.
	for _, disk := range c.Disks {
		files, err := openDisk(disk)
		if err != nil {
			return nil, fmt.Errorf("disk %q: %w", disk.Serial, err)
		}
		closeAll(files)
	}
	e, err := newEnds(c)
	if err != nil {
		return nil, err
	}
	tscKHz := 0
	if accel == TCG {
		tscKHz = cmdline.HostTSCKHz()
	}
	spec := sandbox.Spec{
		Path:   binary.Path,
		Args:   commandLine(c, accel, c.Shares != nil, tscKHz),
		Env:    environment(),
		Read:   append(slices.Concat(sandbox.Libraries, binary.Data), c.Kernel, c.Initramfs),
		Files:  e.guest,
		Stderr: e.errs,
		Devices: []string{
			"/dev/null", "/dev/zero", "/dev/urandom", "/dev/random",
		},
	}
	if accel == KVM {
		spec.Devices = append(spec.Devices, kvmDevice)
	}
	child, err := sandbox.Start(spec)
	e.closeGuest()
	if err != nil {
		e.close()
		return nil, err
	}
	p, err := newProcess(child.PID, child.PIDFD)
	if err != nil {
		e.close()
		return nil, fmt.Errorf("QEMU: %w", err)
	}
	record := machine.Record{
		Driver: Name, ID: c.ID, Name: c.Name, Dir: c.Dir,
		PID: p.pid, StartTime: p.start, HostBoot: boot, Started: time.Now().UTC().Round(0),
		Key: c.Key, Accel: string(accel), Disks: slices.Clone(c.Disks),
	}
	for i := range record.Disks {
		record.Disks[i].Lock = nil
	}
	m, err := newMachine(d, record, e.host, p)
	if err != nil {
		_ = p.kill()
		_, _ = p.wait()
		p.pidfd.Close()
		return nil, err
	}
	defer func() {
		if err != nil {
			m.Kill(context.WithoutCancel(ctx))
			m.Close()
		}
	}()
	if err := m.negotiate(ctx, false); err != nil {
		return nil, m.startError(ctx, err)
	}
	m.disksMu.Lock()
	defer m.disksMu.Unlock()
	for _, disk := range c.Disks {
		if err := m.addDiskLocked(ctx, disk); err != nil {
			return nil, m.startError(ctx, fmt.Errorf("attaching disk %q: %w", disk.Serial, err))
		}
	}
	return m, nil
}

// answerTimeout is how long a QEMU may take to its first answer, on a host under
// load: one that is stopped or hangs must not hold up the others' adoption.
const answerTimeout = 30 * time.Second

func (m *Machine) negotiate(ctx context.Context, used bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, fmt.Errorf("QEMU does not answer within %s", answerTimeout))
	defer cancel()
	return m.qmp.negotiate(ctx, used)
}

// startError finds the reason behind a monitor that broke off: what QEMU said
// before it ended.
func (m *Machine) startError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	if !m.qmp.broken() {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	exit, waitErr := m.Wait(ctx)
	if waitErr != nil {
		return err
	}
	if said := lastLine(m.errors.bytes()); said != "" {
		return errors.New(said)
	}
	return fmt.Errorf("%w (exit status %d %s)", err, exit.Code, exit.Signal)
}

// environment is what QEMU sees of ours: how its libraries are found, and the
// home it belongs to, by which people find it.
func environment() []string {
	env := []string{"PATH=/usr/bin:/bin", "HOME=/"}
	for _, name := range []string{"LD_LIBRARY_PATH", "STACK_HOME"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// Adopt implements machine.Driver.
func (d *Driver) Adopt(ctx context.Context, r machine.Record, handles machine.Handles) (_ machine.Machine, err error) {
	fail := func(err error) (machine.Machine, error) {
		return nil, fmt.Errorf("adopting machine %q, process %d: %w", r.Name, r.PID, err)
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	for _, name := range []string{handleControl, handleLogs, handleMonitor, handleConsole, handleErrors, machine.HandleTrunk} {
		if handles[name] == nil {
			return fail(fmt.Errorf("no handle %q", name))
		}
	}
	p, err := findProcess(r)
	if err != nil {
		return fail(err)
	}
	m, err := newMachine(d, r, handles, p)
	if err != nil {
		p.pidfd.Close()
		return fail(err)
	}
	m.adopted = true
	if err = m.negotiate(ctx, true); err == nil {
		if err = m.learnDisks(ctx); err == nil {
			err = m.learnStatus(ctx)
		}
	}
	if err != nil {
		ended := false
		select {
		case <-m.done:
			ended = true
		default:
		}
		m.Close()
		if ended {
			err = machine.ErrGone
		}
		return fail(err)
	}
	return m, nil
}

// streamConn is the connection behind a handle.
func streamConn(h machine.Handles, name string) (*net.UnixConn, error) {
	c, err := net.FileConn(h[name])
	if err != nil {
		return nil, fmt.Errorf("handle %q: %w", name, err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("handle %q is no unix socket", name)
	}
	return u, nil
}
