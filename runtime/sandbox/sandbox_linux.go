package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	goruntime "runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Process is a started program, a child of this process in a session of its own.
type Process struct {
	PID   int
	PIDFD int // the caller's to close
}

// Start starts the program. The error is of the start of the helper; what fails
// in the helper ends it with status 127 and a line on Stderr.
func Start(s Spec) (Process, error) {
	s.Keep = len(s.Files)
	arg, err := json.Marshal(s)
	if err != nil {
		return Process{}, fmt.Errorf("starting %s: %w", s.Path, err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return Process{}, fmt.Errorf("starting %s: %w", s.Path, err)
	}
	defer null.Close()
	files := []*os.File{null, null, null}
	if s.Stdout != nil {
		files[1] = s.Stdout
	}
	if s.Stderr != nil {
		files[2] = s.Stderr
	}
	files = append(files, s.Files...)
	// Duplicated by hand: (*os.File).Fd would make the files blocking for
	// whoever else uses them.
	fds := make([]uintptr, len(files))
	defer func() {
		for _, fd := range fds {
			if fd != 0 {
				unix.Close(int(fd))
			}
		}
	}()
	for i, f := range files {
		fd, err := Dup(f)
		if err != nil {
			return Process{}, fmt.Errorf("starting %s: %w", s.Path, err)
		}
		fds[i] = uintptr(fd)
	}
	p := Process{PIDFD: -1}
	// The link of this process, so that a replaced binary still runs as itself.
	p.PID, err = syscall.ForkExec("/proc/self/exe", []string{argv0, string(arg)}, &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: fds,
		Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &p.PIDFD},
	})
	if err != nil {
		return Process{}, fmt.Errorf("starting %s: %w", s.Path, err)
	}
	if p.PIDFD < 0 { // a kernel without CLONE_PIDFD
		if p.PIDFD, err = unix.PidfdOpen(p.PID, 0); err != nil {
			unix.Kill(p.PID, unix.SIGKILL)
			_, _ = unix.Wait4(p.PID, nil, 0, nil)
			return Process{}, fmt.Errorf("starting %s: %w", s.Path, err)
		}
	}
	return p, nil
}

// Dup duplicates a file's descriptor, close-on-exec, without changing the file's
// mode as its Fd method may.
func Dup(f *os.File) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	var dupErr error
	if err := raw.Control(func(old uintptr) {
		fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3)
	}); err != nil {
		return -1, err
	}
	return fd, dupErr
}

// become restricts this process and executes the program.
func become(s Spec) error {
	// Restrictions are a thread's, and exec keeps those of the thread that calls
	// it.
	goruntime.LockOSThread()
	if err := unix.CloseRange(uint(3+s.Keep), math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("closing descriptors: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	if err := restrict(s); err != nil {
		return err
	}
	return unix.Exec(s.Path, s.Args, s.Env)
}

// ABI is the version of Landlock that the host's kernel offers, 0 for none. From
// 1 it confines files, from 4 TCP, from 6 signals and abstract sockets.
func ABI() int {
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(v)
}

// Rights of Landlock by what they are for.
const (
	readFile = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_EXECUTE
	readDir  = readFile | unix.LANDLOCK_ACCESS_FS_READ_DIR

	allV1 = unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1
)

// handled are the rights that an ABI knows, all of which are taken away.
func handled(abi int) unix.LandlockRulesetAttr {
	a := unix.LandlockRulesetAttr{Handled_access_fs: allV1}
	if abi >= 2 {
		a.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi >= 3 {
		a.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if abi >= 4 {
		a.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	if abi >= 5 {
		a.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if abi >= 6 {
		a.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	}
	return a
}

// restrict takes away everything that s does not list. A kernel without Landlock
// restricts nothing: doctor says so.
func restrict(s Spec) error {
	abi := ABI()
	if abi == 0 {
		return nil
	}
	attr := handled(abi)
	size := unsafe.Offsetof(attr.Scoped) + unsafe.Sizeof(attr.Scoped)
	switch { // an older kernel refuses a longer structure
	case abi < 4:
		size = unsafe.Offsetof(attr.Handled_access_net)
	case abi < 6:
		size = unsafe.Offsetof(attr.Scoped)
	}
	ruleset, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return fmt.Errorf("landlock: making a ruleset: %w", errno)
	}
	defer unix.Close(int(ruleset))
	for _, list := range []struct {
		paths []string
		file  uint64
		tree  uint64
	}{
		{append(s.Read, s.Path), readFile, readDir},
		{s.Write, allV1 | unix.LANDLOCK_ACCESS_FS_TRUNCATE, allV1 | unix.LANDLOCK_ACCESS_FS_REFER | unix.LANDLOCK_ACCESS_FS_TRUNCATE},
		{
			s.Devices,
			unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV,
			0,
		},
	} {
		for _, p := range list.paths {
			if err := allow(int(ruleset), p, list.file&attr.Handled_access_fs, list.tree&attr.Handled_access_fs); err != nil {
				return fmt.Errorf("landlock: %s: %w", p, err)
			}
		}
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0); errno != 0 {
		return fmt.Errorf("landlock: %w", errno)
	}
	return nil
}

// allow grants file to a path that is no directory, tree to one that is.
func allow(ruleset int, path string, file, tree uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOTDIR) {
		return nil // neither would the program get there
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	access := tree
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		// What only makes sense for a directory is refused for a file.
		access = file & (unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE |
			unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV)
	}
	if access == 0 {
		return nil
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(fd)}
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}
