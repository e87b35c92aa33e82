//go:build linux

package cgroup

import (
	"encoding/binary"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// program is eBPF, 8 bytes an instruction.
type program []byte

// Instructions that more than one program has.
const (
	loadWord = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W
	moveReg  = unix.BPF_ALU | unix.BPF_MOV | unix.BPF_X
	moveImm  = unix.BPF_ALU | unix.BPF_MOV | unix.BPF_K
	unequal  = unix.BPF_JMP | unix.BPF_JNE | unix.BPF_K
	exit     = unix.BPF_JMP | unix.BPF_EXIT
)

// emit adds an instruction.
func (p *program) emit(op, dst, src byte, jump int16, imm int32) {
	*p = append(*p, op, dst|src<<4)
	*p = binary.NativeEndian.AppendUint16(*p, uint16(jump))
	*p = binary.NativeEndian.AppendUint32(*p, uint32(imm))
}

// land makes the jump at an offset lead to behind the last instruction.
func (p *program) land(at int) {
	binary.NativeEndian.PutUint16((*p)[at+2:], uint16((len(*p)-at)/8-1))
}

// attachProgram has a group, and all below it, run a program.
func attachProgram(dir string, fd int, kind uint32) error {
	group, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(group)
	attach := struct{ target, program, kind, flags uint32 }{uint32(group), uint32(fd), kind, unix.BPF_F_ALLOW_MULTI}
	_, err = bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attach), unsafe.Sizeof(attach))
	return err
}

func bpf(command uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(attr), size)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// loadProgram returns a descriptor of a program; attachType is what the kernel
// wants to know at this point of some kinds.
func loadProgram(kind, attachType uint32, p program) (int, error) {
	license := []byte("Apache-2.0\x00")
	attr := struct {
		kind, count      uint32
		program, license uint64
		logLevel, logLen uint32
		log              uint64
		version, flags   uint32
		name             [16]byte
		device, attach   uint32
	}{
		kind: kind, count: uint32(len(p) / 8), attach: attachType,
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
		return -1, err
	}
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil); err != nil {
		runtime.LockOSThread() // for good: the thread is not fit for others
	}
	runtime.KeepAlive(p)
	runtime.KeepAlive(license)
	return fd, err
}
