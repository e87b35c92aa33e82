//go:build linux

package container

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/stackvm/stack/guest/agent/launch"
	"github.com/stackvm/stack/guest/agent/process"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// Exec is a command running in a container beside its own.
type Exec struct {
	c     *Container
	proc  *process.Process
	stdio *stdio
}

// Exec starts a command in the running container.
func (c *Container) Exec(e *wire.Exec) (*Exec, error) {
	if len(e.Args) == 0 || e.Args[0] == "" {
		return nil, &wire.Error{Code: wire.CodeInvalid, Message: "no command"}
	}
	name, dir := e.User, e.WorkingDir
	if name == "" {
		name = c.spec.User
	}
	if dir == "" {
		dir = c.spec.WorkingDir
	}
	spec, err := c.workload(e.Args, e.Env, dir, name, c.spec.Groups, e.TTY)
	if err != nil {
		return nil, err
	}
	if err := c.confine(spec, e.Privileged || c.spec.Privileged); err != nil {
		return nil, err
	}
	if e.Size != nil {
		spec.Size = *e.Size
	}
	r, paused := c.paused()
	switch {
	case r == nil:
		return nil, c.notRunning()
	case paused:
		return nil, &wire.Error{Code: wire.CodeConflict, Message: fmt.Sprintf("container %s is paused, unpause the container before exec", c.spec.Name)}
	}
	at := launch.Placement{}
	pidfd, err := unix.PidfdOpen(r.proc.PID, 0)
	if err != nil {
		return nil, c.notRunning()
	}
	join := os.NewFile(uintptr(pidfd), "pidfd")
	defer join.Close()
	at.Files, spec.Fds.Join = []*os.File{join}, 0
	if at.PIDNS, err = os.Open(fmt.Sprintf("/proc/%d/ns/pid", r.proc.PID)); err != nil {
		return nil, c.notRunning()
	}
	defer at.PIDNS.Close()

	x := &Exec{c: c}
	if !e.TTY {
		if x.stdio, err = newStdio(e.Stdin, spec.UID); err != nil {
			return nil, err
		}
		at.Stdio = x.stdio.child
	}
	var tty *os.File
	x.proc, tty, err = c.startIn(r, spec, at)
	if x.stdio != nil {
		x.stdio.closeChild()
	}
	if err != nil {
		if x.stdio != nil {
			x.stdio.close()
		}
		return nil, err
	}
	if tty != nil {
		x.stdio = terminalStdio(tty)
	}
	return x, nil
}

// startIn starts a process in the container's cgroup. One that has made groups
// below its own and moved into one, as systemd does, makes its own refuse
// processes; then the first process's group is where to go.
func (c *Container) startIn(r *run, spec *launch.Spec, at launch.Placement) (*process.Process, *os.File, error) {
	group, err := c.group.Open()
	if err != nil {
		return nil, nil, err
	}
	at.Cgroup = group
	proc, tty, err := c.set.machine.Launcher.Start(spec, at)
	group.Close()
	if err == nil || !busy(err) {
		return proc, tty, err
	}
	text, readErr := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", r.proc.PID))
	path, ok := strings.CutPrefix(strings.TrimSpace(string(text)), "0::")
	if readErr != nil || !ok || strings.Contains(path, "..") {
		return nil, nil, err
	}
	if group, err = os.OpenFile("/sys/fs/cgroup"+path, unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return nil, nil, err
	}
	defer group.Close()
	at.Cgroup = group
	return c.set.machine.Launcher.Start(spec, at)
}

// PID returns the command's process id in the machine.
func (x *Exec) PID() int { return x.proc.PID }

// Detach lets the command run on by itself; its output goes nowhere.
func (x *Exec) Detach() {
	x.stdio.closeStdin()
	x.stdio.pump(func(wire.FrameKind) func([]byte) { return func([]byte) {} })
	go x.finish()
}

// Serve carries the command's streams over the host's until it ends, and says
// how. When the host lets go the command runs on, its output read and dropped.
func (x *Exec) Serve(stream io.ReadWriter) error {
	var outputs outputs
	o := &output{w: stream}
	outputs.add(o)
	x.stdio.pump(func(kind wire.FrameKind) func([]byte) {
		return func(p []byte) {
			if p != nil {
				outputs.send(kind, p)
			}
		}
	})
	go func() { _ = receive(stream, true, func() *stdio { return x.stdio }, x.signal) }() // ends with the stream
	return o.exit(x.finish())
}

func (x *Exec) signal(name string) {
	if sig, err := parseSignal(name); err == nil {
		x.proc.Signal(sig)
	}
}

func (x *Exec) finish() wire.ExitStatus {
	code, at := x.proc.Wait()
	x.stdio.drain()
	x.stdio.close()
	return wire.ExitStatus{Code: code, At: at}
}
