//go:build !linux

package ethernet

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// batch is a loop over single calls where the kernel has no recvmmsg.
type batch struct {
	frames    [][]byte
	lengths   []int
	truncates []bool
}

func newBatch(size int) *batch {
	return &batch{frames: make([][]byte, size), lengths: make([]int, size), truncates: make([]bool, size)}
}

func (b *batch) set(i int, frame []byte) { b.frames[i] = frame }

func (b *batch) received(i int) (n int, truncated bool) { return b.lengths[i], b.truncates[i] }

func (b *batch) receive(fd uintptr, n int) (int, syscall.Errno) {
	for i := range n {
		got, _, flags, _, err := unix.Recvmsg(int(fd), b.frames[i], nil, unix.MSG_DONTWAIT)
		if err != nil {
			if i > 0 {
				return i, 0
			}
			return 0, errno(err)
		}
		b.lengths[i], b.truncates[i] = got, flags&unix.MSG_TRUNC != 0
	}
	return n, 0
}

func (b *batch) send(fd uintptr, from, to int) (int, syscall.Errno) {
	for i := from; i < to; i++ {
		if err := unix.Sendto(int(fd), b.frames[i], unix.MSG_DONTWAIT, nil); err != nil {
			if i > from {
				return i - from, 0
			}
			return 0, errno(err)
		}
	}
	return to - from, 0
}

// vector is one frame in pieces.
type vector struct{ pieces [][]byte }

func (v *vector) set(pieces [][]byte) { v.pieces = append(v.pieces[:0], pieces...) }
func (v *vector) clear()              { clear(v.pieces) }

func (v *vector) send(fd uintptr) syscall.Errno {
	_, err := unix.SendmsgBuffers(int(fd), v.pieces, nil, nil, unix.MSG_DONTWAIT)
	if err != nil {
		return errno(err)
	}
	return 0
}

func errno(err error) syscall.Errno {
	if e, ok := err.(syscall.Errno); ok {
		return e
	}
	return unix.EIO
}
