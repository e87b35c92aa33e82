package keeper

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	goruntime "runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// linkFD is the supervisor's end of the socketpair.
const linkFD = 3

const (
	maxMessage = 1 << 20 // bytes of one message's JSON
	// The kernel passes at most 253 files with one message.
	maxFiles = 200
)

type op string

const (
	opPut   op = "put"   // Names, as many files: held from now on
	opDrop  op = "drop"  // Names: closed
	opHeld  op = "held"  // to the supervisor: Names, as many files
	opReady op = "ready" // to the supervisor: that was all
	opExec  op = "exec"  // Path: when the supervisor has ended, become that binary
	opEnd   op = "end"   // when the supervisor has ended, end too
)

type message struct {
	Op    op       `json:"op"`
	Names []string `json:"names,omitempty"`
	Path  string   `json:"path,omitempty"`
}

// send writes a message with its files, which stay the caller's.
func send(c *net.UnixConn, m message, files []*os.File) error {
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(body) > maxMessage || len(files) > maxFiles {
		return fmt.Errorf("message of %d bytes with %d files", len(body), len(files))
	}
	var fds []int
	for _, f := range files {
		raw, err := f.SyscallConn() // Fd would make it blocking
		if err != nil {
			return err
		}
		if err := raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) }); err != nil {
			return err
		}
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	head := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	n, _, err := c.WriteMsgUnix(head, rights, nil)
	for ; err == nil && n < len(head); n++ {
		_, err = c.Write(head[n : n+1])
	}
	if err == nil {
		_, err = c.Write(body)
	}
	goruntime.KeepAlive(files)
	return err
}

// receive reads a message; its files are the caller's.
func receive(c *net.UnixConn) (m message, files []*os.File, err error) {
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			files = nil
		}
	}()
	head := make([]byte, 4)
	rights := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, rn, flags, _, err := c.ReadMsgUnix(head, rights)
	if err != nil {
		return m, nil, err
	}
	if n == 0 {
		return m, nil, io.EOF
	}
	var fds []int
	if rn > 0 {
		control, err := unix.ParseSocketControlMessage(rights[:rn])
		if err != nil {
			return m, nil, err
		}
		for _, cm := range control {
			got, err := unix.ParseUnixRights(&cm)
			if err != nil {
				return m, nil, err
			}
			fds = append(fds, got...)
		}
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
		files = append(files, os.NewFile(uintptr(fd), "kept"))
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return m, files, errors.New("files were lost: the limit of open files is too low")
	}
	if _, err := io.ReadFull(c, head[n:]); err != nil {
		return m, files, err
	}
	size := binary.BigEndian.Uint32(head)
	if size > maxMessage {
		return m, files, fmt.Errorf("message of %d bytes", size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c, body); err != nil {
		return m, files, err
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return m, files, err
	}
	if (m.Op == opPut || m.Op == opHeld) && len(m.Names) != len(files) {
		return m, files, fmt.Errorf("%d names for %d files", len(m.Names), len(files))
	}
	return m, files, nil
}

// sendHeld sends every file by name, in as many messages as it takes.
func sendHeld(c *net.UnixConn, o op, held map[string]*os.File) error {
	for names := range slices.Chunk(slices.Sorted(maps.Keys(held)), maxFiles) {
		files := make([]*os.File, len(names))
		for i, name := range names {
			files[i] = held[name]
		}
		if err := send(c, message{Op: o, Names: names}, files); err != nil {
			return err
		}
	}
	return nil
}

// Link is the supervisor's side. Its methods may be called concurrently.
type Link struct {
	mu sync.Mutex // one message at a time
	c  *net.UnixConn
}

// Attach returns the link to the keeper that started this process, and what it
// holds, by name; those files are the caller's, the keeper has its own.
func Attach() (*Link, map[string]*os.File, error) {
	unix.CloseOnExec(linkFD)
	f := os.NewFile(linkFD, "keeper")
	if f == nil {
		return nil, nil, errors.New("attaching to the keeper: this process was not started by one")
	}
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, nil, fmt.Errorf("attaching to the keeper: %w", err)
	}
	c, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, nil, errors.New("attaching to the keeper: this process was not started by one")
	}
	held := map[string]*os.File{}
	for {
		m, files, err := receive(c)
		if err != nil {
			for _, f := range held {
				f.Close()
			}
			c.Close()
			return nil, nil, fmt.Errorf("attaching to the keeper: %w", err)
		}
		if m.Op == opReady {
			return &Link{c: c}, held, nil
		}
		for i, name := range m.Names {
			held[name] = files[i]
		}
	}
}

// Put makes the keeper hold duplicates of files, by name; one of the same name
// is replaced. When it returns they are safe, even if this process dies at once.
func (l *Link) Put(files map[string]*os.File) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := sendHeld(l.c, opPut, files); err != nil {
		return fmt.Errorf("leaving files with the keeper: %w", err)
	}
	return nil
}

// Drop makes the keeper close its duplicates.
func (l *Link) Drop(names ...string) error {
	return l.tell(message{Op: opDrop, Names: names})
}

// Exec makes the keeper become the binary at path, an absolute one, once this
// process has ended: with all it holds, and a supervisor of that binary.
func (l *Link) Exec(path string) error { return l.tell(message{Op: opExec, Path: path}) }

// End makes the keeper end once this process has, exit status 0.
func (l *Link) End() error { return l.tell(message{Op: opEnd}) }

func (l *Link) tell(m message) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := send(l.c, m, nil); err != nil {
		return fmt.Errorf("telling the keeper: %w", err)
	}
	return nil
}

// Close lets go of the keeper; what it holds stays held.
func (l *Link) Close() error { return l.c.Close() }
