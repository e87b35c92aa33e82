package fake

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/stackvm/stack/runtime/machine"
)

// Machine is the host's hold on a machine.
type Machine struct {
	g       *Guest
	adopted bool
	handles machine.Handles
	control net.Conn
	logs    net.Conn

	mu      sync.Mutex
	closed  bool
	notices chan machine.Notice // closed, under mu, with the machine or this hold on it
	ended   bool
}

// newMachine takes over handles, also when it fails.
func newMachine(g *Guest, handles machine.Handles) (*Machine, error) {
	m := &Machine{g: g, handles: handles, notices: make(chan machine.Notice, 16)}
	var err error
	if m.control, err = net.FileConn(handles[handleControl]); err == nil {
		m.logs, err = net.FileConn(handles[handleLogs])
	}
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("machine %q: %w", g.record.Name, err)
	}
	g.hold(m)
	return m, nil
}

// Record implements machine.Machine, as do the methods below.
func (m *Machine) Record() machine.Record   { return m.g.record }
func (m *Machine) Handles() machine.Handles { return m.handles }
func (m *Machine) Control() net.Conn        { return m.control }
func (m *Machine) Logs() net.Conn           { return m.logs }
func (m *Machine) ConsoleTail() string      { return m.g.consoleTail() }

func (m *Machine) Notices() <-chan machine.Notice { return m.notices }

func (m *Machine) Wait(ctx context.Context) (machine.Exit, error) {
	select {
	case <-m.g.done:
		if m.adopted {
			return machine.Exit{}, nil
		}
		return m.g.exit, nil
	case <-ctx.Done():
		return machine.Exit{}, context.Cause(ctx)
	}
}

func (m *Machine) Kill(ctx context.Context) error {
	m.g.end(machine.Exit{Known: true, Code: -1, Signal: "killed"})
	_, err := m.Wait(ctx)
	return err
}

func (m *Machine) AddDisk(ctx context.Context, d machine.Disk) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := d.Validate(); err != nil {
		return fmt.Errorf("machine %q: %w", m.g.record.Name, err)
	}
	return m.g.addDisk(d)
}

func (m *Machine) RemoveDisk(ctx context.Context, serial string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return m.g.removeDisk(serial)
}

func (m *Machine) Pause(ctx context.Context) error {
	return m.setPaused(ctx, true)
}

func (m *Machine) Resume(ctx context.Context) error {
	return m.setPaused(ctx, false)
}

func (m *Machine) setPaused(ctx context.Context, paused bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !m.g.gate.set(paused) {
		return fmt.Errorf("machine %q: %w", m.g.record.Name, machine.ErrGone)
	}
	kind := machine.NoticeResumed
	if paused {
		kind = machine.NoticePaused
	}
	m.g.notify(machine.Notice{Kind: kind})
	return nil
}

func (m *Machine) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	m.endNoticesLocked()
	m.mu.Unlock()

	m.g.release(m)
	var errs []error
	for _, c := range []net.Conn{m.control, m.logs} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	for _, f := range m.handles {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

func (m *Machine) notice(n machine.Notice) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return
	}
	select {
	case m.notices <- n:
	default: // nobody reads: a notice is news, not history
	}
}

func (m *Machine) endNotices() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.endNoticesLocked()
}

func (m *Machine) endNoticesLocked() {
	if !m.ended {
		m.ended = true
		close(m.notices)
	}
}
