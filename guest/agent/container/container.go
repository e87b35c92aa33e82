//go:build linux

package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/stackvm/stack/guest/agent/cgroup"
	"github.com/stackvm/stack/guest/agent/disk"
	"github.com/stackvm/stack/guest/agent/dnsstub"
	"github.com/stackvm/stack/guest/agent/inroot"
	"github.com/stackvm/stack/guest/agent/launch"
	"github.com/stackvm/stack/guest/agent/process"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// Container is one container of the machine.
type Container struct {
	set  *Set
	made bool // Create has finished, and others may see it; guarded by set.mu
	spec wire.Container

	// Made by make, then constant until unmake.
	root  *inroot.Root // the assembled tree, which the workload will see as /
	net   *os.File     // network namespace
	ipc   *os.File     // IPC namespace
	group *cgroup.Group
	held  []heldMount
	nodes []launch.Node
	// sockets lead to the host, by their places in the container.
	sockets map[string]*socket
	// volatile are the file systems that begin empty with each start.
	volatile []*os.File
	undo     []func() error // in order of making

	changing sync.Mutex // held while starting, removing, connecting; taken before mu
	plugs    []plug     // guarded by changing
	stub     *dnsstub.Stub
	ports    *ports // nil unless it tells of its ports

	mu      sync.Mutex
	state   wire.State
	run     *run // nil when not running
	exit    wire.ExitStatus
	health  wire.Event    // the last report; its Kind is empty without a probe
	ended   chan struct{} // closed when the present run ends, or the next
	logged  uint64        // number of its last log record
	outputs outputs
}

// run is one life of a container, from start to end.
type run struct {
	proc  *process.Process
	stdio *stdio
	oom   int64 // kills counted before it began
	told  int64 // kills counted when one was last reported; guarded by the container's mu
	done  chan struct{}

	probing probing
}

// ID returns the container's id.
func (c *Container) ID() string { return c.spec.ID }

// Snapshot returns the events that describe the present state.
func (c *Container) Snapshot() []wire.Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := wire.Event{Kind: wire.EventState, Container: c.spec.ID, At: time.Now(), State: c.state}
	if c.state == wire.StateExited {
		exit := c.exit
		e.Exit, e.At = &exit, exit.At
	}
	all := []wire.Event{e}
	if c.health.Kind != "" && c.run != nil {
		all = append(all, c.health)
	}
	if c.ports != nil {
		all = append(all, c.ports.event())
	}
	return all
}

// validate refuses what would make no sense later on.
func validate(spec *wire.Container) error {
	fault := func(format string, args ...any) error {
		return &wire.Error{Code: wire.CodeInvalid, Message: fmt.Sprintf(format, args...)}
	}
	if len(spec.ID) == 0 || len(spec.ID) > 64 || strings.Trim(spec.ID, "0123456789abcdef") != "" {
		return fault("container id %.70q: not hexadecimal", spec.ID)
	}
	if len(spec.Args) == 0 || spec.Args[0] == "" {
		return fault("container %s: no command", spec.Name)
	}
	for _, m := range spec.Mounts {
		if !strings.HasPrefix(m.Target, "/") {
			return fault("mount target %q: not absolute", m.Target)
		}
	}
	for key := range spec.Sysctls {
		if strings.Contains(key, "..") || key == "" {
			return fault("sysctl %q: not a name", key)
		}
	}
	return nil
}

// do runs a step and remembers how to undo it.
func (c *Container) do(undo func() error) { c.undo = append(c.undo, undo) }

func (c *Container) make(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, c.unmake())
		}
	}()
	dir := Dir + "/" + c.spec.ID
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	c.do(func() error { return removeTree(dir) })
	ctx, cancel := context.WithCancel(ctx)
	fetched := c.prefetch(ctx)
	defer func() {
		if err != nil {
			cancel()
		}
		fetched()
		cancel()
	}()
	if err := c.namespaces(); err != nil {
		return err
	}
	if err := c.network(); err != nil {
		return err
	}
	if c.group, err = cgroup.New(c.spec.ID, c.spec.Limits); err != nil {
		return err
	}
	c.do(c.group.Remove)
	if err := c.devices(); err != nil {
		return err
	}
	if err := c.tree(ctx, dir); err != nil {
		return err
	}
	if err := c.tellPorts(); err != nil {
		return err
	}
	return c.set.machine.Memory.Watch(c.group, c.oomKilled)
}

// unmake undoes what make did, last first, and goes on after errors.
func (c *Container) unmake() error {
	var errs []error
	for i := len(c.undo) - 1; i >= 0; i-- {
		errs = append(errs, c.undo[i]())
	}
	c.undo = nil
	return errors.Join(errs...)
}

// namespaces makes the network and IPC namespaces, or takes another container's.
func (c *Container) namespaces() error {
	flags := 0
	if c.spec.JoinNetwork != "" {
		other, err := c.set.Get(c.spec.JoinNetwork)
		if err != nil {
			return fmt.Errorf("joining its network: %w", err)
		}
		if c.net, err = duplicate(other.net); err != nil {
			return err
		}
	} else {
		flags |= unix.CLONE_NEWNET
	}
	if c.spec.JoinIPC != "" {
		other, err := c.set.Get(c.spec.JoinIPC)
		if err != nil {
			return fmt.Errorf("joining its IPC: %w", err)
		}
		if c.ipc, err = duplicate(other.ipc); err != nil {
			return err
		}
	} else {
		flags |= unix.CLONE_NEWIPC
	}
	c.do(func() error { return errors.Join(closeIf(c.net), closeIf(c.ipc)) })
	if flags == 0 {
		return nil
	}
	// The thread that made them ends with its goroutine; descriptors hold them.
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- func() (err error) {
			if err := unix.Unshare(flags); err != nil {
				return fmt.Errorf("making namespaces: %w", err)
			}
			if flags&unix.CLONE_NEWNET != 0 {
				if c.net, err = os.Open("/proc/thread-self/ns/net"); err != nil {
					return err
				}
			}
			if flags&unix.CLONE_NEWIPC != 0 {
				if c.ipc, err = os.Open("/proc/thread-self/ns/ipc"); err != nil {
					return err
				}
			}
			return nil
		}()
	}()
	return <-done
}

// oomKilled is called when the kernel counted a memory event in the group.
func (c *Container) oomKilled() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.run != nil {
		c.reportOOM(c.run)
	}
}

// reportOOM reports the kills in r that were not reported yet, and whether there
// was one at all. The kernel holds its notifications back for some milliseconds:
// the end of a run asks too, so that the kill that ended it is reported before
// the end. The caller holds mu.
func (c *Container) reportOOM(r *run) bool {
	kills := c.group.OOMKills()
	if kills > r.told {
		r.told = kills
		c.set.machine.Emit(wire.Event{Kind: wire.EventOOM, Container: c.spec.ID, At: time.Now()})
	}
	return kills > r.oom
}

// removeTree removes a directory of the agent's tmpfs. It never enters another
// file system: what should have been unmounted by now may be a user's data.
func removeTree(dir string) error {
	f, err := os.OpenFile(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	var own, st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &own); err != nil {
		return err
	}
	for _, name := range names {
		path := dir + "/" + name
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		switch {
		case st.Dev != own.Dev:
			err = &os.PathError{Op: "remove", Path: path, Err: errors.New("still mounted")}
		case st.Mode&unix.S_IFMT == unix.S_IFDIR:
			err = removeTree(path)
		default:
			err = os.Remove(path)
		}
		if err != nil {
			return err
		}
	}
	return os.Remove(dir)
}

// release is for disks: the step that gives up a use of one.
func release(m *disk.Mount) func() error { return m.Release }

func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func closeIf(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}
