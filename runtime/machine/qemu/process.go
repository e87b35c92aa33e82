//go:build linux

package qemu

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stackvm/stack/runtime/machine"
)

// process is a running QEMU, held by a pidfd: a number could be another's by the
// time it is used.
type process struct {
	pid   int
	pidfd *os.File
	start uint64
	state byte // when it was opened, as in /proc/PID/stat
}

// newProcess takes over a pidfd.
func newProcess(pid, pidfd int) (*process, error) {
	// Non-blocking, so that waiting is the Go poller's and ends with Close.
	if err := unix.SetNonblock(pidfd, true); err != nil {
		unix.Close(pidfd)
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	p := &process{pid: pid, pidfd: os.NewFile(uintptr(pidfd), "pidfd")}
	var err error
	if p.start, p.state, err = stat(pid); err != nil {
		p.pidfd.Close()
		return nil, machine.ErrGone
	}
	return p, nil
}

// findProcess opens the process of a record.
func findProcess(r machine.Record) (*process, error) {
	boot, err := hostBoot()
	if err != nil {
		return nil, err
	}
	if boot != r.HostBoot {
		return nil, machine.ErrGone
	}
	fd, err := unix.PidfdOpen(r.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, machine.ErrGone
	}
	if err != nil {
		return nil, err
	}
	// The start time is read while the pidfd holds the process: equal, it is
	// this one.
	p, err := newProcess(r.PID, fd)
	if err != nil {
		return nil, err
	}
	if p.start != r.StartTime || p.state == 'Z' || p.state == 'X' {
		p.pidfd.Close()
		reap(r.PID) // a child of ours that nobody waited for
		return nil, machine.ErrGone
	}
	return p, nil
}

// wait returns when the process has ended, or the pidfd was closed: then
// os.ErrClosed. It reaps a child.
func (p *process) wait() (machine.Exit, error) {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return machine.Exit{}, err
	}
	var exit machine.Exit
	err = raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, 0); err == nil && n == 0 {
			return false
		}
		exit = reap(p.pid)
		return true
	})
	return exit, err
}

// reap returns how an ended child ended; nothing is known of a process that is
// no child, or that somebody else reaped. Until it is reaped nobody else can have
// the pid.
func reap(pid int) machine.Exit {
	var status unix.WaitStatus
	for {
		n, err := unix.Wait4(pid, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n != pid {
			return machine.Exit{}
		}
		break
	}
	if status.Signaled() {
		return machine.Exit{Known: true, Code: -1, Signal: status.Signal().String()}
	}
	return machine.Exit{Known: true, Code: status.ExitStatus()}
}

func (p *process) kill() error {
	var killErr error
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	err = raw.Control(func(fd uintptr) {
		killErr = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0)
	})
	if err == nil {
		err = killErr
	}
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// stat reads a process's start time, in clock ticks since boot, and its state.
func stat(pid int) (start uint64, state byte, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	// The name, in brackets, may hold anything, brackets too.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	start, err = strconv.ParseUint(fields[19], 10, 64) // field 22; the first here is field 3
	return start, fields[0][0], err
}

func hostBoot() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}
