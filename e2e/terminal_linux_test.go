package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo terminal with a user in front of it.
type terminal struct {
	t            *testing.T
	user, device *os.File

	mu    sync.Mutex
	shown bytes.Buffer
	more  chan struct{} // holds a token after output came
}

func newTerminal(t *testing.T, rows, columns uint16) *terminal {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = user.Close() })
	number, err := unix.IoctlGetUint32(int(user.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	device, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = device.Close() })
	tt := &terminal{t: t, user: user, device: device, more: make(chan struct{}, 1)}
	tt.resize(rows, columns)
	go func() { // ends with the terminal
		buf := make([]byte, 4096)
		for {
			n, err := user.Read(buf)
			if err != nil {
				return
			}
			tt.mu.Lock()
			tt.shown.Write(buf[:n])
			tt.mu.Unlock()
			select {
			case tt.more <- struct{}{}:
			default:
			}
		}
	}()
	return tt
}

func (tt *terminal) resize(rows, columns uint16) {
	tt.t.Helper()
	if err := unix.IoctlSetWinsize(int(tt.user.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		tt.t.Fatal(err)
	}
}

// settings are what stty -g prints.
func (tt *terminal) settings() unix.Termios {
	tt.t.Helper()
	s, err := unix.IoctlGetTermios(int(tt.device.Fd()), unix.TCGETS)
	if err != nil {
		tt.t.Fatal(err)
	}
	return *s
}

// run starts a command on the terminal, as a shell would.
func (tt *terminal) run(cmd *exec.Cmd) {
	tt.t.Helper()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tt.device, tt.device, tt.device
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		tt.t.Fatal(err)
	}
	tt.t.Cleanup(func() { _ = cmd.Process.Kill() })
}

func (tt *terminal) typed(keys string) {
	tt.t.Helper()
	if _, err := tt.user.WriteString(keys); err != nil {
		tt.t.Fatal(err)
	}
}

// await waits until the terminal has shown text.
func (tt *terminal) await(text string) {
	tt.t.Helper()
	deadline := time.After(patience)
	for {
		tt.mu.Lock()
		shown := tt.shown.String()
		tt.mu.Unlock()
		if strings.Contains(shown, text) {
			return
		}
		select {
		case <-tt.more:
		case <-deadline:
			tt.t.Fatalf("the terminal does not show %q, but:\n%s", text, shown)
		}
	}
}

// ended waits for a command's end and returns its status.
func (tt *terminal) ended(cmd *exec.Cmd) int {
	tt.t.Helper()
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		tt.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

const terminalCompose = `
name: terminal
services:
  web:
    image: fixture/tool:1
    command: [sh, -c, "echo it runs; exec tool sleep"]
  once:
    image: fixture/tool:1
    profiles: [once]
    init: true # its own first process would get no signal that it does not handle
    command: [sh, -c, "echo waiting; exec sleep 100000"]
`

// TestTerminal sits in front of exec, run and an attached up: sizes arrive, keys
// do what they should, and the terminal is as it was after every kind of end.
func TestTerminal(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	h.write("compose.yaml", terminalCompose)
	tt := newTerminal(t, 24, 80)
	before := tt.settings()
	same := func(after string) {
		t.Helper()
		if now := tt.settings(); now != before {
			t.Errorf("after %s the terminal is not as before:\n%+v\n%+v", after, before, now)
		}
	}

	up := h.command("up")
	tt.run(up)
	tt.await("it runs")
	boot := h.stack("exec", "-T", "web", "cat", "/proc/sys/kernel/random/boot_id")

	// A terminal of another window.
	for _, command := range []string{"exec", "run"} {
		tt := newTerminal(t, 24, 80)
		before := tt.settings()
		cmd := h.command(command, "web", "tool", "tty")
		if command == "run" {
			cmd = h.command("run", "--rm", "web", "tool", "tty")
		}
		tt.run(cmd)
		tt.await(`{"columns":80,"rows":24}`)
		tt.resize(50, 132)
		tt.await(`{"columns":132,"rows":50}`)
		tt.typed("\x04") // the end of input
		if status := tt.ended(cmd); status != 0 {
			t.Errorf("%s ended with status %d", command, status)
		}
		if now := tt.settings(); now != before {
			t.Errorf("after %s the terminal is not as before:\n%+v\n%+v", command, before, now)
		}
	}

	// Ctrl-C is the command's, not ours; its status is.
	inner := newTerminal(t, 24, 80)
	cmd := h.command("exec", "web", "sh", "-c", "trap 'exit 9' INT; echo waiting; while :; do sleep 1; done")
	inner.run(cmd)
	inner.await("waiting")
	inner.typed("\x03")
	if status := inner.ended(cmd); status != 9 {
		t.Errorf("exec ended with status %d, want the command's 9", status)
	}

	// run too, whose container is gone then.
	third := newTerminal(t, 24, 80)
	beforeRun := third.settings()
	once := h.command("run", "--rm", "once")
	third.run(once)
	third.await("waiting")
	third.typed("\x03")
	if status := third.ended(once); status != 130 {
		t.Errorf("run ended with status %d after Ctrl-C, want 130", status)
	}
	if now := third.settings(); now != beforeRun {
		t.Errorf("after run the terminal is not as before:\n%+v\n%+v", beforeRun, now)
	}
	if left := h.stack("ps", "-a", "-q", "--no-trunc"); strings.Count(left, "\n") != 1 {
		t.Errorf("after run --rm there is more than web: %s", left)
	}

	// An attached up that dies, or loses its terminal, leaves the stack running.
	if err := up.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	tt.ended(up)
	same("SIGHUP")
	// Without keys to take, even what cannot be caught changes nothing.
	up = h.command("up", "--menu=false")
	tt.run(up)
	tt.await("Attaching to")
	if err := up.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	tt.ended(up)
	same("SIGKILL")
	if now := h.stack("exec", "-T", "web", "cat", "/proc/sys/kernel/random/boot_id"); now != boot {
		t.Errorf("the machine is another one: %s, %s", boot, now)
	}

	// d detaches: the stack runs on.
	keys := newTerminal(t, 24, 80)
	before = keys.settings()
	up = h.command("--progress", "tty", "up")
	keys.run(up)
	keys.await("d: detach")
	keys.typed("d")
	if status := keys.ended(up); status != 0 {
		t.Errorf("up ended with status %d after d, want 0", status)
	}
	if now := keys.settings(); now != before {
		t.Errorf("after d the terminal is not as before:\n%+v\n%+v", before, now)
	}
	if now := h.stack("exec", "-T", "web", "cat", "/proc/sys/kernel/random/boot_id"); now != boot {
		t.Errorf("the machine is another one after d: %s, %s", boot, now)
	}

	// A volume that no longer is as the file says: the question; no keeps it.
	h.write("changed.yaml", strings.Replace(terminalCompose, "image:", "volumes: [\"data:/data\"]\n    image:", 1)+"volumes: {data: {}}\n")
	h.stack("-f", "changed.yaml", "up", "-d")
	h.stack("-f", "changed.yaml", "exec", "-T", "web", "sh", "-c", "echo kept > /data/file")
	h.write("changed.yaml", strings.Replace(terminalCompose, "image:", "volumes: [\"data:/data\"]\n    image:", 1)+"volumes: {data: {labels: {tier: gold}}}\n")
	for _, answer := range []string{"n", "y"} {
		asked := newTerminal(t, 24, 80)
		up = h.command("-f", "changed.yaml", "up", "-d")
		asked.run(up)
		asked.await(`Volume "terminal_data" exists but doesn't match configuration in compose file. Recreate (data will be lost)? [y/N]`)
		asked.typed(answer + "\n")
		if status := asked.ended(up); status != 0 {
			t.Errorf("up ended with status %d after %s", status, answer)
		}
		there := h.stack("-f", "changed.yaml", "exec", "-T", "web", "sh", "-c", "cat /data/file || echo lost")
		if want := map[string]string{"n": "kept", "y": "lost"}[answer]; !strings.Contains(there, want) {
			t.Errorf("after %s the file is %q, want %s", answer, there, want)
		}
	}

	// Ctrl-C stops the stack: with the menu that is success, without it 130.
	for _, tc := range []struct {
		menu   string
		status int
	}{{"--menu=true", 0}, {"--menu=false", 130}} {
		third := newTerminal(t, 24, 80)
		before = third.settings()
		up = h.command("--progress", "tty", "up", tc.menu)
		third.run(up)
		third.await("Attaching to")
		if tc.status == 0 {
			third.await("d: detach")
		}
		third.typed("\x03")
		if status := third.ended(up); status != tc.status {
			t.Errorf("up %s ended with status %d after Ctrl-C, want %d", tc.menu, status, tc.status)
		}
		third.await("Gracefully Stopping...")
		if now := third.settings(); now != before {
			t.Errorf("after Ctrl-C the terminal is not as before:\n%+v\n%+v", before, now)
		}
		if running := h.stack("ps", "-q"); running != "" {
			t.Errorf("after Ctrl-C this still runs: %s", running)
		}
	}
}

// TestLoginOnATerminal: login asks, shows no password as it is typed, and leaves
// the terminal as it was, also when it is given up.
func TestLoginOnATerminal(t *testing.T) {
	server := faultyRegistry(true)
	defer server.Close()
	host := server.Listener.Addr().String()
	h := newHome(t)
	h.env = append(h.env, "DOCKER_CONFIG="+h.dir)
	for _, giveUp := range []bool{true, false} {
		tt := newTerminal(t, 24, 80)
		before := tt.settings()
		cmd := h.command("login", host)
		tt.run(cmd)
		tt.await("Username: ")
		tt.typed("user\n")
		tt.await("Password for user at " + host + ": ")
		if giveUp {
			tt.typed("\x03")
		} else {
			tt.typed("open sesame\n")
			tt.await("Login Succeeded")
		}
		err := cmd.Wait()
		if status := cmd.ProcessState.ExitCode(); giveUp && status != 130 || !giveUp && err != nil {
			t.Errorf("given up: %t, got %v", giveUp, err)
		}
		if after := tt.settings(); after != before {
			t.Errorf("given up: %t, the terminal was %+v and is %+v", giveUp, before, after)
		}
		tt.mu.Lock()
		if bytes.Contains(tt.shown.Bytes(), []byte("sesame")) {
			t.Errorf("the password was shown: %q", tt.shown.String())
		}
		tt.mu.Unlock()
	}
	h.write("compose.yaml", "services: {web: {image: "+host+"/any/library/busybox}}\n")
	h.stack("pull")
}
