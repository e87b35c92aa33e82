//go:build linux

package cgroup

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// DeviceRule allows or denies the use of device nodes.
type DeviceRule struct {
	Allow        bool
	Type         byte   // 'c', 'b', or 0 for both
	Major, Minor int64  // -1 is every
	Access       string // of "rwm"
}

// ParseDeviceRule reads what is allowed, as device_cgroup_rules write it: "c 1:3 mr".
func ParseDeviceRule(text string) (DeviceRule, error) {
	r := DeviceRule{Allow: true}
	fields := strings.Fields(text)
	if len(fields) != 3 || len(fields[0]) != 1 || strings.Trim(fields[2], "rwm") != "" {
		return r, fmt.Errorf("device rule %q: want a type, MAJOR:MINOR and an access", text)
	}
	if r.Type = fields[0][0]; r.Type == 'a' {
		r.Type = 0
	} else if r.Type != 'b' && r.Type != 'c' {
		return r, fmt.Errorf("device rule %q: no device is of type %q", text, fields[0])
	}
	major, minor, _ := strings.Cut(fields[1], ":")
	for _, n := range []struct {
		text string
		to   *int64
	}{{major, &r.Major}, {minor, &r.Minor}} {
		if *n.to = -1; n.text == "*" {
			continue
		}
		v, err := strconv.ParseUint(n.text, 10, 31)
		if err != nil {
			return r, fmt.Errorf("device rule %q: %q is no device number", text, n.text)
		}
		*n.to = int64(v)
	}
	r.Access = fields[2]
	return r, nil
}

// DefaultDevices are what docker allows: making any node, using the harmless ones.
var DefaultDevices = []DeviceRule{
	{true, 'c', -1, -1, "m"},
	{true, 'b', -1, -1, "m"},
	{true, 'c', 1, 3, "rwm"},    // null
	{true, 'c', 1, 5, "rwm"},    // zero
	{true, 'c', 1, 7, "rwm"},    // full
	{true, 'c', 1, 8, "rwm"},    // random
	{true, 'c', 1, 9, "rwm"},    // urandom
	{true, 'c', 5, 0, "rwm"},    // tty
	{true, 'c', 5, 1, "rwm"},    // console
	{true, 'c', 5, 2, "rwm"},    // ptmx
	{true, 'c', 136, -1, "rwm"}, // pts
}

// SetDevices has the kernel decide by rules, the first that fits, and else by
// fallback, what nodes processes in the group may use.
func (g *Group) SetDevices(rules []DeviceRule, fallback bool) error {
	program, err := deviceProgram(rules, fallback)
	if err != nil {
		return err
	}
	dir, err := unix.Open(g.Dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	fd, err := loadProgram(program)
	if err != nil {
		return fmt.Errorf("loading the device program: %w", err)
	}
	defer unix.Close(fd) // the group holds it once attached
	attach := struct{ target, program, kind, flags uint32 }{uint32(dir), uint32(fd), unix.BPF_CGROUP_DEVICE, unix.BPF_F_ALLOW_MULTI}
	if _, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_ATTACH, uintptr(unsafe.Pointer(&attach)), unsafe.Sizeof(attach)); errno != 0 {
		return fmt.Errorf("attaching the device program: %w", errno)
	}
	return nil
}

// Registers of the program: the context, then what it is taken apart into.
const (
	result, context, kind, access, major, minor = 0, 1, 2, 3, 4, 5
)

// deviceProgram writes the rules as eBPF, 8 bytes an instruction.
func deviceProgram(rules []DeviceRule, fallback bool) ([]byte, error) {
	var p []byte
	// op, destination, source, jump, immediate
	emit := func(op, dst, src byte, jump int16, imm int32) {
		p = append(p, op, dst|src<<4)
		p = binary.NativeEndian.AppendUint16(p, uint16(jump))
		p = binary.NativeEndian.AppendUint32(p, uint32(imm))
	}
	const (
		loadWord  = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W
		and       = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
		shift     = unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K
		moveReg   = unix.BPF_ALU | unix.BPF_MOV | unix.BPF_X
		moveImm   = unix.BPF_ALU | unix.BPF_MOV | unix.BPF_K
		unequal   = unix.BPF_JMP | unix.BPF_JNE | unix.BPF_K
		unequalRx = unix.BPF_JMP | unix.BPF_JNE | unix.BPF_X
		exit      = unix.BPF_JMP | unix.BPF_EXIT
	)
	finish := func(allow bool) {
		verdict := int32(0)
		if allow {
			verdict = 1
		}
		emit(moveImm, result, 0, 0, verdict)
		emit(exit, 0, 0, 0, 0)
	}
	// struct bpf_cgroup_dev_ctx: access in the upper half of the first word, type
	// in the lower; major; minor.
	emit(loadWord, kind, context, 0, 0)
	emit(moveReg, access, kind, 0, 0)
	emit(shift, access, 0, 0, 16)
	emit(and, kind, 0, 0, 0xffff)
	emit(loadWord, major, context, 4, 0)
	emit(loadWord, minor, context, 8, 0)
	for _, r := range rules {
		mask := int32(0)
		for _, a := range r.Access {
			switch a {
			case 'm':
				mask |= unix.BPF_DEVCG_ACC_MKNOD
			case 'r':
				mask |= unix.BPF_DEVCG_ACC_READ
			case 'w':
				mask |= unix.BPF_DEVCG_ACC_WRITE
			default:
				return nil, fmt.Errorf("device access %q: not of r, w and m", r.Access)
			}
		}
		const every = unix.BPF_DEVCG_ACC_MKNOD | unix.BPF_DEVCG_ACC_READ | unix.BPF_DEVCG_ACC_WRITE
		var skips []int // jumps to behind the rule
		skip := func(op, dst, src byte, imm int32) {
			skips = append(skips, len(p))
			emit(op, dst, src, 0, imm)
		}
		switch r.Type {
		case 'b':
			skip(unequal, kind, 0, unix.BPF_DEVCG_DEV_BLOCK)
		case 'c':
			skip(unequal, kind, 0, unix.BPF_DEVCG_DEV_CHAR)
		}
		if r.Major >= 0 {
			skip(unequal, major, 0, int32(r.Major))
		}
		if r.Minor >= 0 {
			skip(unequal, minor, 0, int32(r.Minor))
		}
		switch {
		case mask == every:
		case r.Allow: // only when nothing else is asked for
			emit(moveReg, context, access, 0, 0)
			emit(and, context, 0, 0, mask)
			skip(unequalRx, context, access, 0)
		default:
			return nil, fmt.Errorf("denying %q of a device: only all at once", r.Access)
		}
		finish(r.Allow)
		for _, at := range skips {
			binary.NativeEndian.PutUint16(p[at+2:], uint16((len(p)-at)/8-1))
		}
	}
	finish(fallback)
	return p, nil
}

func loadProgram(p []byte) (int, error) {
	license := []byte("Apache-2.0\x00")
	attr := struct {
		kind, count      uint32
		program, license uint64
		logLevel, logLen uint32
		log              uint64
		version, flags   uint32
		name             [16]byte
	}{
		kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(p) / 8),
		program: uint64(uintptr(unsafe.Pointer(&p[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
	}
	// The kernel gives up with EAGAIN when a signal waits while it verifies the
	// program, as the Go scheduler's own often does on a slow processor.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err != nil {
		return -1, fmt.Errorf("holding back signals: %w", err)
	}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil); err != nil {
		runtime.LockOSThread() // for good: the thread is not fit for others
	}
	runtime.KeepAlive(p)
	runtime.KeepAlive(license)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}
