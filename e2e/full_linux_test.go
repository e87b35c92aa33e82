package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const fullCompose = `
name: full
services:
  web:
    image: fixture/tool:1
    command: [tool, sleep]
    volumes: [data:/data]
volumes: {data: {}}
`

// TestHostDiskFull fills the host's disk under a machine that writes: it is
// paused and said to be, also by a supervisor that finds it so, and goes on by
// itself when there is space. Nothing that it wrote is lost.
func TestHostDiskFull(t *testing.T) {
	small := os.Getenv(envSmall)
	if !filepath.IsAbs(small) {
		t.Skip("no small file system to fill: " + small)
	}
	t.Parallel()
	h := newHomeIn(t, small)
	h.write("compose.yaml", fullCompose)
	cmd := h.command("up", "-d")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "are free on the host") {
		t.Fatalf("up with little space: %v\n%s", err, out)
	}
	machines := h.processes("qemu-system")

	// Less is left than the machine is about to write.
	const left, written = 8 << 20, 48
	ballast := filepath.Join(small, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Statfs(small, &st); err != nil {
		t.Fatal(err)
	}
	free := int64(st.Bavail) * st.Bsize
	if free < (written+64)<<20 {
		t.Fatalf("%d MiB are free: the stack leaves too little of the small file system", free>>20)
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, free-left); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	write := h.command("exec", "-T", "web", "sh", "-c", "dd if=/dev/urandom of=/data/file bs=1M count=48 && sync && sha256sum </data/file")
	write.Stdout, write.Stderr = &said, &said
	if err := write.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- write.Wait() }()

	status := func() string { return h.stack("ps", "--format", "json") }
	const paused = "(paused: no space left on the host for volume full_data)"
	await := func(what string, ok func(string) bool) {
		t.Helper()
		deadline := time.Now().Add(patience)
		for now := status(); !ok(now); now = status() {
			if time.Now().After(deadline) {
				t.Fatalf("not %s: %s", what, now)
			}
			time.Sleep(200 * time.Millisecond) // what the hypervisor sees is no event of ours
		}
	}
	await("paused", func(now string) bool { return strings.Contains(now, paused) })
	cmd = h.command("up", "-d")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "container full-web-1: paused: no space left on the host for volume full_data") {
		t.Errorf("up of a stack that is paused: %v\n%s", err, out)
	}

	// Another supervisor finds it so.
	old := h.awaitProcess("system supervisor", 0)
	if err := unix.Kill(old.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitExit(old.pid, patience)
	h.awaitProcess("system supervisor", old.pid)
	// Which disk it was could be written down nowhere.
	await("paused under another supervisor", func(now string) bool { return strings.Contains(now, "(paused: no space left on the host for ") })

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	f.Close() // now its space is free
	await("resumed", func(now string) bool {
		return !strings.Contains(now, "paused") && strings.Contains(now, `"State":"running"`)
	})
	select {
	case <-ended: // its stream broke with the first supervisor
	case <-time.After(patience):
		t.Errorf("the write has not ended: %s", said.String())
		_ = write.Process.Kill()
	}
	// The agent of a machine that runs on may not have answered the other supervisor yet.
	await("reached again", func(string) bool { return h.command("exec", "-T", "web", "true").Run() == nil })
	// The command itself went on: what it wrote is there, whole.
	if out := h.stack("exec", "-T", "web", "sh", "-c", "until test $(wc -c </data/file) = $((48<<20)); do sleep 0.1; done; sync; echo whole"); out != "whole\n" {
		t.Errorf("what was written: %q", out)
	}
	if now := h.processes("qemu-system"); len(now) != 1 || now[0].pid != machines[0].pid {
		t.Errorf("the machine is another: %v, %v", machines, now)
	}
	h.stack("down", "-t", "5")
	disks, err := filepath.Glob(filepath.Join(small, "home", "data", "volumes", "*", "*.img"))
	if err != nil || len(disks) != 1 {
		t.Fatalf("the volume's disk: %v, %v", disks, err)
	}
	if _, err := exec.LookPath("e2fsck"); err != nil {
		t.Log("file system not checked: e2fsck is not installed (apt install e2fsprogs)")
	} else if out, err := exec.Command("e2fsck", "-fn", disks[0]).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}
