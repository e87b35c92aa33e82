package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inMenu has a process of this test be a program in front of its menu.
const inMenu = "STACK_TEST_IN_MENU"

// TestInMenu is that program: it tells which keys are pressed, until d.
func TestInMenu(t *testing.T) {
	if os.Getenv(inMenu) == "" {
		t.Skip("not a program of its own: TestMenuIsSuspended starts it")
	}
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr}
	m := a.openMenu()
	defer m.close()
	for k := range m.pressed {
		fmt.Printf("pressed %q\n", byte(k))
		if k == keyDetach {
			return
		}
	}
}

// TestMenuIsSuspended: Ctrl-Z gives the shell its terminal as it was, fg takes keys
// again, and the end gives it back.
func TestMenuIsSuspended(t *testing.T) {
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	number, err := unix.IoctlGetUint32(int(user.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	device, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	settings := func() unix.Termios {
		s, err := unix.IoctlGetTermios(int(device.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return *s
	}
	before := settings()

	const script = `set -m; "$@"; echo "suspended with $?"; read go; fg; echo "ended with $?"`
	shell := exec.Command("sh", "-c", script, "sh", os.Args[0], "-test.run=^TestInMenu$")
	shell.Env = append(os.Environ(), inMenu+"=1")
	shell.Stdin, shell.Stdout, shell.Stderr = device, device, device
	shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	stop := time.AfterFunc(time.Minute, func() { // whatever waits for it then reads an error
		_ = syscall.Kill(-shell.Process.Pid, syscall.SIGKILL)
		user.Close()
	})
	defer stop.Stop()

	var shown []byte
	await := func(text string) {
		t.Helper()
		for {
			if _, after, ok := bytes.Cut(shown, []byte(text)); ok {
				shown = after
				return
			}
			buf := make([]byte, 4096)
			n, err := user.Read(buf)
			if err != nil {
				t.Fatalf("the terminal does not show %q, but %q: %v", text, shown, err)
			}
			shown = append(shown, buf[:n]...)
		}
	}
	typed := func(keys string) {
		if _, err := user.WriteString(keys); err != nil {
			t.Fatal(err)
		}
	}
	await("d: detach")
	if settings() == before {
		t.Error("keys are not taken one by one")
	}
	typed("\x1a")
	await("suspended with 147") // 128 + SIGSTOP
	if now := settings(); now != before {
		t.Errorf("after Ctrl-Z the terminal is not as before:\n%+v\n%+v", before, now)
	}
	typed("go\n")
	await("d: detach")
	typed("\n")
	await(`pressed '\n'`)
	typed("d")
	await("pressed 'd'")
	await("ended with 0")
	if err := shell.Wait(); err != nil {
		t.Error(err)
	}
	if now := settings(); now != before {
		t.Errorf("after its end the terminal is not as before:\n%+v\n%+v", before, now)
	}
}
