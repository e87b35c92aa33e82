//go:build linux

package qemu

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/sandbox"
)

// maxLine bounds one message of QEMU's, which a machine may have taken over. The
// longest that an honest one sends is a list of block nodes.
const maxLine = 4 << 20

// monitor is a client of QEMU's machine protocol over an open connection that
// may have served another client before, up to the middle of a message.
type monitor struct {
	conn    *net.UnixConn
	onEvent func(event) // called in order; must not call execute
	prefix  string      // of this client's ids, so that nobody else's replies count

	writing sync.Mutex // held for one message

	mu      sync.Mutex
	next    int
	pending map[string]chan message // closed without a message when the connection ends
	err     error                   // why it ended
}

// message is what QEMU sends: a greeting, a reply, or an event.
type message struct {
	ID     string          `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *qmpError       `json:"error"`
	event
}

type event struct {
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
}

type qmpError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *qmpError) Error() string { return e.Desc }

func newMonitor(conn *net.UnixConn, onEvent func(event)) *monitor {
	return &monitor{conn: conn, onEvent: onEvent, prefix: wire.NewKey().String() + "-", pending: map[string]chan message{}}
}

// run reads until the connection ends; the caller owns the goroutine.
func (m *monitor) run() {
	in := bufio.NewReaderSize(m.conn, 64<<10)
	var err error
	for err == nil {
		var line []byte
		if line, err = readLine(in); err != nil {
			break
		}
		var msg message
		if json.Unmarshal(line, &msg) != nil {
			continue // the rest of a message that a predecessor began to read
		}
		if msg.Event != "" {
			m.onEvent(msg.event)
			continue
		}
		m.mu.Lock()
		ch := m.pending[msg.ID]
		delete(m.pending, msg.ID)
		m.mu.Unlock()
		if ch != nil {
			ch <- msg
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err = err; errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
		m.err = errors.New("QEMU closed its monitor")
	}
	for id, ch := range m.pending {
		delete(m.pending, id)
		close(ch)
	}
}

// broken reports whether the connection has ended, as it has before a command that
// waits for its answer fails by that.
func (m *monitor) broken() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err != nil
}

// readLine reads up to a newline, at most maxLine bytes.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			return nil, fmt.Errorf("a monitor message of more than %d bytes", maxLine)
		}
		if err == nil && line == nil {
			return part, nil
		}
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// negotiate brings a connection, fresh or used, to where commands are taken: a
// byte that no message holds makes QEMU forget half a command, and whatever was
// said before the answer to our own is not ours.
func (m *monitor) negotiate(ctx context.Context, used bool) error {
	if used {
		m.writing.Lock()
		_, err := m.conn.Write([]byte("\xff\n"))
		m.writing.Unlock()
		if err != nil {
			return fmt.Errorf("qemu: %w", err)
		}
	}
	_, err := m.execute(ctx, "qmp_capabilities", nil)
	var fault *qmpError
	if errors.As(err, &fault) && fault.Class == "CommandNotFound" && used {
		return nil // negotiated by a predecessor
	}
	return err
}

// execute runs a command and returns what it returned. Files, at most one, go
// along with it for the commands that take a descriptor.
func (m *monitor) execute(ctx context.Context, command string, args any, files ...*os.File) (json.RawMessage, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	if m.err != nil {
		defer m.mu.Unlock()
		return nil, fmt.Errorf("qemu: %s: %w", command, m.err)
	}
	m.next++
	id, ch := m.prefix+strconv.Itoa(m.next), make(chan message, 1)
	m.pending[id] = ch
	m.mu.Unlock()

	msg, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        string `json:"id"`
	}{command, args, id})
	if err == nil {
		err = m.send(ctx, append(msg, '\n'), files)
	}
	if err != nil {
		m.forget(id)
		return nil, fmt.Errorf("qemu: %s: %w", command, err)
	}
	select {
	case reply, ok := <-ch:
		if !ok {
			m.mu.Lock()
			defer m.mu.Unlock()
			return nil, fmt.Errorf("qemu: %s: %w", command, m.err)
		}
		if reply.Error != nil {
			return nil, fmt.Errorf("qemu: %s: %w", command, reply.Error)
		}
		return reply.Return, nil
	case <-ctx.Done():
		m.forget(id)
		return nil, fmt.Errorf("qemu: %s: %w", command, context.Cause(ctx))
	}
}

func (m *monitor) forget(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.pending, id)
}

// send writes one whole message, or leaves the connection useless.
func (m *monitor) send(ctx context.Context, msg []byte, files []*os.File) error {
	var rights []byte
	for _, f := range files {
		fd, err := sandbox.Dup(f)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		rights = unix.UnixRights(fd)
	}
	m.writing.Lock()
	defer m.writing.Unlock()
	if err := m.conn.SetWriteDeadline(time.Time{}); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { m.conn.SetWriteDeadline(time.Unix(1, 0)) })()
	// The descriptor travels with the first byte.
	n, _, err := m.conn.WriteMsgUnix(msg[:1], rights, nil)
	if err == nil {
		_, err = m.conn.Write(msg[n:])
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// lastLine is the last of some lines that says anything.
func lastLine(b []byte) string {
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	return string(bytes.TrimSpace(lines[len(lines)-1]))
}
