//go:build linux

package launch

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/stackvm/stack/guest/agent/process"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// startTimeout bounds the second stage, which takes milliseconds, or tenths of a
// second on a busy host under emulation.
const startTimeout = time.Minute

// Names the binary is run under, argv[0], for its other parts.
const (
	StageName = "stack-launch"
	InitName  = "stack-init"
)

// binaryFd is the least descriptor of the sealed copy: above all that a child is
// given, whose numbers begin at 0 and replace what the agent has there before the
// copy is executed.
const binaryFd = 2048

// Launcher starts workloads.
type Launcher struct {
	table *process.Table
	seal  func() (*os.File, error) // once
}

// New returns a launcher that enters its children into table.
func New(table *process.Table) *Launcher {
	return &Launcher{table: table, seal: sync.OnceValues(sealedCopy)}
}

// Prepare makes the sealed copy of the running binary, which the first Start
// needs. It takes a tenth of a second under emulation, and so is not part of the
// agent's own start.
func (l *Launcher) Prepare() error {
	_, err := l.seal()
	return err
}

func sealedCopy() (*os.File, error) {
	fault := func(err error) (*os.File, error) { return nil, fmt.Errorf("copying the agent: %w", err) }
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return fault(err)
	}
	defer self.Close()
	low, err := unix.MemfdCreate("stack", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fault(err)
	}
	fd, err := unix.FcntlInt(uintptr(low), unix.F_DUPFD_CLOEXEC, binaryFd)
	unix.Close(low)
	if err != nil {
		return fault(err)
	}
	binary := os.NewFile(uintptr(fd), "stack")
	// By read and write: the kernel's own copying goes page by page through a pipe.
	if _, err := io.CopyBuffer(struct{ io.Writer }{binary}, struct{ io.Reader }{self}, make([]byte, 256<<10)); err != nil {
		binary.Close()
		return fault(err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		binary.Close()
		return fault(fmt.Errorf("sealing: %w", err))
	}
	return binary, nil
}

// Placement says where a workload starts.
type Placement struct {
	Cgroup *os.File    // group to start in
	PIDNS  *os.File    // pid namespace to join; nil: a new one
	Stdio  [3]*os.File // the workload's ends; the caller closes them. Not with a TTY
	Files  []*os.File  // what Spec's descriptors refer to; the caller closes them
}

// Start runs the workload and returns once it executes. With a TTY it returns
// the terminal's master side too, non-blocking. A workload that cannot be
// executed is a *wire.Error with CodeNoCommand or CodeCannotExec.
func (l *Launcher) Start(spec *Spec, at Placement) (*process.Process, *os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("launching: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "launch"), os.NewFile(uintptr(pair[1]), "launch")
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("launching: %w", err)
	}
	defer conn.Close()

	proc, err := l.fork(spec, at, theirs)
	theirs.Close()
	if err != nil {
		return nil, nil, fmt.Errorf("launching: %w", err)
	}
	// A file system that hangs must not hang the container's start, and with it
	// its stop, for ever.
	conn.SetDeadline(time.Now().Add(startTimeout))
	if err := wire.WriteMessage(conn, spec); err != nil {
		return nil, nil, l.abandon(proc, fmt.Errorf("launching: %w", err))
	}
	tty, err := await(conn.(*net.UnixConn))
	if err != nil {
		if tty != nil {
			tty.Close()
		}
		return nil, nil, l.abandon(proc, err)
	}
	if spec.TTY && tty == nil {
		return nil, nil, l.abandon(proc, errors.New("launching: no terminal arrived"))
	}
	return proc, tty, nil
}

func (l *Launcher) abandon(p *process.Process, err error) error {
	p.Signal(unix.SIGKILL)
	<-p.Done()
	return err
}

func (l *Launcher) fork(spec *Spec, at Placement, channel *os.File) (*process.Process, error) {
	attr := &syscall.ProcAttr{
		// The stage lives for milliseconds: collecting garbage would be most of them.
		Env: []string{"GOGC=off"},
		Sys: &syscall.SysProcAttr{Setsid: true},
	}
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	for _, f := range at.Stdio {
		if f == nil {
			f = null
		}
		attr.Files = append(attr.Files, f.Fd())
	}
	attr.Files = append(attr.Files, channel.Fd())
	for _, f := range at.Files {
		attr.Files = append(attr.Files, f.Fd())
	}
	if at.Cgroup != nil {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(at.Cgroup.Fd())
	}
	if spec.Enter != nil {
		attr.Sys.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWUTS
		if at.PIDNS == nil {
			attr.Sys.Cloneflags |= unix.CLONE_NEWPID
		}
	}
	binary, err := l.seal()
	if err != nil {
		return nil, err
	}
	path := fmt.Sprintf("/proc/self/fd/%d", binary.Fd())
	argv := []string{StageName}
	if at.PIDNS == nil {
		return l.table.Start(path, argv, attr)
	}

	// Only children enter a pid namespace that a thread has joined; the thread
	// is given up afterwards.
	type result struct {
		proc *process.Process
		err  error
	}
	started := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(at.PIDNS.Fd()), unix.CLONE_NEWPID); err != nil {
			started <- result{nil, fmt.Errorf("joining the pid namespace: %w", err)}
			return
		}
		proc, err := l.table.Start(path, argv, attr)
		started <- result{proc, err}
	}()
	r := <-started
	return r.proc, r.err
}

// await reads what the second stage says: 'T' with a terminal, a fault, or
// nothing when the channel closed on a successful exec.
func await(conn *net.UnixConn) (tty *os.File, err error) {
	var kind [1]byte
	oob := make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := conn.ReadMsgUnix(kind[:], oob)
		if n == 0 || errors.Is(err, io.EOF) {
			return tty, nil
		}
		if err != nil {
			return tty, fmt.Errorf("launching: %w", err)
		}
		if kind[0] == 'T' && tty == nil {
			if tty, err = received(oob[:oobn]); err != nil {
				return nil, err
			}
			continue
		}
		var f fault
		if err := wire.ReadMessage(conn, &f); err != nil {
			return tty, fmt.Errorf("launching: %w", err)
		}
		return tty, &wire.Error{Code: f.Code, Message: f.Message}
	}
}

func received(oob []byte) (*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("launching: receiving the terminal: %d messages, %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("launching: receiving the terminal: %d descriptors, %w", len(fds), err)
	}
	unix.CloseOnExec(fds[0])
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}
