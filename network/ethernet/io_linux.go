package ethernet

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// message is struct mmsghdr: x/sys/unix has the calls' numbers only.
type message struct {
	hdr unix.Msghdr
	len uint32
}

// batch is the argument of one recvmmsg or sendmmsg call: frames of one
// buffer each.
type batch struct {
	messages []message
	iovecs   []unix.Iovec
}

func newBatch(size int) *batch {
	b := &batch{messages: make([]message, size), iovecs: make([]unix.Iovec, size)}
	for i := range b.messages {
		b.messages[i].hdr.Iov = &b.iovecs[i]
		b.messages[i].hdr.SetIovlen(1)
	}
	return b
}

func (b *batch) set(i int, frame []byte) {
	b.iovecs[i].Base = unsafe.SliceData(frame)
	b.iovecs[i].SetLen(len(frame))
}

// received is the length of message i and whether it was longer than its buffer.
func (b *batch) received(i int) (n int, truncated bool) {
	m := &b.messages[i]
	return int(m.len), m.hdr.Flags&unix.MSG_TRUNC != 0
}

// The calls below never block, so they are raw: telling the scheduler of them
// costs more than a small frame does, and makes it start threads [measured].

func (b *batch) receive(fd uintptr, n int) (int, syscall.Errno) {
	return mmsg(unix.SYS_RECVMMSG, fd, b.messages[:n])
}

func (b *batch) send(fd uintptr, from, to int) (int, syscall.Errno) {
	return mmsg(unix.SYS_SENDMMSG, fd, b.messages[from:to])
}

func mmsg(call, fd uintptr, m []message) (int, syscall.Errno) {
	for {
		n, _, err := unix.RawSyscall6(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(m))), uintptr(len(m)), unix.MSG_DONTWAIT, 0, 0)
		switch err {
		case 0:
			return int(n), 0
		case unix.EINTR:
		default:
			return 0, err
		}
	}
}

// vector is the argument of a sendmsg call: one frame in pieces.
type vector struct {
	hdr    unix.Msghdr
	iovecs []unix.Iovec
}

func (v *vector) set(pieces [][]byte) {
	v.iovecs = v.iovecs[:0]
	for _, p := range pieces {
		if len(p) == 0 {
			continue
		}
		iov := unix.Iovec{Base: unsafe.SliceData(p)}
		iov.SetLen(len(p))
		v.iovecs = append(v.iovecs, iov)
	}
	v.hdr.Iov = unsafe.SliceData(v.iovecs)
	v.hdr.SetIovlen(len(v.iovecs))
}

// clear lets go of the frame's memory.
func (v *vector) clear() { clear(v.iovecs) }

func (v *vector) send(fd uintptr) syscall.Errno {
	for {
		_, _, err := unix.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&v.hdr)), unix.MSG_DONTWAIT)
		if err != unix.EINTR {
			return err
		}
	}
}
