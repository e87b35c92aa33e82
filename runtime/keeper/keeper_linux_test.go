package keeper

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackvm/stack/runtime/config"
)

// The test binary is keeper and supervisor as well.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "keeper-process":
			dirs, err := config.FindDirs()
			if err == nil {
				err = Main(dirs, []string{"supervisor-process"})
			}
			if err != nil {
				os.Exit(1)
			}
			os.Exit(0)
		case "supervisor-process":
			if err := supervisorProcess(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// supervisorProcess obeys one line per connection and answers with one.
func supervisorProcess() error {
	link, held, err := Attach()
	if err != nil {
		return err
	}
	l, err := net.FileListener(held[Listener])
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			c.Close()
			continue // a probe
		}
		words := strings.Fields(line)
		answer := "ok"
		switch words[0] {
		case "pids":
			answer = fmt.Sprint(os.Getpid(), " ", os.Getppid())
		case "exe":
			answer, _ = os.Readlink("/proc/self/exe")
		case "put": // NAMES…: an unlinked file each, its name inside
			files := map[string]*os.File{}
			for _, name := range words[1:] {
				f, err := os.CreateTemp("", "kept")
				if err != nil {
					return err
				}
				os.Remove(f.Name())
				fmt.Fprint(f, name)
				files[name] = f
			}
			if err := link.Put(files); err != nil {
				return err
			}
		case "drop":
			if err := link.Drop(words[1:]...); err != nil {
				return err
			}
		case "held": // how many, and whether each is what its name says
			n := 0
			for name, f := range held {
				if name == Listener {
					continue
				}
				b := make([]byte, 100)
				k, _ := f.ReadAt(b, 0)
				if string(b[:k]) == name {
					n++
				}
			}
			answer = strconv.Itoa(n)
		case "orphan": // a child that only the keeper can reap
			p, err := os.StartProcess("/bin/sleep", []string{"sleep", "0.05"}, &os.ProcAttr{})
			if err != nil {
				return err
			}
			answer = strconv.Itoa(p.Pid)
		case "exec":
			if err := link.Exec(words[1]); err != nil {
				return err
			}
			fmt.Fprintln(c, answer)
			return nil
		case "end":
			if err := link.End(); err != nil {
				return err
			}
			fmt.Fprintln(c, answer)
			return nil
		}
		fmt.Fprintln(c, answer)
		c.Close()
	}
}

type host struct {
	t    *testing.T
	dirs config.Dirs
	sock string
}

func startKeeper(t *testing.T) *host {
	t.Setenv("STACK_HOME", t.TempDir())
	dirs, err := config.FindDirs()
	if err != nil {
		t.Fatal(err)
	}
	run, err := config.RuntimeDir(dirs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	if err := start(t.Context(), dirs, []string{"keeper-process"}); err != nil {
		log, _ := os.ReadFile(filepath.Join(dirs.State, LogName))
		t.Fatalf("%v\n%s", err, log)
	}
	h := &host{t, dirs, filepath.Join(run, Socket)}
	t.Cleanup(func() {
		if _, err := os.Stat(h.sock); err == nil {
			keeper := h.pids()[1]
			h.ask("end")
			waitGone(t, keeper)
		}
	})
	return h
}

// ask sends a line; it waits while there is no supervisor.
func (h *host) ask(line string) string {
	h.t.Helper()
	c, err := net.Dial("unix", h.sock)
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintln(c, line)
	answer, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		h.t.Fatalf("%s: %v", line, err)
	}
	return strings.TrimSpace(answer)
}

func (h *host) pids() [2]int {
	var pids [2]int
	fmt.Sscan(h.ask("pids"), &pids[0], &pids[1])
	return pids
}

// waitGone waits by pidfd for the end of a process that is not our child.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 20_000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n != 1 {
			t.Fatalf("process %d did not end", pid)
		}
		return
	}
}

func TestFilesAndConnectionsOutliveTheSupervisor(t *testing.T) {
	h := startKeeper(t)
	var names []string
	for i := range 450 { // more than fit into one message
		names = append(names, fmt.Sprintf("machine/%d", i))
	}
	h.ask("put " + strings.Join(names, " "))
	h.ask("drop machine/0 machine/1")
	first := h.pids()
	if err := unix.Kill(first[0], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// This connection is made while there is no supervisor, or a new one.
	second := h.pids()
	for second[0] == first[0] {
		second = h.pids()
	}
	if second[1] != first[1] {
		t.Errorf("keeper %d became %d", first[1], second[1])
	}
	if got := h.ask("held"); got != "448" {
		t.Errorf("%s files are held", got)
	}
}

func TestOrphansAreReaped(t *testing.T) {
	h := startKeeper(t)
	pid, err := strconv.Atoi(h.ask("orphan"))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(h.pids()[0], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitGone(t, pid)
	// A zombie is gone for a pidfd: look for it.
	deadline := time.Now().Add(20 * time.Second)
	for unix.Kill(pid, 0) == nil {
		if time.Now().After(deadline) {
			t.Fatal("the orphan is a zombie")
		}
		h.ask("pids")
	}
}

func TestAnotherBuildTakesOver(t *testing.T) {
	h := startKeeper(t)
	h.ask("put a b c")
	first := h.pids()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	next := filepath.Join(t.TempDir(), "next")
	in, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(next, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	h.ask("exec " + next)
	if got := h.ask("exe"); got != next {
		t.Errorf("the supervisor runs %s", got)
	}
	if got := h.ask("held"); got != "3" {
		t.Errorf("%s files are held", got)
	}
	if second := h.pids(); second[1] != first[1] || second[0] == first[0] {
		t.Errorf("pids %v became %v", first, second)
	}
	// A binary that cannot run changes nothing.
	h.ask("exec /no/such/binary")
	if got := h.ask("held"); got != "3" {
		t.Errorf("%s files are held", got)
	}
}

func TestOneKeeper(t *testing.T) {
	h := startKeeper(t)
	first := h.pids()
	if err := start(t.Context(), h.dirs, []string{"keeper-process"}); err != nil {
		t.Fatal(err)
	}
	if second := h.pids(); second != first {
		t.Errorf("pids %v became %v", first, second)
	}
	h.ask("end")
	waitGone(t, first[1])
	if _, err := os.Stat(h.sock); err == nil {
		t.Error("the socket is left behind")
	}
	// And again, as if nothing had been.
	if err := start(t.Context(), h.dirs, []string{"keeper-process"}); err != nil {
		t.Fatal(err)
	}
	if h.pids()[1] == first[1] {
		t.Error("the keeper did not end")
	}
}

// A keeper that comes while another is beginning, its socket not there yet, is
// the one too many; it must not wait for the other's lock.
func TestStartingTwice(t *testing.T) {
	t.Setenv("STACK_HOME", t.TempDir())
	dirs, err := config.FindDirs()
	if err != nil {
		t.Fatal(err)
	}
	run, err := config.RuntimeDir(dirs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	// The beginner has taken both locks.
	var locks []*os.File
	for _, name := range []string{startLockName, lockName} {
		f, err := os.OpenFile(filepath.Join(run, name), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := lockWaiting(f); err != nil {
			t.Fatal(err)
		}
		locks = append(locks, f)
	}
	second := make(chan error, 1)
	go func() { second <- start(t.Context(), dirs, []string{"keeper-process"}) }()
	for waits := false; !waits; time.Sleep(time.Millisecond) { // until it waits for the beginner
		b, err := os.ReadFile("/proc/locks")
		if err != nil {
			t.Skip("the kernel lists no locks here: ", err)
		}
		waits = strings.Contains(string(b), "-> FLOCK")
		select {
		case err := <-second:
			t.Fatalf("it did not wait: %v", err)
		default:
		}
	}
	l, err := net.Listen("unix", filepath.Join(run, Socket))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	locks[0].Close()
	if err := <-second; err != nil {
		t.Fatal(err)
	}
}

func TestTheLogIsBounded(t *testing.T) {
	dir := t.TempDir()
	l, err := OpenLog(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	line := []byte(strings.Repeat("x", 1<<20) + "\n")
	for range 30 {
		if _, err := l.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{LogName, LogName + ".1"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Size() > maxLog || info.Size() == 0 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("%d files", len(entries))
	}
}
