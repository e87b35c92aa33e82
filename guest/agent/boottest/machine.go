//go:build linux

package boottest

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
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/stackvm/stack/guest/wire"
)

// Patience is how long a test waits for one answer: emulation on a busy machine
// is slow.
const Patience = 2 * time.Minute

// Disk is a disk of the machine.
type Disk struct {
	Serial   string
	Path     string
	ReadOnly bool
}

// Options are what a machine is booted with.
type Options struct {
	Disks     []Disk
	MemoryMiB int // default 512
	Cmdline   string
}

// Machine is a booted machine.
type Machine struct {
	Key     wire.Key
	Session *yamux.Session
	Trunk   *net.UnixConn // the other end of the machine's network card, a frame a datagram

	t       testing.TB
	process *os.Process
	dir     string
	control net.Conn
	exited  chan struct{}
}

// Boot starts a machine and greets its agent.
func Boot(t testing.TB, o Options) *Machine {
	t.Helper()
	kernel := need(t)
	m := &Machine{t: t, dir: t.TempDir(), Key: wire.NewKey(), exited: make(chan struct{})}
	if o.MemoryMiB == 0 {
		o.MemoryMiB = 512
	}
	args := []string{
		"-M", "microvm,acpi=off,rtc=on", "-accel", "tcg,tb-size=64", "-cpu", "max,-erms,-fsrm", "-smp", "2",
		"-m", strconv.Itoa(o.MemoryMiB), "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-serial", "file:" + m.path("console"),
		"-kernel", kernel, "-initrd", initramfs(t),
		"-append", strings.Join(Cmdline, " ") + " loglevel=4 " + wire.KeyParameter + "=" + m.Key.String() + " " + o.Cmdline,
		"-qmp", "unix:" + m.path("qmp") + ",server=on,wait=off",
		"-device", "virtio-serial-device,max_ports=8",
		"-device", "virtio-rng-device",
		"-device", "virtio-balloon-device,free-page-reporting=on",
		"-device", "virtio-scsi-device,id=scsi",
		"-netdev", "dgram,id=trunk,local.type=unix,local.path=" + m.path("nic") + ",remote.type=unix,remote.path=" + m.path("trunk"),
		"-device", "virtio-net-device,netdev=trunk,host_mtu=65520,mac=02:00:00:00:00:01",
	}
	for _, port := range []string{wire.PortControl, wire.PortLogs, wire.PortShares} {
		args = append(args,
			"-chardev", "socket,id="+port+",server=on,wait=off,path="+m.path(port),
			"-device", "virtserialport,chardev="+port+",name="+port)
	}
	for i, d := range o.Disks {
		node := "disk" + strconv.Itoa(i)
		args = append(args,
			"-blockdev", fmt.Sprintf("driver=raw,node-name=%s,read-only=%v,discard=unmap,file.driver=file,file.filename=%s", node, onOff(d.ReadOnly), d.Path),
			"-device", "scsi-hd,bus=scsi.0,drive="+node+",serial="+d.Serial)
	}
	trunk, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path("trunk"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	m.Trunk = trunk
	t.Cleanup(func() { trunk.Close() })

	var stderr bytes.Buffer
	cmd := exec.Command("qemu-system-x86_64", args...)
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.process = cmd.Process
	go func() {
		defer close(m.exited)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-m.exited
		if t.Failed() {
			console, _ := os.ReadFile(m.path("console"))
			t.Logf("console:\n%s\nqemu: %s", console, stderr.String())
		}
	})
	m.control = m.Dial(wire.PortControl)
	m.Greet()
	return m
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

func (m *Machine) path(name string) string { return filepath.Join(m.dir, name) }

// Dial connects to one of the machine's ports.
func (m *Machine) Dial(port string) net.Conn {
	m.t.Helper()
	deadline := time.Now().Add(Patience)
	for {
		c, err := net.Dial("unix", m.path(port))
		if err == nil {
			m.t.Cleanup(func() { c.Close() })
			return c
		}
		// QEMU has no way to say that its sockets are there.
		select {
		case <-m.exited:
			m.t.Fatal("qemu ended before its sockets were there")
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("connecting to port %s: %v", port, err)
		}
	}
}

// Greet starts a session on the control port: the first, or one that takes the
// place of another as after the death of a host.
func (m *Machine) Greet() wire.HelloReply {
	m.t.Helper()
	m.control.SetDeadline(time.Now().Add(Patience))
	if err := wire.Greet(m.control, m.Key); err != nil {
		m.t.Fatal(err)
	}
	m.control.SetDeadline(time.Time{})
	config := yamux.DefaultConfig()
	config.EnableKeepAlive = false
	config.LogOutput = io.Discard
	session, err := yamux.Client(unclosed{m.control}, config)
	if err != nil {
		m.t.Fatal(err)
	}
	m.Session = session
	m.t.Cleanup(func() { session.Close() })
	var reply wire.HelloReply
	m.Call(wire.OpHello, wire.Hello{Protocol: wire.Protocol, Now: time.Now(), Entropy: bytes.Repeat([]byte{7}, 64)}, &reply)
	return reply
}

// unclosed lets a session end without the port.
type unclosed struct{ net.Conn }

func (u unclosed) Close() error { return u.SetReadDeadline(time.Unix(1, 0)) }

// Interrupt leaves the present session behind as a host that is killed does, in
// the middle of a message each way. Greet begins the next.
func (m *Machine) Interrupt() {
	m.t.Helper()
	// A yamux header that announces more data than comes.
	_, _ = m.control.Write([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0x10, 0, 'h', 'a', 'l', 'f'})
	m.Session.Close()
}

// Send sends a request and does not wait for the reply.
func (m *Machine) Send(op wire.Op, in any) *yamux.Stream {
	m.t.Helper()
	stream, err := m.Session.OpenStream()
	if err != nil {
		m.t.Fatalf("%s: %v", op, err)
	}
	stream.SetDeadline(time.Now().Add(Patience))
	body, err := json.Marshal(in)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := wire.WriteMessage(stream, wire.Request{Op: op, Body: body}); err != nil {
		m.t.Fatalf("%s: %v", op, err)
	}
	return stream
}

// Open sends a request and reads the reply; frames or bytes may follow.
func (m *Machine) Open(op wire.Op, in, out any) (*yamux.Stream, error) {
	m.t.Helper()
	stream := m.Send(op, in)
	if err := ReadReply(stream, out); err != nil {
		stream.Close()
		return nil, err
	}
	return stream, nil
}

// ReadReply reads a reply's result, or its error.
func ReadReply(r io.Reader, out any) error {
	var reply wire.Reply
	if err := wire.ReadMessage(r, &reply); err != nil {
		return err
	}
	if reply.Error != nil {
		return reply.Error
	}
	if out == nil || len(reply.Body) == 0 {
		return nil
	}
	return json.Unmarshal(reply.Body, out)
}

// Try makes a request without more to it.
func (m *Machine) Try(op wire.Op, in, out any) error {
	m.t.Helper()
	stream, err := m.Open(op, in, out)
	if err == nil {
		stream.Close()
	}
	return err
}

// Call is Try that must succeed.
func (m *Machine) Call(op wire.Op, in, out any) {
	m.t.Helper()
	if err := m.Try(op, in, out); err != nil {
		m.t.Fatalf("%s: %v", op, err)
	}
}

// Result is what a command wrote and how it ended.
type Result struct {
	Stdout, Stderr string
	wire.ExitStatus
}

// Collect reads frames until the last.
func Collect(r io.Reader) (Result, error) {
	var result Result
	var buf []byte
	for {
		kind, p, err := wire.ReadFrame(r, &buf)
		if err != nil {
			return result, err
		}
		switch kind {
		case wire.FrameStdout:
			result.Stdout += string(p)
		case wire.FrameStderr:
			result.Stderr += string(p)
		case wire.FrameExit:
			return result, json.Unmarshal(p, &result.ExitStatus)
		}
	}
}

// Exec runs a command in a container to its end.
func (m *Machine) Exec(e wire.Exec) (Result, error) {
	m.t.Helper()
	stream, err := m.Open(wire.OpExec, e, nil)
	if err != nil {
		return Result{}, err
	}
	defer stream.Close()
	return Collect(stream)
}

// Sh runs a shell command in a container and returns its output; it must exit 0.
func (m *Machine) Sh(id, script string) string {
	m.t.Helper()
	r, err := m.Exec(wire.Exec{ID: id, Args: []string{"sh", "-c", script}})
	if err != nil || r.Code != 0 {
		m.t.Fatalf("sh -c %q: %v, status %d\n%s%s", script, err, r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// Shutdown ends the machine and returns its farewell once QEMU has exited.
func (m *Machine) Shutdown(grace time.Duration) wire.Farewell {
	m.t.Helper()
	var farewell wire.Farewell
	m.Call(wire.OpShutdown, wire.Shutdown{Grace: grace}, &farewell)
	select {
	case <-m.exited:
	case <-time.After(Patience):
		m.t.Fatal("the machine did not exit after its farewell")
	}
	return farewell
}

// Events subscribes; the channel closes with the session.
func (m *Machine) Events() <-chan wire.Event {
	m.t.Helper()
	stream, err := m.Open(wire.OpEvents, nil, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	stream.SetDeadline(time.Time{})
	events := make(chan wire.Event, 1024)
	go func() {
		defer close(events)
		for {
			var e wire.Event
			if wire.ReadMessage(stream, &e) != nil {
				return
			}
			events <- e
		}
	}()
	return events
}

// Await returns the first event that matches.
func (m *Machine) Await(events <-chan wire.Event, match func(wire.Event) bool) wire.Event {
	m.t.Helper()
	timeout := time.After(Patience)
	for {
		select {
		case e, ok := <-events:
			if !ok {
				m.t.Fatal("no more events")
			}
			if match(e) {
				return e
			}
		case <-timeout:
			m.t.Fatal("the event did not come")
		}
	}
}

// Logs takes and acknowledges log records until the machine ends.
type Logs struct {
	mu      sync.Mutex
	changed sync.Cond
	records []wire.LogRecord
	err     error
}

// Logs attaches to the log port.
func (m *Machine) Logs() *Logs {
	m.t.Helper()
	conn := m.Dial(wire.PortLogs)
	conn.SetDeadline(time.Now().Add(Patience))
	if err := wire.Greet(conn, m.Key); err != nil {
		m.t.Fatal(err)
	}
	conn.SetDeadline(time.Time{})
	l := new(Logs)
	l.changed.L = &l.mu
	go func() {
		err := wire.WriteLogAck(conn, 0)
		r := bufio.NewReader(conn)
		for err == nil {
			var rec wire.LogRecord
			if rec, err = wire.ReadLogRecord(r); err == nil {
				l.mu.Lock()
				l.records = append(l.records, rec)
				l.changed.Broadcast()
				l.mu.Unlock()
				err = wire.WriteLogAck(conn, rec.Seq)
			}
		}
		l.mu.Lock()
		l.err = err
		l.changed.Broadcast()
		l.mu.Unlock()
	}()
	return l
}

// Await returns the records once they satisfy done.
func (l *Logs) Await(t testing.TB, done func([]wire.LogRecord) bool) []wire.LogRecord {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.mu.Lock(); l.changed.Broadcast(); l.mu.Unlock() })()
	l.mu.Lock()
	defer l.mu.Unlock()
	for !done(l.records) {
		if l.err != nil || ctx.Err() != nil {
			t.Fatalf("log records: %v, %v; %d came", l.err, ctx.Err(), len(l.records))
		}
		l.changed.Wait()
	}
	return append([]wire.LogRecord(nil), l.records...)
}

// AddDisk attaches a disk to the running machine.
func (m *Machine) AddDisk(d Disk) {
	m.t.Helper()
	m.qmp("blockdev-add", map[string]any{
		"driver": "raw", "node-name": "node-" + d.Serial, "read-only": d.ReadOnly, "discard": "unmap",
		"file": map[string]any{"driver": "file", "filename": d.Path},
	})
	m.qmp("device_add", map[string]any{"driver": "scsi-hd", "id": "dev-" + d.Serial, "bus": "scsi.0", "drive": "node-" + d.Serial, "serial": d.Serial})
}

func (m *Machine) qmp(command string, arguments map[string]any) {
	m.t.Helper()
	c := m.Dial("qmp")
	defer c.Close()
	in := json.NewDecoder(c)
	out := json.NewEncoder(c)
	answer := func() (map[string]any, error) {
		for {
			var v map[string]any
			if err := in.Decode(&v); err != nil {
				return nil, err
			}
			if v["event"] == nil {
				return v, nil
			}
		}
	}
	_, err := answer() // the banner
	for _, v := range []map[string]any{{"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}} {
		var got map[string]any
		err = errors.Join(err, out.Encode(v))
		if err == nil {
			got, err = answer()
		}
		if err == nil && got["error"] != nil {
			err = fmt.Errorf("%v", got["error"])
		}
	}
	if err != nil {
		m.t.Fatalf("qmp %s: %v", command, err)
	}
}

// CPU returns the processor time that the machine has taken of the host's.
func (m *Machine) CPU() time.Duration {
	m.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.process.Pid))
	if err != nil {
		m.t.Fatal(err)
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	var ticks int64
	for _, f := range fields[11:13] {
		n, _ := strconv.ParseInt(f, 10, 64)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// Console returns what the machine's kernel and agent printed.
func (m *Machine) Console() string {
	text, _ := os.ReadFile(m.path("console"))
	return strings.TrimSpace(string(text))
}
