//go:build linux

package launch

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// Reap is PID 1 of a container with init: it runs argv (after the path that was
// found for it), passes signals on, reaps what is left to it, and ends as its
// child does. It returns only by exiting.
func Reap(args []string) {
	sigs := make(chan os.Signal, 64)
	signal.Notify(sigs) // all that can be caught
	// The start is over when the channel closes: a signal that came before could not be
	// passed on, and Go's own answer to it ends the first process with status 2.
	_ = unix.Close(channelFd)
	path, argv := args[0], args[1:]
	_ = os.WriteFile("/proc/self/comm", []byte(InitName), 0) // for people: else it is the memfd's
	child, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2},
		Sys:   foreground(),
	})
	if err != nil {
		fmt.Fprintf(os.Stderr, "exec %s: %v\n", path, err)
		code := 126
		if errors.Is(err, unix.ENOENT) {
			code = 127
		}
		os.Exit(code)
	}
	for sig := range sigs {
		if sig == unix.SIGURG {
			continue // Go's own, for preemption
		}
		if sig != unix.SIGCHLD {
			unix.Kill(child, sig.(syscall.Signal))
			continue
		}
		for {
			var status unix.WaitStatus
			pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
			if err == unix.EINTR {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
			if pid != child {
				continue
			}
			if status.Signaled() {
				os.Exit(128 + int(status.Signal()))
			}
			os.Exit(status.ExitStatus())
		}
	}
}

// foreground gives the child a process group of its own and, where there is a
// terminal, makes that the foreground one: keys reach it, not its reaper.
func foreground() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
		attr.Foreground, attr.Ctty = true, 0
	}
	return attr
}
