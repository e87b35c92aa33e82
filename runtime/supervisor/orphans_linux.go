package supervisor

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// killOrphans ends processes of machines in dir that no record knows: started
// by a supervisor that died before it could write down which process it was.
// Every such process has a path below dir among its arguments.
func killOrphans(dir string, known map[int]bool, log *slog.Logger) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	mark := []byte(dir + "/")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || known[pid] || pid == os.Getpid() {
			continue
		}
		args, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err != nil || !bytes.Contains(args, mark) || !isMachine(args) {
			continue
		}
		log.Warn("a machine's process that nobody knows is ended", "pid", pid)
		waitEnd(pid, func() bool { return true }, func() { _ = unix.Kill(pid, unix.SIGKILL) })
	}
}

// isMachine tells a hypervisor or share server from, say, an editor that has
// one of their files open.
func isMachine(args []byte) bool {
	name, _, _ := bytes.Cut(args, []byte{0})
	return bytes.Contains(name, []byte("qemu")) || bytes.Contains(name, []byte("stack"))
}

// waitEnd calls kill on a process that still answers to same and waits for its
// end.
func waitEnd(pid int, same func() bool, kill func()) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if !same() { // it ended before it was held
		return
	}
	kill()
	for {
		// A killed process is gone within moments, unless the host is in trouble.
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 30_000)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
