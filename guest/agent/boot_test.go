//go:build linux

package agent_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stackvm/stack/guest"
	"github.com/stackvm/stack/guest/agent/boottest"
	"github.com/stackvm/stack/guest/kernel/cmdline"
	"github.com/stackvm/stack/guest/wire"
)

func TestMain(m *testing.M) {
	g, err := guest.Find(os.Getenv)
	if err != nil {
		boottest.NoKernel = err
	} else {
		boottest.Kernel = g.Kernel
	}
	boottest.Cmdline = append(cmdline.Common(), cmdline.Emulated(cmdline.HostTSCKHz())...)
	os.Exit(boottest.Main(m))
}

const (
	idA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	idB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

func shell(id, script string) wire.Container {
	return wire.Container{
		ID: id, Name: "test-" + id[:4], Log: true,
		Root: wire.Root{Image: "img", Scratch: "scratch-" + id[:1], ScratchBytes: 256 << 20},
		Args: []string{"sh", "-c", script},
	}
}

// A container's life, from its creation to the farewell of its machine.
func TestLife(t *testing.T) {
	image := boottest.Image(t, nil)
	m := boottest.Boot(t, boottest.Options{Disks: []boottest.Disk{
		{Serial: "img", Path: image, ReadOnly: true},
		{Serial: "scratch-a", Path: boottest.Ext4(t, 16, 256)},
	}})
	logs := m.Logs()
	events := m.Events()

	m.Call(wire.OpCreate, shell(idA, "trap 'echo bye; exit 3' TERM; echo out; echo err >&2; printf tail; while :; do sleep 1000 & wait; done"), nil)
	m.Call(wire.OpStart, wire.ContainerRef{ID: idA}, nil)
	logs.Await(t, func(r []wire.LogRecord) bool { return len(r) >= 2 })

	if got := strings.TrimSpace(m.Sh(idA, "echo hello from $HOSTNAME; ls /proc | grep -c '^[0-9]'")); !strings.HasPrefix(got, "hello from aaaaaaaaaaaa") {
		t.Errorf("exec says %q", got)
	}
	r, err := m.Exec(wire.Exec{ID: idA, Args: []string{"sh", "-c", "exit 7"}})
	if err != nil || r.Code != 7 {
		t.Errorf("exit status %d, %v; want 7", r.Code, err)
	}
	var status wire.ExitStatus
	m.Call(wire.OpStop, wire.Stop{ID: idA, Grace: time.Minute}, &status)
	if status.Code != 3 {
		t.Errorf("stopped with status %+v, want 3", status)
	}
	m.Await(events, func(e wire.Event) bool { return e.Kind == wire.EventState && e.State == wire.StateExited })
	records := logs.Await(t, func(r []wire.LogRecord) bool { return len(r) >= 3 })
	var lines []string
	for _, r := range records {
		lines = append(lines, string(r.Line))
	}
	if last := lines[len(lines)-1]; last != "tailbye" {
		t.Errorf("log lines %q: the last should be tailbye", lines)
	}
	farewell := m.Shutdown(time.Minute)
	if farewell.Containers[idA].Code != 3 || len(farewell.Unsynced) > 0 {
		t.Errorf("farewell %+v", farewell)
	}
}

// fsck checks a disk that its machine has said farewell to.
func fsck(t *testing.T, path string) {
	t.Helper()
	out, err := exec.Command("e2fsck", "-fn", path).CombinedOutput()
	if err != nil || strings.Contains(string(out), "recovering journal") {
		t.Errorf("e2fsck %s: %v\n%s", path, err, out)
	}
}
