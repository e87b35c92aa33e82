package provider

import (
	"os/exec"
	"syscall"
)

// inGroup has a program run in a process group of its own, so that an interrupt at
// the terminal is not its, and that what it started is told to end with it.
func inGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
}
