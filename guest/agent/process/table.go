//go:build linux

package process

import (
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrEnded is returned for a signal to a process that has ended.
var ErrEnded = errors.New("process has ended")

// Table knows the children of this process.
type Table struct {
	sigs chan os.Signal
	done chan struct{}

	mu       sync.Mutex // held from fork to entry, and while reaping
	children map[int]*Process
}

// Process is a child.
type Process struct {
	PID int

	table *Table
	done  chan struct{}

	// Set before done is closed.
	status unix.WaitStatus
	ended  time.Time
}

// NewTable starts reaping.
func NewTable() *Table {
	t := &Table{
		sigs:     make(chan os.Signal, 1),
		done:     make(chan struct{}),
		children: make(map[int]*Process),
	}
	signal.Notify(t.sigs, unix.SIGCHLD)
	go t.run()
	return t
}

// Close stops reaping.
func (t *Table) Close() {
	signal.Stop(t.sigs)
	close(t.sigs)
	<-t.done
}

func (t *Table) run() {
	defer close(t.done)
	for range t.sigs {
		t.reap()
	}
}

func (t *Table) reap() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if p := t.children[pid]; p != nil {
			delete(t.children, pid)
			p.status, p.ended = status, time.Now()
			close(p.done)
		}
	}
}

// Start runs a program as fork and exec do. The caller may hold its thread in
// the namespaces that the child is to inherit.
func (t *Table) Start(path string, argv []string, attr *syscall.ProcAttr) (*Process, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return nil, err
	}
	p := &Process{PID: pid, table: t, done: make(chan struct{})}
	t.children[pid] = p
	return p, nil
}

// Done is closed when the process has ended and been reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait returns how the process ended, in a shell's terms: its exit status, or
// 128 and the signal's number.
func (p *Process) Wait() (code int, at time.Time) {
	<-p.done
	if p.status.Signaled() {
		return 128 + int(p.status.Signal()), p.ended
	}
	return p.status.ExitStatus(), p.ended
}

// Signal sends sig to the process, or returns ErrEnded.
func (p *Process) Signal(sig unix.Signal) error {
	return p.kill(p.PID, sig)
}

// SignalGroup sends sig to the process group that the process leads.
func (p *Process) SignalGroup(sig unix.Signal) error { return p.kill(-p.PID, sig) }

func (p *Process) kill(pid int, sig unix.Signal) error {
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	select {
	case <-p.done:
		return ErrEnded
	default:
		return unix.Kill(pid, sig)
	}
}
