//go:build linux

package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stackvm/stack/guest/agent/boottest"
	"github.com/stackvm/stack/guest/wire"
)

// Images that put links and pipes where the agent looks lead it nowhere.
func TestHostileImages(t *testing.T) {
	replace := func(name, target string) func(string) {
		return func(root string) {
			path := filepath.Join(root, name)
			os.RemoveAll(path)
			if err := os.Symlink(target, path); err != nil {
				t.Fatal(err)
			}
		}
	}
	etc := boottest.Image(t, func(root string) {
		replace("etc", "/run/containers")(root)
		replace("tmp", "/proc/self/cwd/../../../run")(root)
		replace("work", "/dangling/../../../etc/made")(root)
	})
	users := boottest.Image(t, func(root string) {
		os.Remove(filepath.Join(root, "etc/passwd"))
		if err := unix.Mkfifo(filepath.Join(root, "etc/passwd"), 0o644); err != nil {
			t.Fatal(err)
		}
		replace("etc/group", "/proc/1/environ")(root)
	})
	images := map[string]string{
		"etc": etc, "users": users,
		"proc": boottest.Image(t, replace("proc", "/etc")),
		"dev":  boottest.Image(t, replace("dev", "tmp")),
		"sys":  boottest.Image(t, func(root string) { boottest.Write(t, root, "sys", "a file", 0o644) }),
	}
	var disks []boottest.Disk
	for serial, path := range images {
		disks = append(disks, boottest.Disk{Serial: serial, Path: path, ReadOnly: true})
	}
	m := boottest.Boot(t, boottest.Options{Disks: disks})
	run := func(image string) (wire.Container, error) {
		c := shell(idA, "trap exit TERM; while :; do sleep 1000 & wait; done")
		c.Root = wire.Root{Image: image}
		c.WorkingDir = "/work/dir"
		c.Files = []wire.File{{Target: "/etc/a/file", Content: []byte("x"), Mode: 0o444}}
		m.Call(wire.OpCreate, c, nil)
		return c, m.Try(wire.OpStart, wire.ContainerRef{ID: idA}, nil)
	}
	remove := func() {
		m.Try(wire.OpStop, wire.Stop{ID: idA, Grace: -1}, nil)
		m.Call(wire.OpRemove, wire.ContainerRef{ID: idA}, nil)
	}

	if _, err := run("etc"); err != nil {
		t.Fatalf("an image with a link for /etc: %v", err)
	}
	// /etc leads to /run/containers inside, and so does what is made below it.
	const want = "/run/containers/made/dir\nx/run:\ncontainers\n\n/run/containers:\na\nhostname\nhosts\nmade\nresolv.conf\n"
	if got := m.Sh(idA, "pwd -P; cat /etc/a/file; ls /run /run/containers"); got != want {
		t.Errorf("inside: %q, want %q", got, want)
	}
	remove()

	if _, err := run("users"); err != nil {
		t.Fatalf("an image with a pipe for /etc/passwd: %v", err)
	}
	if _, err := m.Exec(wire.Exec{ID: idA, Args: []string{"id"}, User: "app"}); err == nil {
		t.Error("a user was found in a pipe")
	}
	if r, err := m.Exec(wire.Exec{ID: idA, Args: []string{"grep", "^[UG]id", "/proc/self/status"}, User: "1234:77"}); err != nil || r.Stdout != "Uid:\t1234\t1234\t1234\t1234\nGid:\t77\t77\t77\t77\n" {
		t.Errorf("a numeric user: %+v, %v", r, err)
	}
	remove()

	for _, image := range []string{"proc", "dev", "sys"} {
		if _, err := run(image); err == nil || !strings.Contains(err.Error(), "on /"+image) {
			t.Errorf("an image without a directory for /%s: %v", image, err)
		}
		remove()
	}
	// The agent's own tree is as it was.
	if _, err := run("users"); err != nil {
		t.Errorf("after all that: %v", err)
	}
	remove()
	if f := m.Shutdown(boottest.Patience); len(f.Unsynced) > 0 {
		t.Errorf("farewell: %+v", f)
	}
}

// A command in a terminal, and a container that is started again.
func TestTerminalExec(t *testing.T) {
	m := boottest.Boot(t, boottest.Options{Disks: []boottest.Disk{{Serial: "img", Path: boottest.Image(t, nil), ReadOnly: true}}})
	c := shell(idA, "echo started; read x")
	c.Root.Scratch, c.Stdin = "", true
	m.Call(wire.OpCreate, c, nil)
	logs, events := m.Logs(), m.Events()
	for i := range 3 {
		m.Call(wire.OpStart, wire.ContainerRef{ID: idA}, nil)
		logs.Await(t, func(r []wire.LogRecord) bool { return len(r) == i+1 })
		r, err := m.Exec(wire.Exec{ID: idA, TTY: true, Args: []string{"sh", "-c", "tty; stty size; echo $TERM; exit 4"}, Size: &wire.WindowSize{Rows: 10, Cols: 20}})
		if err != nil || r.Code != 4 || r.Stdout != "/dev/pts/0\r\n10 20\r\nxterm\r\n" {
			t.Errorf("exec in a terminal: %+v, %v", r, err)
		}
		in, err := m.Open(wire.OpAttach, wire.Attach{ID: idA, Stdin: true}, nil)
		if err != nil {
			t.Fatal(err)
		}
		wire.WriteFrame(in, wire.FrameStdin, []byte("\n"))
		m.Await(events, func(e wire.Event) bool { return e.State == wire.StateExited })
		in.Close()
	}
	// A detached command outlives its stream, and what waits for input from a
	// stream that is gone gets none.
	c.Args = []string{"sleep", "1000"}
	m.Call(wire.OpRemove, wire.ContainerRef{ID: idA}, nil)
	m.Call(wire.OpCreate, c, nil)
	m.Call(wire.OpStart, wire.ContainerRef{ID: idA}, nil)
	stream, err := m.Open(wire.OpExec, wire.Exec{ID: idA, Detach: true, Args: []string{"sh", "-c", "sleep 0.2; echo done > /done"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	stream.Close()
	m.Sh(idA, "while ! [ -e /done ]; do sleep 0.1; done")
}
