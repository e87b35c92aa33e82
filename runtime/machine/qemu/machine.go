//go:build linux

package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackvm/stack/runtime/machine"
	"github.com/stackvm/stack/runtime/sandbox"
)

const (
	consoleBytes = 64 << 10
	errorsBytes  = 8 << 10

	// How long the last bytes of an ended QEMU's streams are waited for: they are
	// in the sockets already.
	drainTimeout = time.Second
)

// Machine is a running QEMU.
type Machine struct {
	driver  *Driver
	record  machine.Record
	handles machine.Handles
	process *process
	adopted bool // set before the machine is handed out

	control, logs, console *net.UnixConn
	said                   *os.File // what QEMU itself prints
	qmp                    *monitor
	consoleTail, errors    *tail

	readers sync.WaitGroup // of the console and of QEMU's messages
	wg      sync.WaitGroup // all goroutines
	done    chan struct{}  // closed when the process has ended
	exit    machine.Exit   // valid when done is closed

	// disksMu is held for a whole attaching or detaching; taken before mu.
	disksMu sync.Mutex
	disks   map[string]*attached // by serial

	mu          sync.Mutex
	closed      bool
	leaving     map[string]chan struct{} // devices being removed, by id
	notices     chan machine.Notice
	noticesOver bool
}

// newMachine makes the host's side of a running process. It takes over handles,
// also when it fails, and the process only when it succeeds.
func newMachine(d *Driver, r machine.Record, handles machine.Handles, p *process) (_ *Machine, err error) {
	m := &Machine{
		driver: d, record: r, handles: handles, process: p,
		done: make(chan struct{}), disks: map[string]*attached{}, leaving: map[string]chan struct{}{},
		notices: make(chan machine.Notice, 64),
	}
	defer func() {
		if err != nil {
			_ = m.closeFiles()
			if m.consoleTail != nil {
				_ = m.consoleTail.close()
			}
		}
	}()
	if m.said, err = pipeReader(handles[handleErrors]); err != nil {
		return nil, err
	}
	if m.control, err = streamConn(handles, handleControl); err != nil {
		return nil, err
	}
	if m.logs, err = streamConn(handles, handleLogs); err != nil {
		return nil, err
	}
	if m.console, err = streamConn(handles, handleConsole); err != nil {
		return nil, err
	}
	conn, err := streamConn(handles, handleMonitor)
	if err != nil {
		return nil, err
	}
	m.qmp = newMonitor(conn, m.onEvent)
	if m.consoleTail, err = openTail(filepath.Join(r.Dir, "console"), consoleBytes); err != nil {
		return nil, err
	}
	if m.errors, err = openTail(filepath.Join(r.Dir, "errors"), errorsBytes); err != nil {
		return nil, err
	}
	m.wg.Go(m.qmp.run)
	m.readers.Go(func() { m.consoleTail.follow(m.console) })
	m.readers.Go(func() { m.errors.follow(m.said) })
	m.wg.Go(m.reap)
	return m, nil
}

// reap waits for the end of the process or of this hold on it.
func (m *Machine) reap() {
	exit, err := m.process.wait()
	if err != nil { // let go of
		m.readers.Wait()
		return
	}
	m.console.SetReadDeadline(time.Now().Add(drainTimeout))
	m.said.SetReadDeadline(time.Now().Add(drainTimeout))
	m.readers.Wait()
	m.exit = exit
	m.mu.Lock()
	m.endNoticesLocked()
	m.mu.Unlock()
	close(m.done)
}

// Record implements machine.Machine, as do the methods below.
func (m *Machine) Record() machine.Record         { return m.record }
func (m *Machine) Handles() machine.Handles       { return m.handles }
func (m *Machine) Control() net.Conn              { return m.control }
func (m *Machine) Logs() net.Conn                 { return m.logs }
func (m *Machine) Notices() <-chan machine.Notice { return m.notices }

// ConsoleTail returns the kernel's last lines, and behind them what QEMU itself
// said, if it did.
func (m *Machine) ConsoleTail() string {
	text := string(m.consoleTail.bytes())
	if said := string(m.errors.bytes()); said != "" {
		text += "\nQEMU: " + said
	}
	return printable(text)
}

func (m *Machine) Wait(ctx context.Context) (machine.Exit, error) {
	select {
	case <-m.done:
		return m.exit, nil
	case <-ctx.Done():
		return machine.Exit{}, context.Cause(ctx)
	}
}

func (m *Machine) Kill(ctx context.Context) error {
	select {
	case <-m.done:
		return nil
	default:
	}
	p := m.process
	m.mu.Lock()
	closed := m.closed
	m.mu.Unlock()
	if closed { // the pidfd went with the hold: find the process again
		again, err := findProcess(m.record)
		if errors.Is(err, machine.ErrGone) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("killing machine %q: %w", m.record.Name, err)
		}
		defer again.pidfd.Close()
		p = again
	}
	if err := p.kill(); err != nil {
		return fmt.Errorf("killing machine %q: %w", m.record.Name, err)
	}
	if closed {
		defer context.AfterFunc(ctx, func() { p.pidfd.Close() })()
		if _, err := p.wait(); err != nil {
			return context.Cause(ctx)
		}
		return nil
	}
	_, err := m.Wait(ctx)
	return err
}

func (m *Machine) Pause(ctx context.Context) error { return m.run(ctx, "stop") }

func (m *Machine) Resume(ctx context.Context) error { return m.run(ctx, "cont") }

func (m *Machine) run(ctx context.Context, command string) error {
	if _, err := m.qmp.execute(ctx, command, nil); err != nil {
		return fmt.Errorf("machine %q: %w", m.record.Name, err)
	}
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
	err := errors.Join(m.closeFiles(), m.process.pidfd.Close())
	m.readers.Wait()
	m.wg.Wait()
	return errors.Join(err, m.consoleTail.close(), m.errors.close())
}

func (m *Machine) closeFiles() error {
	var errs []error
	for _, c := range []*net.UnixConn{m.control, m.logs, m.console} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	if m.qmp != nil {
		errs = append(errs, m.qmp.conn.Close())
	}
	if m.said != nil {
		errs = append(errs, m.said.Close())
	}
	for _, f := range m.handles {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// pipeReader returns a reading end of its own, which Close and deadlines end
// whatever mode the handle came in.
func pipeReader(f *os.File) (*os.File, error) {
	fd, err := sandbox.Dup(f)
	if err == nil {
		if err = unix.SetNonblock(fd, true); err == nil {
			return os.NewFile(uintptr(fd), f.Name()), nil
		}
		unix.Close(fd)
	}
	return nil, fmt.Errorf("handle %q: %w", f.Name(), err)
}

// learnStatus tells of an adopted machine that is paused.
func (m *Machine) learnStatus(ctx context.Context) error {
	reply, err := m.qmp.execute(ctx, "query-status", nil)
	if err != nil {
		return err
	}
	var status struct {
		Status string `json:"status"`
	}
	if err := json.Unmarshal(reply, &status); err != nil {
		return fmt.Errorf("qemu: query-status: %w", err)
	}
	switch status.Status {
	case "io-error":
		// Which disk, and of what, was said to the last owner; only a full one
		// pauses a machine.
		m.notice(machine.Notice{Kind: machine.NoticeDiskFull, Text: "the host had no space for a disk"})
	case "paused":
		m.notice(machine.Notice{Kind: machine.NoticePaused})
	}
	return nil
}

// onEvent is called by the monitor's reader.
func (m *Machine) onEvent(e event) {
	var data struct {
		Device string `json:"device"`
		Node   string `json:"node-name"`
		Action string `json:"action"`
		Full   bool   `json:"nospace"`
		Reason string `json:"reason"`
	}
	if len(e.Data) > 0 && json.Unmarshal(e.Data, &data) != nil {
		return
	}
	switch e.Event {
	case "DEVICE_DELETED":
		m.mu.Lock()
		ch := m.leaving[data.Device]
		delete(m.leaving, data.Device)
		m.mu.Unlock()
		if ch != nil {
			close(ch)
		}
	case "BLOCK_IO_ERROR":
		n := machine.Notice{Kind: machine.NoticeDiskError, Text: printable(data.Reason)}
		n.Serial, _ = strings.CutPrefix(data.Node, diskPrefix)
		if data.Full && data.Action == "stop" {
			n.Kind = machine.NoticeDiskFull
		}
		m.notice(n)
	case "STOP":
		m.notice(machine.Notice{Kind: machine.NoticePaused})
	case "RESUME":
		m.notice(machine.Notice{Kind: machine.NoticeResumed})
	}
}

func (m *Machine) notice(n machine.Notice) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.noticesOver {
		return
	}
	select {
	case m.notices <- n:
	default: // nobody has read 64 of them
		m.driver.log.Warn("notice dropped", "machine", m.record.Name, "kind", n.Kind)
	}
}

func (m *Machine) endNoticesLocked() {
	if !m.noticesOver {
		m.noticesOver = true
		close(m.notices)
	}
}

// printable keeps a machine's words from steering a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || (r >= ' ' && r != 0x7f && (r < 0x80 || r > 0x9f)) {
			return r
		}
		return -1
	}, strings.ToValidUTF8(s, ""))
}
