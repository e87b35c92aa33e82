package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Listener names the API's listening socket among what the keeper holds.
const Listener = "listener"

// Socket and Token are the names of the API's socket in the runtime directory
// and of its token in the state directory.
const (
	Socket   = "api.sock"
	Token    = "token"
	lockName = "keeper.lock"
	// startLockName is held from before the keeper's lock is asked for until the
	// socket is there, so that whoever has it finds a keeper that serves or ends,
	// none that is beginning.
	startLockName = "start.lock"
)

// Config is what a keeper is started with.
type Config struct {
	RuntimeDir string   // of sockets: config.RuntimeDir
	LogFile    string   // where keeper and supervisor write their logs
	Supervisor []string // arguments of the supervisor's process, the binary's name not among them
}

const (
	// A supervisor that ran this long had adopted what runs: its death is not a
	// crash at the start, and the next one starts at once.
	healthyAfter = time.Second
	// A crash loop is tried again within a second, so that a passing trouble is
	// over quickly; one that goes on, less and less often.
	quickRetries = 10
	quickBackoff = 500 * time.Millisecond
	maxBackoff   = 30 * time.Second
	// What a dead supervisor has sent is there at once; nobody else holds its end.
	drainTimeout = time.Second
)

// backoff is the pause before the n-th restart of a crash loop, n from 0.
func backoff(n int) time.Duration {
	switch {
	case n == 0:
		return 0
	case n <= quickRetries:
		return min(100*time.Millisecond<<min(n-1, 10), quickBackoff)
	}
	return min(time.Second<<min(n-quickRetries, 10), maxBackoff)
}

// envInherited names the variable by which a keeper hands over to its next
// binary: the number of a file that lists what it holds.
const envInherited = "STACK_KEEPER_INHERITED"

// inherited is the content of that file.
type inherited struct {
	Files map[string]int `json:"files"`
	Lock  int            `json:"lock"`
}

type keeper struct {
	cfg    Config
	log    *slog.Logger
	lock   *os.File
	held   map[string]*os.File
	exited chan os.Signal

	exec string // become this when the supervisor has ended
	end  bool   // end when the supervisor has ended
}

// Run is the keeper's process. ready is called once connections to the socket
// are accepted or queued, with true when another keeper serves them already;
// Run then returns nil at once. Otherwise it returns when the supervisor has
// ended with nothing left to keep, or SIGTERM has made it end.
func Run(cfg Config, log *slog.Logger, ready func(another bool)) error {
	k := &keeper{cfg: cfg, log: log, held: map[string]*os.File{}, exited: make(chan os.Signal, 1)}
	if err := becomeReaper(); err != nil {
		return fmt.Errorf("keeper: %w", err)
	}
	if os.Getenv(envInherited) != "" {
		if err := k.inherit(); err != nil {
			return fmt.Errorf("keeper: taking over: %w", err)
		}
	} else {
		another, err := k.listen()
		if err != nil {
			return fmt.Errorf("keeper: %w", err)
		}
		if another {
			ready(true)
			return nil
		}
	}
	defer k.lock.Close() // the last thing to go: the next keeper waits for it
	defer os.Remove(k.socket())
	signal.Notify(k.exited, unix.SIGCHLD)
	defer signal.Stop(k.exited)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM)
	defer signal.Stop(stop)
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGPIPE)
	ready(false)
	for failures := 0; ; {
		started := time.Now()
		status, err := k.supervise(stop)
		switch {
		case err != nil:
			k.log.Error("starting the supervisor", "err", err)
		case k.exec != "":
			k.replace()
			failures = 0
			continue
		case k.end && status.ExitStatus() == 0:
			return nil
		default:
			k.log.Warn("the supervisor ended", "status", status.ExitStatus(), "signal", int(status.Signal()), "after", time.Since(started).Round(time.Millisecond))
		}
		if time.Since(started) > healthyAfter {
			failures = 0
		}
		pause := time.NewTimer(backoff(failures))
		failures++
		for waiting := true; waiting; {
			select {
			case <-pause.C:
				waiting = false
			case <-k.exited:
				reap(0)
			case <-stop:
				pause.Stop()
				return errors.New("keeper: asked to end while no supervisor ran: machines were left behind")
			}
		}
	}
}

func (k *keeper) socket() string { return filepath.Join(k.cfg.RuntimeDir, Socket) }

// listen takes the lock and the socket, or finds that another keeper has both.
func (k *keeper) listen() (another bool, err error) {
	begin, err := os.OpenFile(filepath.Join(k.cfg.RuntimeDir, startLockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false, err
	}
	defer begin.Close()
	if err := lockWaiting(begin); err != nil {
		return false, err
	}
	path := filepath.Join(k.cfg.RuntimeDir, lockName)
	k.lock, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false, err
	}
	if err := unix.Flock(int(k.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return false, fmt.Errorf("locking %s: %w", path, err)
		}
		if c, err := net.Dial("unix", k.socket()); err == nil {
			c.Close()
			k.lock.Close()
			return true, nil
		}
		// It is ending, which is a moment.
		if err := lockWaiting(k.lock); err != nil {
			return false, err
		}
	}
	// Bound under another name: whoever finds the name finds a listener.
	temporary := k.socket() + ".new"
	os.Remove(temporary)
	old := unix.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return false, err
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	f, err := l.File()
	if err != nil {
		return false, err
	}
	if err := os.Rename(temporary, k.socket()); err != nil {
		return false, err
	}
	k.held[Listener] = f
	return false, nil
}

// lockWaiting locks f, waiting for whoever has it locked.
func lockWaiting(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("locking %s: %w", f.Name(), err)
		default:
			return nil
		}
	}
}

// supervise runs one supervisor to its end.
func (k *keeper) supervise(stop <-chan os.Signal) (unix.WaitStatus, error) {
	k.exec, k.end = "", false
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return 0, err
	}
	unix.CloseOnExec(fds[0])
	unix.CloseOnExec(fds[1])
	ours, theirs := os.NewFile(uintptr(fds[0]), "link"), os.NewFile(uintptr(fds[1]), "link")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		return 0, err
	}
	c := conn.(*net.UnixConn)
	defer c.Close()

	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	logFile, err := os.OpenFile(k.cfg.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer logFile.Close()
	p, err := os.StartProcess(executable(), append([]string{"stack"}, k.cfg.Supervisor...), &os.ProcAttr{
		Files: []*os.File{null, logFile, logFile, theirs},
		Env:   os.Environ(),
	})
	if err != nil {
		return 0, err
	}
	pid := p.Pid
	_ = p.Release() // reaped below, with the machines' processes
	theirs.Close()

	linked := make(chan error, 1)
	go func() { linked <- k.serve(c) }() // ends with the supervisor's end of the pair
	for {
		select {
		case <-k.exited:
			status, ended := reap(pid)
			if !ended {
				continue
			}
			c.SetReadDeadline(time.Now().Add(drainTimeout))
			if err := <-linked; err != nil && !errors.Is(err, io.EOF) {
				k.log.Warn("the supervisor's link", "err", err)
			}
			return status, nil
		case <-stop:
			_ = unix.Kill(pid, unix.SIGTERM)
		}
	}
}

// serve hands over what is held, then does what the supervisor says.
func (k *keeper) serve(c *net.UnixConn) error {
	if err := sendHeld(c, opHeld, k.held); err != nil {
		return err
	}
	if err := send(c, message{Op: opReady}, nil); err != nil {
		return err
	}
	for {
		m, files, err := receive(c)
		if err != nil {
			return err
		}
		switch m.Op {
		case opPut:
			for i, name := range m.Names {
				if old := k.held[name]; old != nil {
					old.Close()
				}
				k.held[name] = files[i]
			}
		case opDrop:
			for _, name := range m.Names {
				if f := k.held[name]; f != nil && name != Listener {
					f.Close()
					delete(k.held, name)
				}
			}
		case opExec:
			k.exec = m.Path
		case opEnd:
			k.end = true
		}
	}
}

// replace turns this process into the other binary; it returns when that failed.
func (k *keeper) replace() {
	err := func() error {
		list := inherited{Files: map[string]int{}, Lock: int(k.lock.Fd())}
		for name, f := range k.held {
			raw, err := f.SyscallConn() // Fd would make it blocking, for the next supervisor too
			if err != nil {
				return err
			}
			if err := raw.Control(func(fd uintptr) { list.Files[name] = int(fd) }); err != nil {
				return err
			}
		}
		text, err := json.Marshal(list)
		if err != nil {
			return err
		}
		f, err := os.CreateTemp(k.cfg.RuntimeDir, ".inherited-*")
		if err != nil {
			return err
		}
		defer f.Close()
		os.Remove(f.Name())
		if _, err := f.Write(text); err != nil {
			return err
		}
		env := append(os.Environ(), fmt.Sprintf("%s=%d", envInherited, f.Fd()))
		setInherit := func(inherit bool) {
			flags := unix.FD_CLOEXEC
			if inherit {
				flags = 0
			}
			for _, fd := range list.Files {
				_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETFD, flags)
			}
			_, _ = unix.FcntlInt(k.lock.Fd(), unix.F_SETFD, flags)
			_, _ = unix.FcntlInt(f.Fd(), unix.F_SETFD, flags)
		}
		setInherit(true)
		err = syscall.Exec(k.exec, os.Args, env)
		setInherit(false)
		return err
	}()
	k.log.Error("becoming another build", "path", k.exec, "err", err)
}

// inherit is replace's other side.
func (k *keeper) inherit() error {
	var fd int
	if _, err := fmt.Sscanf(os.Getenv(envInherited), "%d", &fd); err != nil {
		return err
	}
	if err := os.Unsetenv(envInherited); err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "inherited")
	if f == nil {
		return fmt.Errorf("file %d is not open", fd)
	}
	defer f.Close()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	var list inherited
	if err := json.NewDecoder(f).Decode(&list); err != nil {
		return err
	}
	for name, fd := range list.Files {
		unix.CloseOnExec(fd)
		k.held[name] = os.NewFile(uintptr(fd), name)
	}
	unix.CloseOnExec(list.Lock)
	k.lock = os.NewFile(uintptr(list.Lock), lockName)
	return nil
}

// reap collects every ended child, and tells whether pid was one of them.
func reap(pid int) (status unix.WaitStatus, ended bool) {
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || got == 0:
			return status, ended
		case got == pid:
			status, ended = ws, true
		}
	}
}
