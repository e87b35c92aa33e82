//go:build linux

package launch

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// privileges gives up everything the workload is not to have. The system calls
// are made raw: Go's own setuid and the like change every thread and wait for
// them, while only this one will be left after exec.
func privileges(spec *Spec) error {
	for c := 0; c <= lastCapability(); c++ {
		if spec.Bounding&(1<<c) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
			return fmt.Errorf("dropping capability %d: %w", c, err)
		}
	}
	// Without no_new_privs a filter wants CAP_SYS_ADMIN, which is about to go.
	if !spec.NoNewPrivs {
		if err := filter(spec.Filter); err != nil {
			return err
		}
	}
	if err := setIDs(spec); err != nil {
		return err
	}
	// Permitted and effective are the superuser's; another user gains what the
	// bounding set allows by file capabilities only. Nothing is inheritable.
	var have uint64
	if spec.UID == 0 {
		have = spec.Bounding
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(have), Permitted: uint32(have)},
		{Effective: uint32(have >> 32), Permitted: uint32(have >> 32)},
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("setting capabilities: %w", err)
	}
	if spec.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("setting no_new_privs: %w", err)
		}
		return filter(spec.Filter)
	}
	return nil
}

func setIDs(spec *Spec) error {
	groups := make([]uint32, len(spec.Groups), len(spec.Groups)+1)
	for i, g := range spec.Groups {
		groups[i] = uint32(g)
	}
	list := unsafe.Pointer(unsafe.SliceData(append(groups, 0))) // never nil
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(list), 0); errno != 0 {
		return fmt.Errorf("setting groups: %w", errno)
	}
	gid, uid := uintptr(spec.GID), uintptr(spec.UID)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); errno != 0 {
		return fmt.Errorf("setting group %d: %w", spec.GID, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
		return fmt.Errorf("setting user %d: %w", spec.UID, errno)
	}
	return nil
}

func filter(program []byte) error {
	if len(program) == 0 {
		return nil
	}
	if len(program)%8 != 0 {
		return errors.New("installing the seccomp filter: half an instruction")
	}
	fprog := unix.SockFprog{Len: uint16(len(program) / 8), Filter: (*unix.SockFilter)(unsafe.Pointer(&program[0]))}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&fprog)), 0, 0); err != nil {
		return fmt.Errorf("installing the seccomp filter: %w", err)
	}
	return nil
}

// lastCapability asks the kernel: it refuses numbers it does not know.
func lastCapability() int {
	c := 63
	for c >= 0 {
		if v, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); err == nil && v >= 0 {
			break
		}
		c--
	}
	return c
}

// lookPath finds an executable as execvp does, with docker's errors. It runs as
// the workload's user, in its root.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		if err := executable(name); err != nil {
			return "", notFound(name, err)
		}
		return name, nil
	}
	path := ""
	for _, e := range env {
		if value, ok := strings.CutPrefix(e, "PATH="); ok {
			path = value
		}
	}
	denied := false
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" {
			dir = "."
		}
		err := executable(dir + "/" + name)
		if err == nil {
			return dir + "/" + name, nil
		}
		denied = denied || errors.Is(err, os.ErrPermission)
	}
	if denied {
		return "", notFound(name, os.ErrPermission)
	}
	return "", &wire.Error{Code: wire.CodeNoCommand, Message: fmt.Sprintf("exec: %q: executable file not found in $PATH", name)}
}

func notFound(name string, err error) error {
	code := wire.CodeNoCommand
	if errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EISDIR) {
		code = wire.CodeCannotExec
	}
	return &wire.Error{Code: code, Message: fmt.Sprintf("exec: %q: %v", name, errText(err))}
}

func executable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return unix.EISDIR
	}
	if err := unix.Faccessat2(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS); err != nil {
		if err == unix.EACCES {
			return os.ErrPermission
		}
		if err != unix.ENOSYS && err != unix.EPERM { // EPERM: a seccomp profile of before 5.8
			return err
		}
		if info.Mode()&0o111 == 0 {
			return os.ErrPermission
		}
	}
	return nil
}
