//go:build linux

package agent_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stackvm/stack/guest/agent/boottest"
	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/share"
	"golang.org/x/sys/unix"
)

// A host that is killed leaves half of everything on the stream; the next one
// greets, and finds containers, commands and logs as if nothing had been.
func TestSessionLoss(t *testing.T) {
	m := boottest.Boot(t, boottest.Options{Disks: []boottest.Disk{
		{Serial: "img", Path: boottest.Image(t, nil), ReadOnly: true},
	}})
	c := shell(idA, "trap exit TERM; i=0; while :; do i=$((i+1)); echo line $i; [ $((i % 1000)) -eq 0 ] && sleep 0.1; done")
	c.Root.Scratch = ""
	m.Call(wire.OpCreate, c, nil)
	m.Call(wire.OpStart, wire.ContainerRef{ID: idA}, nil)

	// A command that is attached when the session dies runs on.
	stream, err := m.Open(wire.OpExec, wire.Exec{ID: idA, Args: []string{"sh", "-c", "echo began; i=0; while [ $i -lt 20000 ]; do echo some output $i; i=$((i+1)); done; echo done > /survived"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var buf []byte
	if kind, p, err := wire.ReadFrame(stream, &buf); err != nil || kind != wire.FrameStdout || !strings.HasPrefix(string(p), "began") {
		t.Fatalf("first frame: %d %q %v", kind, p, err)
	}
	for range 3 {
		m.Interrupt()
		m.Greet()
	}
	events := m.Events()
	first := m.Await(events, func(e wire.Event) bool { return true })
	if first.Container != idA || first.State != wire.StateRunning {
		t.Errorf("snapshot begins with %+v", first)
	}
	m.Sh(idA, "while ! [ -e /survived ]; do sleep 0.1; done")

	// Two hosts after one another read the log without a gap or a double.
	logs := m.Logs()
	records := logs.Await(t, func(r []wire.LogRecord) bool { return len(r) >= 10_000 })
	for i, r := range records {
		if r.Seq != uint64(i+1) || !bytes.Equal(r.Line, []byte("line "+itoa(i+1))) {
			t.Fatalf("record %d: %d %q", i, r.Seq, r.Line)
		}
	}
	m.Call(wire.OpSignal, wire.Signal{ID: idA, Signal: "KILL"}, nil)
	exited := m.Await(events, func(e wire.Event) bool { return e.State == wire.StateExited })
	if exited.Exit.Code != 137 || exited.Exit.OOM {
		t.Errorf("killed: %+v", exited.Exit)
	}

	// A host that dies while the machine ends leaves the farewell to the next.
	c.Args = []string{"sh", "-c", "trap 'sleep 2; exit 5' TERM; while :; do sleep 1000 & wait; done"}
	c.ID = idB
	m.Call(wire.OpCreate, c, nil)
	m.Call(wire.OpStart, wire.ContainerRef{ID: idB}, nil)
	m.Sh(idB, "true")
	m.Send(wire.OpShutdown, wire.Shutdown{Grace: boottest.Patience})
	m.Interrupt()
	m.Greet()
	farewell := m.Shutdown(boottest.Patience)
	if farewell.Containers[idB].Code != 5 || farewell.Containers[idA].Code != 137 || len(farewell.Unsynced) > 0 {
		t.Errorf("farewell to the second host: %+v", farewell)
	}
}

func itoa(n int) string {
	var b []byte
	for ; n > 0; n /= 10 {
		b = append([]byte{byte('0' + n%10)}, b...)
	}
	return string(b)
}

// Terminals, standard input, and the ways a container ends.
func TestStreams(t *testing.T) {
	m := boottest.Boot(t, boottest.Options{Disks: []boottest.Disk{
		{Serial: "img", Path: boottest.Image(t, nil), ReadOnly: true},
	}})
	logs := m.Logs()
	events := m.Events()
	start := func(c wire.Container) {
		t.Helper()
		c.Root.Scratch = ""
		m.Call(wire.OpCreate, c, nil)
		m.Call(wire.OpStart, wire.ContainerRef{ID: c.ID}, nil)
	}
	exit := func(id string) wire.ExitStatus {
		t.Helper()
		e := m.Await(events, func(e wire.Event) bool { return e.Container == id && e.State == wire.StateExited })
		m.Call(wire.OpRemove, wire.ContainerRef{ID: id}, nil)
		return *e.Exit
	}

	// Standard input, attached before the start.
	c := shell(idA, "cat; echo end")
	c.Root.Scratch, c.Stdin = "", true
	m.Call(wire.OpCreate, c, nil)
	attached, err := m.Open(wire.OpAttach, wire.Attach{ID: idA, Stdin: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	m.Call(wire.OpStart, wire.ContainerRef{ID: idA}, nil)
	wire.WriteFrame(attached, wire.FrameStdin, []byte("typed\n"))
	wire.WriteFrame(attached, wire.FrameStdinEOF, nil)
	if r, err := boottest.Collect(attached); err != nil || r.Stdout != "typed\nend\n" || r.Code != 0 {
		t.Errorf("attached: %+v, %v", r, err)
	}
	exit(idA)

	// A terminal: its size, its signals.
	c = shell(idA, "trap 'echo winch $(stty size)' WINCH; trap 'echo int; exit 9' INT; tty; while :; do sleep 1000 & wait; done")
	c.TTY, c.Stdin, c.Init = true, true, true
	start(c)
	logs.Await(t, func(r []wire.LogRecord) bool { return strings.HasPrefix(string(r[len(r)-1].Line), "/dev/pts/0") })
	if attached, err = m.Open(wire.OpAttach, wire.Attach{ID: idA, Stdin: true, Size: &wire.WindowSize{Rows: 33, Cols: 77}}, nil); err != nil {
		t.Fatal(err)
	}
	logs.Await(t, func(r []wire.LogRecord) bool { return strings.HasPrefix(string(r[len(r)-1].Line), "winch 33 77") })
	wire.WriteFrame(attached, wire.FrameStdin, []byte{3})
	if r, err := boottest.Collect(attached); err != nil || r.Code != 9 || !strings.Contains(r.Stdout, "int\r\n") {
		t.Errorf("a terminal's interrupt: %+v, %v", r, err)
	}
	exit(idA)

	// A shell without a handler for the stop signal: its child gets it, and
	// nobody waits for the grace.
	start(shell(idA, "sleep 1000; echo after"))
	var status wire.ExitStatus
	m.Call(wire.OpStop, wire.Stop{ID: idA, Grace: -1}, &status)
	if status.Code != 0 && status.Code != 143 && status.Code != 137 {
		t.Errorf("stopped a shell without a handler: %+v", status)
	}
	exit(idA)
	// One that handles it and does not end is killed after the grace.
	start(shell(idA, "trap : TERM; while :; do sleep 1000 & wait; done"))
	m.Call(wire.OpStop, wire.Stop{ID: idA, Grace: 50 * time.Millisecond}, &status)
	if status.Code != 137 {
		t.Errorf("stopped one that ignores it: %+v", status)
	}
	exit(idA)
	// Under the reaper the signal always arrives.
	c = shell(idA, "")
	c.Args, c.Init = []string{"sleep", "1000"}, true
	start(c)
	if top := m.Sh(idA, "cat /proc/1/comm /proc/1/cmdline | tr '\\0' ' '"); !strings.Contains(top, "stack-init") {
		t.Errorf("PID 1 is %q", top)
	}
	m.Call(wire.OpStop, wire.Stop{ID: idA, Grace: -1}, &status)
	if status.Code != 143 {
		t.Errorf("stopped under the reaper: %+v", status)
	}
	exit(idA)

	// Too much memory.
	c = shell(idA, "tail /dev/zero; echo unreached")
	c.Args = []string{"tail", "/dev/zero"}
	c.Limits = wire.Limits{MemoryBytes: 32 << 20, SwapBytes: 32 << 20}
	start(c)
	kills := 0
	ended := m.Await(events, func(e wire.Event) bool {
		if e.Kind == wire.EventOOM && e.Container == idA {
			kills++
		}
		return e.Container == idA && e.State == wire.StateExited
	})
	if ended.Exit.Code != 137 || !ended.Exit.OOM || kills != 1 {
		t.Errorf("out of memory: %+v after %d reports of a kill", ended.Exit, kills)
	}
	m.Call(wire.OpRemove, wire.ContainerRef{ID: idA}, nil)

	// What cannot be run.
	c = shell(idA, "")
	c.Root.Scratch, c.Args = "", []string{"no-such-command"}
	m.Call(wire.OpCreate, c, nil)
	err = m.Try(wire.OpStart, wire.ContainerRef{ID: idA}, nil)
	if e, ok := errors.AsType[*wire.Error](err); !ok || e.Code != wire.CodeNoCommand || !strings.Contains(e.Message, `exec: "no-such-command": executable file not found in $PATH`) {
		t.Errorf("starting what is not there: %v", err)
	}
	m.Call(wire.OpRemove, wire.ContainerRef{ID: idA}, nil)
	if err := m.Try(wire.OpStart, wire.ContainerRef{ID: idA}, nil); err == nil {
		t.Error("a removed container started")
	}

	// Long lines, lines without an end.
	start(shell(idA, "head -c 40000 /dev/zero | tr '\\0' x; echo; printf last"))
	records := logs.Await(t, func(r []wire.LogRecord) bool { return string(r[len(r)-1].Line) == "last" })
	parts := records[len(records)-4:]
	if len(parts[0].Line) != wire.MaxLogLine || !parts[0].Partial || !parts[1].Partial || len(parts[2].Line) != 40000-2*wire.MaxLogLine || parts[2].Partial || parts[3].Partial {
		t.Errorf("a long line's records: %d %v, %d %v, %d %v, %v", len(parts[0].Line), parts[0].Partial, len(parts[1].Line), parts[1].Partial, len(parts[2].Line), parts[2].Partial, parts[3].Partial)
	}
	exit(idA)
}

// Two containers of one machine share namespaces; files are copied in and out;
// a host directory is mounted.
func TestSharing(t *testing.T) {
	m := boottest.Boot(t, boottest.Options{Disks: []boottest.Disk{
		{Serial: "img", Path: boottest.Image(t, nil), ReadOnly: true},
	}})
	host := t.TempDir()
	os.WriteFile(filepath.Join(host, "file"), []byte("from the host"), 0o644)
	conn := m.Dial(wire.PortShares)
	served := make(chan error, 1)
	go func() {
		served <- share.Serve(conn, m.Key, []share.Share{
			{Name: "code", Path: host}, {Name: "one", Path: filepath.Join(host, "file"), ReadOnly: true},
		})
	}()
	const wait = "trap exit TERM; while :; do sleep 1000 & wait; done"
	a, b := shell(idA, wait), shell(idB, wait)
	a.Root.Scratch, b.Root.Scratch = "", ""
	a.Hostname = "alpha"
	a.Mounts = []wire.Mount{
		{Kind: wire.MountShare, Source: "code", Target: "/code"},
		{Kind: wire.MountShare, Source: "one", Target: "/etc/one.conf", File: true, ReadOnly: true},
	}
	b.JoinNetwork, b.JoinIPC, b.JoinPID = idA, idA, idA
	m.Call(wire.OpCreate, a, nil)
	m.Call(wire.OpStart, wire.ContainerRef{ID: idA}, nil)
	m.Call(wire.OpCreate, b, nil)
	m.Call(wire.OpStart, wire.ContainerRef{ID: idB}, nil)
	for _, ns := range []string{"net", "ipc", "pid"} {
		if x, y := m.Sh(idA, "readlink /proc/self/ns/"+ns), m.Sh(idB, "readlink /proc/self/ns/"+ns); x != y {
			t.Errorf("%s namespaces: %s and %s", ns, x, y)
		}
	}
	m.Sh(idA, "echo shared > /dev/shm/x")
	if got := m.Sh(idB, "cat /dev/shm/x; cat /etc/hosts | grep -c localhost"); got != "shared\n2\n" {
		t.Errorf("through /dev/shm: %q", got)
	}
	if got := m.Sh(idA, "cat /code/file /etc/one.conf; (echo > /etc/one.conf) 2>/dev/null || echo ' ro'; echo back > /code/new"); got != "from the hostfrom the host ro\n" {
		t.Errorf("through a share: %q", got)
	}
	if got, err := os.ReadFile(filepath.Join(host, "new")); err != nil || string(got) != "back\n" {
		t.Errorf("on the host: %q, %v", got, err)
	}
	changed := func() (ctime unix.Timespec) {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(host, "file"), &st); err != nil {
			t.Fatal(err)
		}
		return st.Ctim
	}
	before := changed()
	m.Call(wire.OpInvalidate, wire.ShareChanges{Share: "code", Paths: []string{"file", "../../x", "gone/too"}}, nil)
	if changed() == before {
		t.Error("a host's edit was not raised: the file's mode was not set again")
	}
	var stats wire.Stats
	m.Call(wire.OpStats, nil, &stats)
	if s := stats.Containers[idA]; stats.AgentRSS > 12<<20 || s.MemoryBytes == 0 || s.CPUNanos == 0 || s.PIDs < 2 {
		t.Errorf("stats: %+v", stats)
	}
	var top wire.Top
	m.Call(wire.OpTop, wire.ContainerRef{ID: idB}, &top)
	if len(top.Processes) != 2 || len(top.Processes) > 0 && top.Processes[0][0] != "root" {
		t.Errorf("top: %+v", top)
	}

	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "in", Mode: 0o640, Uid: 1000, Gid: 2000, Size: 5})
	w.Write([]byte("bytes"))
	w.Close()
	stream, err := m.Open(wire.OpPut, wire.Archive{ID: idA, Path: "/tmp"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	stream.Write(packed.Bytes())
	stream.Close()
	if err := boottest.ReadReply(stream, nil); err != nil {
		t.Errorf("put: %v", err)
	}
	if got := m.Sh(idA, "cat /tmp/in; stat -c ' %a %u:%g' /tmp/in"); got != "bytes 640 1000:2000\n" {
		t.Errorf("put: %q", got)
	}
	var stat wire.ArchiveStat
	if stream, err = m.Open(wire.OpGet, wire.Archive{ID: idA, Path: "/tmp/in"}, &stat); err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(stream)
	h, err := r.Next()
	content, _ := io.ReadAll(r)
	if err != nil || h.Name != "in" || string(content) != "bytes" || stat.Size != 5 {
		t.Errorf("get: %+v, %v, %q, %+v", h, err, content, stat)
	}
	err = m.Try(wire.OpStat, wire.Archive{ID: idA, Path: "/nowhere"}, nil)
	if e, ok := errors.AsType[*wire.Error](err); !ok || e.Code != wire.CodeNotFound {
		t.Errorf("stat of nothing: %v", err)
	}
	if f := m.Shutdown(boottest.Patience); len(f.Unsynced) > 0 || len(f.Containers) != 2 {
		t.Errorf("farewell: %+v", f)
	}
	if err := <-served; err != nil {
		t.Errorf("the share server ended with %v", err)
	}
}
