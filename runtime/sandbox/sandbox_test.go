//go:build linux

package sandbox_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stackvm/stack/runtime/sandbox"
)

// intruder turns this binary, inside the sandbox, into a program that tries what
// its arguments ask for and prints how each ended.
const intruder = "intruder"

func TestMain(m *testing.M) {
	sandbox.MaybeRun()
	if len(os.Args) > 0 && os.Args[0] == intruder {
		attempts := map[string]string{}
		for _, a := range os.Args[1:] {
			attempts[a] = attempt(a)
		}
		json.NewEncoder(os.Stdout).Encode(attempts)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func attempt(what string) string {
	verb, arg, _ := strings.Cut(what, " ")
	var err error
	switch verb {
	case "read":
		_, err = os.ReadFile(arg)
	case "list":
		_, err = os.ReadDir(arg)
	case "write":
		var f *os.File
		if f, err = os.OpenFile(arg, os.O_WRONLY, 0); err == nil {
			f.Close()
		}
	case "create":
		var f *os.File
		if f, err = os.Create(arg); err == nil {
			f.Close()
		}
	case "truncate":
		err = os.Truncate(arg, 0)
	case "remove":
		err = os.Remove(arg)
	case "link":
		err = os.Symlink("/", arg)
	case "exec":
		_, err = os.StartProcess(arg, []string{arg}, &os.ProcAttr{})
	case "kill":
		pid, _ := strconv.Atoi(arg)
		err = unix.Kill(pid, unix.SIGKILL)
	case "ptrace":
		pid, _ := strconv.Atoi(arg)
		err = unix.PtraceAttach(pid)
	case "tcp":
		var c net.Conn
		if c, err = net.Dial("tcp", arg); err == nil {
			c.Close()
		}
	case "bind": // a TCP port; by net.Listen it would be a multipath one
		port, _ := strconv.Atoi(arg)
		var fd int
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil {
			err = unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
			unix.Close(fd)
		}
	case "abstract":
		var c net.Conn
		if c, err = net.Dial("unix", "@"+arg); err == nil {
			c.Close()
		}
	case "fd":
		n, _ := strconv.Atoi(arg)
		_, err = unix.FcntlInt(uintptr(n), unix.F_GETFD, 0)
	case "readfd":
		n, _ := strconv.Atoi(arg)
		_, err = unix.Pread(n, make([]byte, 1), 0)
	case "setuid":
		var n int
		if n, err = unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err == nil && n != 1 {
			return "allowed"
		}
		return "refused"
	case "session":
		if sid, err := unix.Getsid(0); err == nil && sid == os.Getpid() {
			return "own"
		}
		return "shared"
	}
	switch {
	case err == nil:
		return "done"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.EBADF):
		return "refused"
	}
	return err.Error()
}

// run runs attempts in a sandbox.
func run(t *testing.T, s sandbox.Spec, attempts ...string) map[string]string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s.Path, s.Args, s.Stdout, s.Stderr = self, append([]string{intruder}, attempts...), w, os.Stderr
	s.Read = append(s.Read, sandbox.Libraries...)
	p, err := sandbox.Start(s)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p.PIDFD)
	var got map[string]string
	decodeErr := json.NewDecoder(r).Decode(&got)
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(p.PID, &status, 0, nil); err != nil || status.ExitStatus() != 0 || decodeErr != nil {
		t.Fatalf("the program ended with %v, %v, %v", status, err, decodeErr)
	}
	return got
}

func file(t *testing.T, path string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A machine's process reaches what it was given: no other machine's disk, no
// token of our servers, no state of any project, nobody's process.
func TestConfinement(t *testing.T) {
	abi := sandbox.ABI()
	if abi == 0 {
		t.Skip("the host's kernel has no Landlock: nothing confines a machine here, as doctor says")
	}
	home := t.TempDir()
	var (
		ownDisk     = file(t, filepath.Join(home, "volumes/own/disk"))
		otherDisk   = file(t, filepath.Join(home, "volumes/other/disk"))
		token       = file(t, filepath.Join(home, "run/token"))
		state       = file(t, filepath.Join(home, "state/projects/other.json"))
		kernel      = file(t, filepath.Join(home, "guest/vmlinux"))
		own         = filepath.Join(home, "own")
		single      = file(t, filepath.Join(home, "single"))
		ownFile     = file(t, filepath.Join(own, "file"))
		victim      = startVictim(t)
		listener    = listen(t, "tcp", "127.0.0.1:0")
		abstract    = fmt.Sprintf("stack-sandbox-test-%d", os.Getpid())
		_           = listen(t, "unix", "@"+abstract)
		open, err   = os.Open(ownDisk)
		stray, err2 = os.Open(otherDisk)
	)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	defer stray.Close()
	// A descriptor that somebody forgot to close on exec.
	leaked, err := unix.FcntlInt(stray.Fd(), unix.F_DUPFD, 200)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leaked)

	want := map[string]string{
		"read " + kernel:         "done",
		"readfd 3":               "done", // its disk
		"read " + ownFile:        "done",
		"write " + ownFile:       "done",
		"create " + own + "/new": "done",
		"write /dev/null":        "done",
		"truncate " + ownFile:    "done",
		"truncate " + single:     "done",
		"session":                "own",
		"setuid":                 "refused",

		"fd " + fmt.Sprint(leaked): "refused",
		"read " + ownDisk:          "refused", // by path not even its own
		"read " + otherDisk:        "refused",
		"write " + otherDisk:       "refused",
		"remove " + otherDisk:      "refused",
		"read " + token:            "refused",
		"read " + state:            "refused",
		"write " + kernel:          "refused",
		"list " + home:             "refused",
		"list /":                   "refused",
		"list /proc":               "refused",
		"read /etc/passwd":         "refused",
		"create " + home + "/x":    "refused",
		"link " + home + "/y":      "refused",
		"exec /bin/sh":             "refused",
		fmt.Sprintf("read /proc/%d/environ", victim): "refused",
		fmt.Sprintf("ptrace %d", victim):             "refused",
	}
	if abi >= 3 {
		want["truncate "+otherDisk] = "refused"
	}
	if abi >= 4 {
		want["tcp "+listener] = "refused"
		want["bind 0"] = "refused"
	}
	if abi >= 6 {
		want["abstract "+abstract] = "refused"
		want[fmt.Sprintf("kill %d", victim)] = "refused"
	}
	attempts := slices.Collect(func(yield func(string) bool) {
		for a := range want {
			if !yield(a) {
				return
			}
		}
	})
	slices.Sort(attempts)
	got := run(t, sandbox.Spec{
		Read: []string{kernel, filepath.Join(home, "not-there")}, Write: []string{own, single},
		Devices: []string{"/dev/null"}, Files: []*os.File{open},
	}, attempts...)
	for _, a := range attempts {
		if got[a] != want[a] {
			t.Errorf("%s: %s, want %s", a, got[a], want[a])
		}
	}
	t.Logf("%d attempts under Landlock %d", len(attempts), abi)
}

// Outside the sandbox each of the attempts succeeds: what refuses is the sandbox.
func TestAttemptsSucceedOutside(t *testing.T) {
	path := file(t, filepath.Join(t.TempDir(), "f"))
	address := listen(t, "tcp", "127.0.0.1:0")
	abstract := fmt.Sprintf("stack-sandbox-outside-%d", os.Getpid())
	listen(t, "unix", "@"+abstract)
	victim := startVictim(t)
	for _, a := range []string{
		"read " + path, "write " + path, "truncate " + path, "list " + filepath.Dir(path),
		"create " + path + "2", "link " + path + "3", "remove " + path,
		"tcp " + address, "bind 0", "abstract " + abstract, "fd 0", "exec /bin/true",
		fmt.Sprintf("read /proc/%d/environ", victim), fmt.Sprintf("kill %d", victim),
	} {
		if got := attempt(a); got != "done" {
			t.Errorf("%s: %s, want done", a, got)
		}
	}
}

func startVictim(t *testing.T) int {
	t.Helper()
	p, err := os.StartProcess("/bin/sleep", []string{"sleep", "600"}, &os.ProcAttr{})
	if err != nil {
		t.Skipf("no process to attack: %v", err)
	}
	t.Cleanup(func() {
		p.Kill()
		p.Wait()
	})
	return p.Pid
}

func listen(t *testing.T, network, address string) string {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// What cannot be executed says so on standard error and ends with 127.
func TestMissingProgram(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := sandbox.Start(sandbox.Spec{Path: "/no/such/program", Args: []string{"x"}, Stderr: w})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p.PIDFD)
	b := make([]byte, 4096)
	n, _ := r.Read(b)
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(p.PID, &status, 0, nil); err != nil || status.ExitStatus() != 127 {
		t.Errorf("status %v, %v; want 127", status, err)
	}
	if text := string(b[:n]); !strings.Contains(text, "/no/such/program") || !strings.Contains(text, "no such file") {
		t.Errorf("standard error %q", text)
	}
}

// Start leaves the mode of the files it passes alone: others poll them.
func TestDupKeepsNonblocking(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	f := os.NewFile(uintptr(fds[0]), "socket")
	defer f.Close()
	fd, err := sandbox.Dup(f)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %#x, %v: want non-blocking", flags, err)
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %#x, %v: want close-on-exec", flags, err)
	}
}
