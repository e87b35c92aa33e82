//go:build linux

package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/stackvm/stack/guest/agent/health"
	"github.com/stackvm/stack/guest/agent/launch"
	"github.com/stackvm/stack/guest/agent/process"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// Start runs the container's command.
func (c *Container) Start() (wire.Started, error) {
	c.changing.Lock()
	defer c.changing.Unlock()
	c.set.mu.Lock()
	closed, gone := c.set.closed, c.set.containers[c.spec.ID] != c
	c.set.mu.Unlock()
	c.mu.Lock()
	running := c.run != nil
	c.mu.Unlock()
	switch {
	case closed:
		return wire.Started{}, errClosing
	case gone:
		return wire.Started{}, &wire.Error{Code: wire.CodeNotFound, Message: fmt.Sprintf("container %s was removed", c.spec.Name)}
	case running:
		return wire.Started{}, &wire.Error{Code: wire.CodeRunning, Message: fmt.Sprintf("container %s is running", c.spec.Name)}
	}
	r, err := c.launch()
	at := time.Now()
	if err != nil {
		return wire.Started{}, fmt.Errorf("starting container %s: %w", c.spec.Name, err)
	}
	c.mu.Lock()
	c.run, c.state = r, wire.StateRunning
	c.mu.Unlock()
	c.set.machine.Emit(wire.Event{Kind: wire.EventState, Container: c.spec.ID, At: at, State: wire.StateRunning})
	if c.ports != nil {
		c.ports.retell()
	}
	r.stdio.pump(c.sink)
	if check := c.spec.Health; check != nil && len(check.Test) > 0 {
		c.reportHealth(health.Report{Health: wire.HealthStarting})
		c.resumeProbe(r)
	}
	go c.wait(r)
	return wire.Started{PID: r.proc.PID, At: at}, nil
}

// launch starts the process.
func (c *Container) launch() (*run, error) {
	if err := c.empty(); err != nil {
		return nil, err
	}
	spec, err := c.workload(c.spec.Args, nil, c.spec.WorkingDir, c.spec.User, c.spec.Groups, c.spec.TTY)
	if err != nil {
		return nil, err
	}
	spec.Init = c.spec.Init
	if err := c.confine(spec, c.spec.Privileged); err != nil {
		return nil, err
	}
	spec.Enter = &launch.Enter{
		Root:       Dir + "/" + c.spec.ID + "/root",
		Hostname:   c.hostname(),
		Domainname: c.spec.Domainname,
		Sysctls:    sysctls(c.spec.Sysctls),
		ReadOnly:   c.spec.ReadOnlyRoot,
		Privileged: c.spec.Privileged,
		Devices:    c.nodes,

		HostCgroup: c.spec.HostCgroup, WritableCgroups: c.spec.WritableCgroups, Unmasked: c.spec.Unmasked,
	}
	at := launch.Placement{}
	defer func() {
		for _, f := range at.Files {
			f.Close()
		}
	}()
	pass := func(f *os.File) int {
		at.Files = append(at.Files, f)
		return len(at.Files) - 1
	}
	for _, ns := range []struct {
		fd   *int
		file *os.File
	}{{&spec.Fds.Net, c.net}, {&spec.Fds.IPC, c.ipc}} {
		f, err := duplicate(ns.file)
		if err != nil {
			return nil, err
		}
		*ns.fd = pass(f)
	}
	shm, err := c.openShm()
	if err != nil {
		return nil, fmt.Errorf("/dev/shm: %w", err)
	}
	spec.Fds.Shm = pass(shm)
	if err := c.special(spec, pass); err != nil {
		return nil, err
	}
	if at.Cgroup, err = c.group.Open(); err != nil {
		return nil, err
	}
	defer at.Cgroup.Close()
	if c.spec.JoinPID != "" {
		if at.PIDNS, err = c.joinPID(); err != nil {
			return nil, fmt.Errorf("joining its processes: %w", err)
		}
		defer at.PIDNS.Close()
	}
	kills := c.group.OOMKills()
	r := &run{oom: kills, told: kills, done: make(chan struct{})}
	if !c.spec.TTY {
		if r.stdio, err = newStdio(c.spec.Stdin, spec.UID); err != nil {
			return nil, err
		}
		at.Stdio = r.stdio.child
	}
	proc, tty, err := c.set.machine.Launcher.Start(spec, at)
	if r.stdio != nil {
		r.stdio.closeChild()
	}
	if err != nil {
		if r.stdio != nil {
			r.stdio.close()
		}
		return nil, err
	}
	if tty != nil {
		r.stdio = terminalStdio(tty)
	}
	r.proc = proc
	return r, nil
}

// joinPID opens the pid namespace of the container whose processes are shared.
func (c *Container) joinPID() (*os.File, error) {
	other, err := c.set.Get(c.spec.JoinPID)
	if err != nil {
		return nil, err
	}
	r := other.running()
	if r == nil {
		return nil, &wire.Error{Code: wire.CodeConflict, Message: fmt.Sprintf("container %s is not running", other.spec.Name)}
	}
	return os.Open(fmt.Sprintf("/proc/%d/ns/pid", r.proc.PID))
}

func (c *Container) running() *run {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.run
}

// maxLogBuffer bounds what a container may have the agent keep for a host that is
// slow to take it.
const maxLogBuffer = 64 << 20

// sink returns what takes the bytes of one of the streams; nil is its end.
func (c *Container) sink(kind wire.FrameKind) func([]byte) {
	log := c.set.machine.Logs.NewWriter(c.spec.ID, kind, c.spec.TTY)
	log.Buffer = int(min(c.spec.LogBuffer, maxLogBuffer))
	return func(p []byte) {
		c.outputs.send(kind, p)
		switch {
		case !c.spec.Log:
			return
		case p == nil:
			_ = log.Flush()
		default:
			_, _ = log.Write(p)
		}
		c.mu.Lock()
		c.logged = max(c.logged, log.Seq())
		c.mu.Unlock()
	}
}

// outputGrace bounds how long the end of a container waits for its last output
// to find room in the log queue, when no host takes records.
const outputGrace = 5 * time.Second

// wait is the goroutine of a running container.
func (c *Container) wait(r *run) {
	code, at := r.proc.Wait()
	r.probing.rest(true)
	// What it left behind, children of a namespace it shared, ends with it.
	c.group.Kill()
	_ = c.group.Thaw() // it may have been killed while paused
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		r.stdio.pumps.Wait() // nobody is left to hold the streams open
		r.stdio.close()
	}()
	select {
	case <-drained:
	case <-time.After(outputGrace):
	}
	// Who learns of the end and then reads the log must find all of it.
	ctx, cancel := context.WithTimeout(context.Background(), outputGrace)
	if err := c.set.machine.Logs.Drain(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "agent: container %s: the host has not taken its last output yet\n", c.spec.Name)
	}
	cancel()
	status := wire.ExitStatus{Code: code, At: at}
	c.mu.Lock()
	status.OOM, status.LogSeq = c.reportOOM(r), c.logged
	c.run, c.state, c.exit = nil, wire.StateExited, status
	close(r.done)
	close(c.ended)
	c.ended = make(chan struct{})
	c.mu.Unlock()
	c.set.machine.Emit(wire.Event{Kind: wire.EventState, Container: c.spec.ID, At: at, State: wire.StateExited, Exit: &status})
}

// Signal sends a signal to the container's first process.
func (c *Container) Signal(name string) error {
	sig, err := parseSignal(name)
	if err != nil {
		return err
	}
	r := c.running()
	if r == nil {
		return c.notRunning()
	}
	if err := r.proc.Signal(sig); err != nil && !errors.Is(err, process.ErrEnded) {
		return fmt.Errorf("signalling container %s: %w", c.spec.Name, err)
	}
	// As docker: what ends a paused container is not kept from it.
	if stop, err := c.stopSignal(""); sig == unix.SIGKILL || err == nil && sig == stop {
		c.wake(r)
	}
	return nil
}

func (c *Container) notRunning() error {
	return &wire.Error{Code: wire.CodeConflict, Message: fmt.Sprintf("container %s is not running", c.spec.Name)}
}

// lastWords is how long a first process that has no handler for the stop signal
// may take after its children ended: a shell returns their status then.
const lastWords = 100 * time.Millisecond

// Stop ends the container: the signal, or its own stop signal; SIGKILL after
// grace, never when grace is negative. A first process that cannot receive the
// signal is not waited for: its children get it, and it is killed when they have
// ended. Stopping what has ended returns how it did.
func (c *Container) Stop(ctx context.Context, name string, grace time.Duration) (wire.ExitStatus, error) {
	sig, err := c.stopSignal(name)
	if err != nil {
		return wire.ExitStatus{}, err
	}
	c.changing.Lock() // a start under way is waited for
	r := c.running()
	c.changing.Unlock()
	if r == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.state != wire.StateExited {
			return wire.ExitStatus{}, c.notRunning()
		}
		return c.exit, nil
	}
	var expired <-chan time.Time
	if grace >= 0 {
		timer := time.NewTimer(grace)
		defer timer.Stop()
		expired = timer.C
	}
	var childless <-chan struct{}
	if sig != unix.SIGKILL && !receives(r.proc.PID, sig) {
		childless = c.stopChildren(r, sig)
	} else if err := r.proc.Signal(sig); err != nil && !errors.Is(err, process.ErrEnded) {
		return wire.ExitStatus{}, fmt.Errorf("stopping container %s: %w", c.spec.Name, err)
	}
	c.wake(r)
	select {
	case <-r.done:
	case <-ctx.Done():
		return wire.ExitStatus{}, ctx.Err()
	case <-childless:
		timer := time.NewTimer(lastWords)
		defer timer.Stop()
		select {
		case <-r.done:
		case <-timer.C:
			r.proc.Signal(unix.SIGKILL)
		}
	case <-expired:
		r.proc.Signal(unix.SIGKILL)
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		return wire.ExitStatus{}, ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.exit, nil
}

// stopSignal is what stops the container, unless name names another.
func (c *Container) stopSignal(name string) (unix.Signal, error) {
	return parseSignal(cmp.Or(name, c.spec.StopSignal, "SIGTERM"))
}

// receives reports whether the first process of a pid namespace can get sig: the
// kernel drops signals for it that it neither handles nor waits for.
func receives(pid int, sig unix.Signal) bool {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return true
	}
	for _, t := range tasks {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", pid, t.Name()))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(line, ":")
			if key != "SigCgt" && key != "SigBlk" { // blocked: for sigwait or a signalfd
				continue
			}
			var mask uint64
			if _, err := fmt.Sscanf(strings.TrimSpace(value), "%x", &mask); err == nil && mask&(1<<(sig-1)) != 0 {
				return true
			}
		}
	}
	return false
}

// stopChildren signals every process of the container but the first and returns
// a channel that is closed when they all ended.
func (c *Container) stopChildren(r *run, sig unix.Signal) <-chan struct{} {
	ended := make(chan struct{})
	var files []*os.File
	pids, _ := c.group.PIDs()
	for _, pid := range pids {
		if pid == r.proc.PID {
			continue
		}
		fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
		if err != nil {
			continue // ended meanwhile
		}
		files = append(files, os.NewFile(uintptr(fd), "pidfd"))
		_ = unix.PidfdSendSignal(fd, sig, nil, 0)
	}
	go func() {
		defer close(ended)
		for _, f := range files {
			awaitPidfd(f)
			f.Close()
		}
	}()
	return ended
}

// awaitPidfd waits for a process, which is any, to end.
func awaitPidfd(f *os.File) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(polled, 0)
		return err == nil && n > 0
	})
}

// Attach connects a host stream to the container's standard streams until the
// container ends, or ends next when it does not run. It calls ready, which tells
// the host, before the first frame.
func (c *Container) Attach(a *wire.Attach, stream io.ReadWriter, ready func() error) error {
	o := &output{w: stream}
	// Attached first, so that nothing written after the reply is missed; locked,
	// so that no frame overtakes the reply.
	o.mu.Lock()
	c.outputs.add(o)
	defer c.outputs.remove(o)
	c.mu.Lock()
	r, ended := c.run, c.ended
	c.mu.Unlock()
	err := ready()
	o.mu.Unlock()
	if err != nil {
		return err
	}
	if r != nil && a.Size != nil {
		r.stdio.resize(*a.Size)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = receive(stream, a.Stdin && c.spec.Stdin, func() *stdio {
			if r := c.running(); r != nil {
				return r.stdio
			}
			return nil
		}, func(name string) { c.Signal(name) })
	}()
	select {
	case <-ended:
	case <-gone: // the host let go
		return nil
	}
	c.mu.Lock()
	status := c.exit
	c.mu.Unlock()
	return o.exit(status)
}
