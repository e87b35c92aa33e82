package e2e

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// processes lists those whose environment names home. ps prints it behind the
// command line.
func processes(home string) []process {
	out, err := exec.Command("ps", "-AEww", "-o", "pid=,command=").Output()
	if err != nil {
		return nil
	}
	var found []process
	for line := range strings.Lines(string(out)) {
		number, command, _ := strings.Cut(strings.TrimSpace(line), " ")
		pid, err := strconv.Atoi(number)
		if err != nil || pid == os.Getpid() || !strings.Contains(command+" ", " STACK_HOME="+home+" ") {
			continue
		}
		found = append(found, process{pid, command})
	}
	return found
}

// awaitExit returns when a process has ended, or after timeout.
func awaitExit(pid int, timeout time.Duration) {
	queue, err := unix.Kqueue()
	if err != nil {
		return
	}
	defer unix.Close(queue)
	exit := unix.Kevent_t{Ident: uint64(pid), Filter: unix.EVFILT_PROC, Flags: unix.EV_ADD | unix.EV_ONESHOT, Fflags: unix.NOTE_EXIT}
	limit := unix.NsecToTimespec(timeout.Nanoseconds())
	_, _ = unix.Kevent(queue, []unix.Kevent_t{exit}, make([]unix.Kevent_t, 1), &limit) // an error: it has ended already
}

// endsWithUs changes nothing: a killed test leaves its children here.
func endsWithUs() *syscall.SysProcAttr { return nil }
