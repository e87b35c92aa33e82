package fake

import (
	"context"
	"encoding/json"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/machine"
)

var cleanExit = machine.Exit{Known: true}

// container is one in the machine; what is not constant is guarded by Guest.mu.
type container struct {
	spec  wire.Container
	files files

	state  wire.State
	paused bool             // of one that runs: said, not done
	exit   *wire.ExitStatus // when exited
	health wire.Health
	streak int
	ports  *wire.Event   // the last of its kind
	run    *process      // the latest; nil before the first start
	begun  chan struct{} // closed at the first start

	sessions map[*frames]struct{} // attached
	dialled  chan dialled         // connections to its sockets
	gone     chan struct{}        // closed when it is removed
}

func (c *container) uses(serial string) bool {
	return c.spec.Root.Image == serial || c.spec.Root.Scratch == serial ||
		slices.ContainsFunc(c.spec.Mounts, func(m wire.Mount) bool {
			return (m.Kind == wire.MountVolume || m.Kind == wire.MountImage) && m.Source == serial
		})
}

func (c *container) snapshotLocked() []wire.Event {
	state := c.state
	if c.paused {
		state = wire.StatePaused
	}
	events := []wire.Event{{Kind: wire.EventState, Container: c.spec.ID, At: time.Now(), State: state, Exit: c.exit}}
	if c.health != "" {
		events = append(events, wire.Event{
			Kind: wire.EventHealth, Container: c.spec.ID, At: time.Now(), Health: c.health, FailingStreak: c.streak,
		})
	}
	if c.ports != nil {
		events = append(events, *c.ports)
	}
	return events
}

// process is one run of a container or exec.
type process struct {
	pid     int
	args    []string
	cancel  context.CancelFunc // SIGKILL
	signals chan string
	stdin   *io.PipeWriter
	done    chan struct{}
	status  wire.ExitStatus // valid when done is closed

	mu     sync.Mutex
	forced *wire.ExitStatus // decided from outside
}

// finish ends the process with a status of the test's choice.
func (p *process) finish(status wire.ExitStatus) {
	p.mu.Lock()
	if p.forced == nil {
		p.forced = &status
	}
	p.mu.Unlock()
	p.cancel()
}

func (p *process) send(signal string) {
	if signal = signalName(signal); signal == "KILL" {
		p.finish(wire.ExitStatus{Code: 137})
		return
	}
	select {
	case p.signals <- signal:
	default:
	}
}

// signalName drops the SIG and turns the numbers that matter into names.
func signalName(s string) string {
	switch s = strings.TrimPrefix(strings.ToUpper(s), "SIG"); s {
	case "1":
		return "HUP"
	case "2":
		return "INT"
	case "9":
		return "KILL"
	case "15", "":
		return "TERM"
	}
	return s
}

// spawnLocked runs a program in a goroutine of the machine's; end is called when
// it has ended.
func (g *Guest) spawnLocked(args, env []string, stdin bool, stdout, stderr io.Writer, spec wire.Container, end func(*process)) *process {
	ctx, cancel := context.WithCancel(g.ctx)
	in, inWriter := io.Pipe()
	if !stdin {
		inWriter.Close()
	}
	g.nextPID++
	p := &process{
		pid: g.nextPID, args: args, cancel: cancel, stdin: inWriter,
		signals: make(chan string, 16), done: make(chan struct{}),
	}
	program := g.driver.Program
	if program == nil {
		program = Shell
	}
	g.wg.Go(func() {
		defer cancel()
		defer context.AfterFunc(ctx, func() { in.Close() })() // a killed program reads no more
		code := program(ctx, &Process{
			Args: args, Env: env, Stdin: in, Stdout: stdout, Stderr: stderr,
			Signals: p.signals, Container: spec, Guest: g,
		})
		p.mu.Lock()
		p.status = wire.ExitStatus{Code: code}
		if p.forced != nil {
			p.status = *p.forced
		}
		p.mu.Unlock()
		p.status.At, p.status.LogSeq = time.Now(), g.out.lastSeq(spec.ID)
		in.Close()
		end(p)
		close(p.done)
	})
	return p
}

func (g *Guest) find(id string) (*container, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.findLocked(id)
}

func (g *Guest) findLocked(id string) (*container, error) {
	if c := g.containers[id]; c != nil {
		return c, nil
	}
	return nil, fault(wire.CodeNotFound, "no container %s", id)
}

func (g *Guest) create(spec wire.Container) (any, error) {
	if g.driver.BeforeCreate != nil {
		if err := g.driver.BeforeCreate(spec); err != nil {
			return nil, err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.stopped:
		return nil, fault(wire.CodeConflict, "the machine is shutting down")
	case len(spec.ID) != 64:
		return nil, fault(wire.CodeInvalid, "container id %q", spec.ID)
	case g.containers[spec.ID] != nil:
		return nil, fault(wire.CodeConflict, "container %s exists", spec.Name)
	case len(spec.Args) == 0:
		return nil, fault(wire.CodeInvalid, "container %s: no command", spec.Name)
	}
	serials := []string{spec.Root.Image}
	if spec.Root.Scratch != "" {
		serials = append(serials, spec.Root.Scratch)
	}
	for _, m := range spec.Mounts {
		if m.Kind == wire.MountVolume || m.Kind == wire.MountImage {
			serials = append(serials, m.Source)
		}
	}
	for _, s := range serials {
		if _, ok := g.disks[s]; !ok {
			return nil, fault(wire.CodeNotFound, "container %s: no disk %q", spec.Name, s)
		}
	}
	c := &container{spec: spec, state: wire.StateCreated, begun: make(chan struct{}), sessions: map[*frames]struct{}{}, dialled: make(chan dialled), gone: make(chan struct{})}
	g.containers[spec.ID] = c
	g.order = append(g.order, spec.ID)
	g.emitLocked(wire.Event{Kind: wire.EventState, Container: spec.ID, State: wire.StateCreated})
	return nil, nil
}

func (g *Guest) start(ref wire.ContainerRef) (any, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c, err := g.findLocked(ref.ID)
	switch {
	case err != nil:
		return nil, err
	case g.stopped:
		return nil, fault(wire.CodeConflict, "the machine is shutting down")
	case c.state == wire.StateRunning:
		return nil, fault(wire.CodeRunning, "container %s is running", c.spec.Name)
	}
	if err := runnable(c.spec.Args[0]); err != nil {
		return nil, err
	}
	output := func(kind wire.FrameKind) *lineWriter {
		return &lineWriter{
			queue: g.out, container: c.spec.ID, stream: kind, discard: !c.spec.Log,
			also: func(kind wire.FrameKind, b []byte) { g.toSessions(c, kind, b) },
		}
	}
	stdout, stderr := output(wire.FrameStdout), output(wire.FrameStderr)
	c.state, c.exit, c.health, c.streak = wire.StateRunning, nil, "", 0
	if c.run == nil {
		defer close(c.begun)
	}
	c.run = g.spawnLocked(c.spec.Args, c.spec.Env, c.spec.Stdin, stdout, stderr, c.spec, func(p *process) {
		stdout.end()
		stderr.end()
		g.ended(c, p)
	})
	now := time.Now()
	g.emitLocked(wire.Event{Kind: wire.EventState, Container: ref.ID, At: now, State: wire.StateRunning})
	if c.spec.Health != nil {
		c.health = wire.HealthStarting
		g.emitLocked(wire.Event{Kind: wire.EventHealth, Container: ref.ID, Health: c.health})
		verdict, out := wire.HealthHealthy, ""
		if g.driver.Probe != nil {
			verdict, out = g.driver.Probe(c.spec)
		}
		if verdict != wire.HealthStarting {
			g.setHealthLocked(c, verdict, out)
		}
	}
	return wire.Started{PID: c.run.pid, At: now}, nil
}

// ended records the end of a container's process.
func (g *Guest) ended(c *container, p *process) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c.state, c.paused, c.exit, c.health = wire.StateExited, false, &p.status, ""
	if p.status.OOM {
		g.emitLocked(wire.Event{Kind: wire.EventOOM, Container: c.spec.ID})
	}
	g.emitLocked(wire.Event{Kind: wire.EventState, Container: c.spec.ID, At: p.status.At, State: c.state, Exit: c.exit})
}

func (g *Guest) exitOf(c *container) *wire.ExitStatus {
	g.mu.Lock()
	defer g.mu.Unlock()
	return c.exit
}

func (g *Guest) stop(s wire.Stop) (any, error) {
	g.mu.Lock()
	c, err := g.findLocked(s.ID)
	if err != nil {
		g.mu.Unlock()
		return nil, err
	}
	p, state := c.run, c.state
	g.mu.Unlock()
	if state == wire.StateCreated {
		return nil, fault(wire.CodeConflict, "container %s was never started", c.spec.Name)
	}
	signal := s.Signal
	if signal == "" {
		signal = c.spec.StopSignal
	}
	if state == wire.StateRunning {
		_ = g.setPaused(s.ID, false) // it may not be
		p.send(signal)
	}
	if s.Grace >= 0 {
		t := time.NewTimer(s.Grace)
		defer t.Stop()
		select {
		case <-p.done:
		case <-t.C:
			p.send("KILL")
		}
	}
	<-p.done // ends with the machine at the latest
	return p.status, nil
}

func (g *Guest) signal(s wire.Signal) (any, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c, err := g.findLocked(s.ID)
	if err != nil {
		return nil, err
	}
	if c.state != wire.StateRunning {
		return nil, fault(wire.CodeConflict, "container %s is not running", c.spec.Name)
	}
	c.run.send(s.Signal)
	return nil, nil
}

func (g *Guest) setPaused(id string, paused bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	c, err := g.findLocked(id)
	switch {
	case err != nil:
		return err
	case c.state != wire.StateRunning:
		return fault(wire.CodeConflict, "container %s is not running", c.spec.Name)
	case c.paused && paused:
		return fault(wire.CodeConflict, "container %s is already paused", c.spec.Name)
	case !c.paused && !paused:
		return fault(wire.CodeConflict, "container %s is not paused", c.spec.Name)
	}
	c.paused = paused
	state := wire.StateRunning
	if paused {
		state = wire.StatePaused
	}
	g.emitLocked(wire.Event{Kind: wire.EventState, Container: id, At: time.Now(), State: state})
	return nil
}

func (g *Guest) removeContainer(ref wire.ContainerRef) (any, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c, err := g.findLocked(ref.ID)
	if err != nil {
		return nil, err
	}
	if c.state == wire.StateRunning {
		return nil, fault(wire.CodeConflict, "container %s is running", c.spec.Name)
	}
	delete(g.containers, ref.ID)
	close(c.gone)
	g.order = slices.DeleteFunc(g.order, func(id string) bool { return id == ref.ID })
	return nil, nil
}

func (g *Guest) top(ref wire.ContainerRef) (any, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c, err := g.findLocked(ref.ID)
	if err != nil {
		return nil, err
	}
	if c.state != wire.StateRunning {
		return nil, fault(wire.CodeConflict, "container %s is not running", c.spec.Name)
	}
	return wire.Top{
		Titles:    []string{"UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"},
		Processes: [][]string{{"root", strconv.Itoa(c.run.pid), "1", "0", "00:00", "?", "00:00:00", strings.Join(c.run.args, " ")}},
	}, nil
}

func (g *Guest) connect(n wire.Connect) (any, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c, err := g.findLocked(n.Container)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(c.spec.Interfaces, func(i wire.Interface) bool { return i.VLAN == n.Interface.VLAN }) {
		return nil, fault(wire.CodeConflict, "container %s has an interface on VLAN %d", c.spec.Name, n.Interface.VLAN)
	}
	c.spec.Interfaces = append(slices.Clone(c.spec.Interfaces), n.Interface)
	return nil, nil
}

func (g *Guest) disconnect(n wire.Connect) (any, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c, err := g.findLocked(n.Container)
	if err != nil {
		return nil, err
	}
	kept := slices.DeleteFunc(slices.Clone(c.spec.Interfaces), func(i wire.Interface) bool { return i.VLAN == n.Interface.VLAN })
	if len(kept) == len(c.spec.Interfaces) {
		return nil, fault(wire.CodeNotFound, "container %s has no interface on VLAN %d", c.spec.Name, n.Interface.VLAN)
	}
	c.spec.Interfaces = kept
	return nil, nil
}

func (g *Guest) setHosts(h wire.Hosts) (any, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c, err := g.findLocked(h.Container)
	if err != nil {
		return nil, err
	}
	c.spec.Hosts = h.Hosts
	return nil, nil
}

// Container is the specification of a container, as changed since, and its
// state; the state is empty when there is none with this id or name.
func (g *Guest) Container(name string) (wire.Container, wire.State) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.namedLocked(name); c != nil {
		return c.spec, c.state
	}
	return wire.Container{}, ""
}

// Containers are the ids in order of creation.
func (g *Guest) Containers() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.order)
}

// Exit ends a running container's process with this status.
func (g *Guest) Exit(name string, status wire.ExitStatus) {
	g.mu.Lock()
	c := g.namedLocked(name)
	if c == nil || c.state != wire.StateRunning {
		g.mu.Unlock()
		return
	}
	p := c.run
	g.mu.Unlock()
	p.finish(status)
	<-p.done
}

// SetHealth is a probe's verdict on a container.
func (g *Guest) SetHealth(name string, verdict wire.Health, output string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.namedLocked(name); c != nil {
		g.setHealthLocked(c, verdict, output)
	}
}

func (g *Guest) setHealthLocked(c *container, verdict wire.Health, output string) {
	c.health = verdict
	if c.streak++; verdict != wire.HealthUnhealthy {
		c.streak = 0
	}
	g.emitLocked(wire.Event{
		Kind: wire.EventHealth, Container: c.spec.ID, Health: verdict, Output: output, FailingStreak: c.streak,
	})
}

// Listen is what a container listens on from now on, left of it not told.
func (g *Guest) Listen(name string, left int, ports ...wire.ListeningPort) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.namedLocked(name); c != nil {
		c.ports = &wire.Event{Kind: wire.EventPorts, Container: c.spec.ID, Ports: ports, PortsLeft: left}
		g.emitLocked(*c.ports)
	}
}

// Print writes a line to a container's standard output log, as its process would.
func (g *Guest) Print(name, line string) error {
	g.mu.Lock()
	c := g.namedLocked(name)
	g.mu.Unlock()
	if c == nil {
		return fault(wire.CodeNotFound, "no container %s", name)
	}
	return g.out.add(wire.LogRecord{
		TimeNanos: time.Now().UnixNano(), Container: c.spec.ID, Stream: wire.FrameStdout, Line: []byte(line),
	})
}

func (g *Guest) namedLocked(name string) *container {
	for _, c := range g.containers {
		if c.spec.ID == name || c.spec.Name == name {
			return c
		}
	}
	return nil
}

// frames writes frames to a session, one at a time.
type frames struct {
	ready <-chan struct{} // closed once s is set; nil when it always was
	end   <-chan struct{} // the machine's

	mu sync.Mutex
	s  *yamux.Stream
}

func (f *frames) write(kind wire.FrameKind, b []byte) error {
	if f.ready != nil {
		select {
		case <-f.ready:
		case <-f.end:
			return errEnded
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return wire.WriteFrame(f.s, kind, b)
}

func (f *frames) exit(status wire.ExitStatus) {
	b, err := json.Marshal(status)
	if err == nil {
		_ = f.write(wire.FrameExit, b)
	}
}

type frameWriter struct {
	f    *frames
	kind wire.FrameKind
}

func (w frameWriter) Write(b []byte) (int, error) {
	if err := w.f.write(w.kind, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (g *Guest) toSessions(c *container, kind wire.FrameKind, b []byte) {
	g.mu.Lock()
	var to []*frames
	for f := range c.sessions {
		to = append(to, f)
	}
	g.mu.Unlock()
	for _, f := range to {
		_ = f.write(kind, b)
	}
}

// relay carries what the host sends on a session to a process, until the session
// or the process ends; gone is called when it was the session.
func (p *process) relay(s *yamux.Stream, gone func()) {
	var buf []byte
	for {
		kind, b, err := wire.ReadFrame(s, &buf)
		if err != nil {
			gone()
			return
		}
		switch kind {
		case wire.FrameStdin:
			_, _ = p.stdin.Write(b) // an ended process takes nothing
		case wire.FrameStdinEOF:
			p.stdin.Close()
		case wire.FrameSignal:
			p.send(string(b))
		case wire.FrameResize: // no terminal
		default:
			gone()
			return
		}
	}
}

func (g *Guest) attach(req wire.Request) (any, func(*yamux.Stream), error) {
	var a wire.Attach
	if err := decode(req, &a); err != nil {
		return nil, nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	c, err := g.findLocked(a.ID)
	if err != nil {
		return nil, nil, err
	}
	if c.state == wire.StateExited {
		return nil, nil, fault(wire.CodeConflict, "container %s is not running", c.spec.Name)
	}
	// Registered before the reply: a container started after it is heard from its
	// first byte.
	ready := make(chan struct{})
	f := &frames{ready: ready, end: g.ctx.Done()}
	c.sessions[f] = struct{}{}
	begun := c.begun
	return nil, func(s *yamux.Stream) {
		f.s = s
		close(ready)
		select {
		case <-begun:
		case <-g.ctx.Done():
			return
		}
		g.mu.Lock()
		p := c.run
		g.mu.Unlock()
		gone := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { p.relay(s, func() { close(gone) }) })
		select {
		case <-p.done:
			f.exit(p.status)
		case <-gone:
		}
		g.mu.Lock()
		delete(c.sessions, f)
		g.mu.Unlock()
		s.SetReadDeadline(past)
		wg.Wait()
	}, nil
}

func (g *Guest) exec(req wire.Request) (any, func(*yamux.Stream), error) {
	var e wire.Exec
	if err := decode(req, &e); err != nil {
		return nil, nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	c, err := g.findLocked(e.ID)
	switch {
	case err != nil:
		return nil, nil, err
	case c.state != wire.StateRunning:
		return nil, nil, fault(wire.CodeConflict, "container %s is not running", c.spec.Name)
	case len(e.Args) == 0:
		return nil, nil, fault(wire.CodeInvalid, "exec: no command")
	}
	if err := runnable(e.Args[0]); err != nil {
		return nil, nil, err
	}
	env := append(slices.Clone(c.spec.Env), e.Env...)
	if e.Detach {
		p := g.spawnLocked(e.Args, env, false, io.Discard, io.Discard, c.spec, func(*process) {})
		return wire.ExecStarted{PID: p.pid}, nil, nil
	}
	g.nextPID++
	pid := g.nextPID
	return wire.ExecStarted{PID: pid}, func(s *yamux.Stream) {
		f := &frames{s: s}
		g.mu.Lock()
		p := g.spawnLocked(e.Args, env, e.Stdin, frameWriter{f, wire.FrameStdout}, frameWriter{f, wire.FrameStderr}, c.spec, func(*process) {})
		p.pid = pid
		g.mu.Unlock()
		var wg sync.WaitGroup
		wg.Go(func() { p.relay(s, func() { p.send("KILL") }) }) // a command ends with its session
		<-p.done
		f.exit(p.status)
		s.SetReadDeadline(past)
		wg.Wait()
	}, nil
}
