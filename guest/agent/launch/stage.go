//go:build linux

package launch

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"github.com/stackvm/stack/guest/agent/inroot"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// Main is the second stage; it returns only by exiting.
func Main() {
	runtime.LockOSThread() // what follows belongs to a thread: namespaces, ids, capabilities, seccomp
	// Nobody in the container looks into this process or its descriptors.
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	channel := os.NewFile(channelFd, "channel")
	err := stage(channel)
	// Only a failure comes here.
	f := fault{Message: err.Error()}
	var coded *wire.Error
	if errors.As(err, &coded) {
		f.Code = coded.Code
	}
	_, _ = channel.Write([]byte{'E'})
	_ = wire.WriteMessage(channel, f)
	os.Exit(1)
}

func stage(channel *os.File) error {
	spec := new(Spec)
	if err := wire.ReadMessage(channel, spec); err != nil {
		return fmt.Errorf("reading the workload: %w", err)
	}
	if err := unix.CloseRange(channelFd, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("keeping descriptors from the workload: %w", err)
	}
	// Before any namespace hides the agent's /proc and the binary.
	if spec.OOMScore != 0 {
		if err := os.WriteFile("/proc/self/oom_score_adj", fmt.Append(nil, spec.OOMScore), 0); err != nil {
			return fmt.Errorf("setting the OOM score: %w", err)
		}
	}
	self, err := unix.Open("/proc/self/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening the agent: %w", err)
	}
	if spec.Enter != nil {
		err = enter(spec)
	} else {
		err = join(spec)
	}
	if err != nil {
		return err
	}
	unix.Umask(spec.Umask)
	if spec.TTY {
		if err := terminal(spec, channel); err != nil {
			return fmt.Errorf("making the terminal: %w", err)
		}
	}
	for _, r := range spec.Rlimits {
		limit := unix.Rlimit{Cur: r.Soft, Max: r.Hard}
		if err := unix.Prlimit(0, r.Resource, &limit, nil); err != nil {
			return fmt.Errorf("setting resource limit %d: %w", r.Resource, err)
		}
	}
	dir := spec.Dir
	if dir == "" {
		dir = "/"
	}
	early := unix.Chdir(dir)
	if err := privileges(spec); err != nil {
		return err
	}
	// A directory may be the user's alone, on a file system that refuses root.
	if err := unix.Chdir(dir); err != nil && early != nil {
		return &wire.Error{Code: wire.CodeCannotExec, Message: fmt.Sprintf("working directory %q: %v", dir, errText(err))}
	}
	path, err := lookPath(spec.Args[0], spec.Env)
	if err != nil {
		return err
	}
	if spec.Init {
		argv := append([]string{InitName, path}, spec.Args...)
		if _, err := unix.FcntlInt(channelFd, unix.F_SETFD, 0); err != nil { // the reaper closes it
			return fmt.Errorf("keeping the channel for the reaper: %w", err)
		}
		return fmt.Errorf("executing the reaper: %w", execFd(self, argv, spec.Env))
	}
	err = syscall.Exec(path, spec.Args, spec.Env)
	code := wire.CodeCannotExec
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		code = wire.CodeNoCommand // an interpreter is missing
	}
	return &wire.Error{Code: code, Message: fmt.Sprintf("exec %s: %v", path, errText(err))}
}

// join enters a running container's namespaces; the pid namespace already is.
func join(spec *Spec) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("leaving the agent's root: %w", err)
	}
	const all = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP
	if err := unix.Setns(firstFd+spec.Fds.Join, all); err != nil {
		return fmt.Errorf("joining the container: %w", err)
	}
	return keyring()
}

// keyring gives the workload a session keyring of its own, without a name.
func keyring() error {
	_, _, errno := unix.Syscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0)
	if errno != 0 && errno != unix.ENOSYS && errno != unix.EDQUOT {
		return fmt.Errorf("making a session keyring: %w", errno)
	}
	return nil
}

// enter makes the container's own namespaces and root.
func enter(spec *Spec) error {
	e := spec.Enter
	flags := unix.CLONE_FS
	if !e.HostCgroup {
		flags |= unix.CLONE_NEWCGROUP
	}
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("making namespaces: %w", err)
	}
	for _, ns := range []struct{ fd, kind int }{{spec.Fds.Net, unix.CLONE_NEWNET}, {spec.Fds.IPC, unix.CLONE_NEWIPC}} {
		if ns.fd < 0 {
			continue
		}
		if err := unix.Setns(firstFd+ns.fd, ns.kind); err != nil {
			return fmt.Errorf("joining a namespace: %w", err)
		}
	}
	if err := unix.Sethostname([]byte(e.Hostname)); err != nil {
		return fmt.Errorf("setting hostname %q: %w", e.Hostname, err)
	}
	if e.Domainname != "" {
		if err := unix.Setdomainname([]byte(e.Domainname)); err != nil {
			return fmt.Errorf("setting domain name %q: %w", e.Domainname, err)
		}
	}
	for _, s := range e.Sysctls {
		if err := os.WriteFile("/proc/sys/"+s.Key, []byte(s.Value), 0); err != nil {
			return fmt.Errorf("setting sysctl %s to %q: %w", strings.ReplaceAll(s.Key, "/", "."), s.Value, errText(err))
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	root, err := inroot.Open(e.Root)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := mounts(root, spec); err != nil {
		return err
	}
	if e.ReadOnly {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(unix.AT_FDCWD, e.Root, 0, &attr); err != nil {
			return fmt.Errorf("making the root read-only: %w", err)
		}
	}
	// The old root ends up mounted on the new one, and goes.
	if err := errors.Join(unix.Chdir(e.Root), unix.PivotRoot(".", "."), unix.Unmount(".", unix.MNT_DETACH), unix.Chdir("/")); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	return keyring()
}

// terminal opens a pseudo-terminal of the container's own devpts, sends its
// master to the agent and makes its slave the controlling terminal.
func terminal(spec *Spec, channel *os.File) error {
	master, err := unix.Open("/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(master, &fs); err != nil {
		return err
	}
	if fs.Type != unix.DEVPTS_SUPER_MAGIC {
		return errors.New("/dev/pts is not a devpts")
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return err
	}
	// By the master, not by a name: nothing can be put in its place.
	slave, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return errno
	}
	if spec.Size != (wire.WindowSize{}) {
		size := unix.Winsize{Row: spec.Size.Rows, Col: spec.Size.Cols}
		if err := unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, &size); err != nil {
			return err
		}
	}
	if err := unix.Fchown(int(slave), spec.UID, -1); err != nil && err != unix.EPERM {
		return err
	}
	if err := unix.IoctlSetInt(int(slave), unix.TIOCSCTTY, 0); err != nil {
		return err
	}
	for fd := range 3 {
		if err := unix.Dup3(int(slave), fd, 0); err != nil {
			return err
		}
	}
	if spec.Enter != nil {
		if err := console(int(slave)); err != nil {
			return err
		}
	}
	raw, err := channel.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	if err := raw.Control(func(fd uintptr) {
		sendErr = unix.Sendmsg(int(fd), []byte{'T'}, unix.UnixRights(master), nil, 0)
	}); err != nil {
		return err
	}
	return sendErr
}

// console binds the terminal over /dev/console, as runtimes do.
func console(slave int) error {
	fd, err := unix.Openat(unix.AT_FDCWD, "/dev/console", unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_RDONLY, 0o666)
	if err == nil {
		unix.Close(fd)
	} else if err != unix.EEXIST {
		return err
	}
	return unix.Mount(fmt.Sprintf("/proc/self/fd/%d", slave), "/dev/console", "", unix.MS_BIND, "")
}

// execFd executes what fd refers to; no path of a container is involved.
func execFd(fd int, argv, env []string) error {
	argvp, err := pointers(argv)
	if err != nil {
		return err
	}
	envp, err := pointers(env)
	if err != nil {
		return err
	}
	_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(new(byte))),
		uintptr(unsafe.Pointer(&argvp[0])), uintptr(unsafe.Pointer(&envp[0])), unix.AT_EMPTY_PATH, 0)
	return errno
}

// pointers makes a null-terminated array of C strings.
func pointers(list []string) ([]*byte, error) {
	out := make([]*byte, len(list)+1)
	for i, s := range list {
		p, err := unix.BytePtrFromString(s)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", s, err)
		}
		out[i] = p
	}
	return out, nil
}

// errText strips a path error of the path, which names the agent's tree.
func errText(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
