//go:build linux

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Listens tells when any process of the machine begins to listen on a TCP port or
// binds a UDP port, as they are bound, so that a look at the sockets then finds
// them. Nothing of the kernel's says so by itself: programs at the root of the
// hierarchy do.
type Listens struct {
	asked int // map: an element for each UDP port, not 0 once it was asked for by its number
	ring  *os.File
	pages [2][]byte // the ring's consumer position and its producer position

	mu     sync.Mutex
	wakes  map[int]func()
	lastID int
}

// ringSize is the kernel's least. No record is read: a full ring means that the
// reader is to be woken already.
const ringSize = 4096

// Numbers of the kernel's that package unix does not name.
const (
	helperLookup     = 1   // bpf_map_lookup_elem
	helperRingOutput = 130 // bpf_ringbuf_output
	ringForceWakeup  = 2   // BPF_RB_FORCE_WAKEUP
	frame            = 10  // register of the stack's end
)

// NewListens attaches the programs, which stay as long as the machine.
func NewListens() (_ *Listens, err error) {
	l := &Listens{asked: -1, wakes: make(map[int]func())}
	defer func() {
		if err != nil {
			l.release()
			err = fmt.Errorf("watching for listening ports: %w", err)
		}
	}()
	if l.asked, err = newMap(unix.BPF_MAP_TYPE_ARRAY, 4, 4, 1<<16); err != nil {
		return nil, err
	}
	ring, err := newMap(unix.BPF_MAP_TYPE_RINGBUF, 0, 0, ringSize)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(ring, true); err != nil {
		unix.Close(ring)
		return nil, err
	}
	l.ring = os.NewFile(uintptr(ring), "listens")
	for i, prot := range []int{unix.PROT_READ | unix.PROT_WRITE, unix.PROT_READ} {
		if l.pages[i], err = unix.Mmap(ring, int64(i*os.Getpagesize()), os.Getpagesize(), prot, unix.MAP_SHARED); err != nil {
			return nil, err
		}
	}
	for _, p := range []struct {
		kind, attach uint32
		program      program
	}{
		{unix.BPF_PROG_TYPE_CGROUP_SOCK_ADDR, unix.BPF_CGROUP_INET4_BIND, askedProgram(l.asked)},
		{unix.BPF_PROG_TYPE_CGROUP_SOCK_ADDR, unix.BPF_CGROUP_INET6_BIND, askedProgram(l.asked)},
		{unix.BPF_PROG_TYPE_CGROUP_SOCK, unix.BPF_CGROUP_INET4_POST_BIND, boundProgram(ring)},
		{unix.BPF_PROG_TYPE_CGROUP_SOCK, unix.BPF_CGROUP_INET6_POST_BIND, boundProgram(ring)},
		{unix.BPF_PROG_TYPE_SOCK_OPS, unix.BPF_CGROUP_SOCK_OPS, listenProgram(ring)},
	} {
		fd, err := loadProgram(p.kind, p.attach, p.program)
		if err != nil {
			return nil, fmt.Errorf("loading program %d: %w", p.attach, err)
		}
		err = attachProgram(Mountpoint, fd, p.attach)
		unix.Close(fd)
		if err != nil {
			return nil, fmt.Errorf("attaching program %d: %w", p.attach, err)
		}
	}
	go l.run()
	return l, nil
}

func (l *Listens) release() {
	if l.asked >= 0 {
		unix.Close(l.asked)
	}
	if l.ring != nil {
		l.ring.Close()
	}
	for _, page := range l.pages {
		if page != nil {
			_ = unix.Munmap(page)
		}
	}
}

// Watch has wake called, one call at a time, whenever there may be a port more,
// until the function it returns was called.
func (l *Listens) Watch(wake func()) (stop func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lastID++
	id := l.lastID
	l.wakes[id] = wake
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.wakes, id)
	}
}

// Asked tells whether anybody bound a UDP port by its number: what was given any
// free port is a client, as of name servers.
func (l *Listens) Asked(port uint16) bool {
	key, value := uint32(port), uint32(0)
	attr := struct {
		fd         uint32
		_          uint32
		key, value uint64
		flags      uint64
	}{fd: uint32(l.asked), key: uint64(uintptr(unsafe.Pointer(&key))), value: uint64(uintptr(unsafe.Pointer(&value)))}
	_, err := bpf(unix.BPF_MAP_LOOKUP_ELEM, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err == nil && value != 0
}

// run is the goroutine that waits for the ring, as long as the machine lives.
func (l *Listens) run() {
	raw, err := l.ring.SyscallConn()
	if err != nil {
		return
	}
	consumed := (*uint64)(unsafe.Pointer(&l.pages[0][0]))
	produced := (*uint64)(unsafe.Pointer(&l.pages[1][0]))
	for {
		err := raw.Read(func(uintptr) bool {
			to := atomic.LoadUint64(produced)
			return atomic.SwapUint64(consumed, to) != to
		})
		if errors.Is(err, os.ErrClosed) {
			return
		}
		l.mu.Lock()
		for _, wake := range l.wakes {
			wake()
		}
		l.mu.Unlock()
	}
}

func newMap(kind, key, value, entries uint32) (int, error) {
	attr := struct{ kind, key, value, entries, flags uint32 }{kind, key, value, entries, 0}
	fd, err := bpf(unix.BPF_MAP_CREATE, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return -1, fmt.Errorf("making a map: %w", err)
	}
	unix.CloseOnExec(fd)
	return fd, nil
}

// askedProgram notes the number of a UDP port that is about to be bound.
func askedProgram(asked int) program {
	const swap = unix.BPF_ALU | unix.BPF_END | unix.BPF_TO_BE
	var p program
	// A struct bpf_sock_addr: the port at 24, the socket's type at 32.
	p.emit(loadWord, 2, 1, 32, 0)
	other := len(p)
	p.emit(unequal, 2, 0, 0, unix.SOCK_DGRAM)
	p.emit(loadWord, 2, 1, 24, 0)
	p.emit(swap, 2, 0, 0, 16)
	p.emit(unequal, 2, 0, 2, 0) // over the end
	p.land(other)
	p.emit(moveImm, 0, 0, 0, 1)
	p.emit(exit, 0, 0, 0, 0)
	p.emit(unix.BPF_STX|unix.BPF_MEM|unix.BPF_W, frame, 2, -4, 0)
	p.loadMap(asked)
	p.pointer(2, -4)
	p.emit(unix.BPF_JMP|unix.BPF_CALL, 0, 0, 0, helperLookup)
	p.emit(unequal, 0, 0, 2, 0) // it cannot be nil, which the verifier does not know
	p.emit(moveImm, 0, 0, 0, 1)
	p.emit(exit, 0, 0, 0, 0)
	p.emit(unix.BPF_ST|unix.BPF_MEM|unix.BPF_W, 0, 0, 0, 1)
	p.emit(moveImm, 0, 0, 0, 1)
	p.emit(exit, 0, 0, 0, 0)
	return p
}

// boundProgram wakes the reader when a UDP port was bound.
func boundProgram(ring int) program {
	var p program
	p.emit(loadWord, 2, 1, 8, 0) // the type in a struct bpf_sock
	other := len(p)
	p.emit(unequal, 2, 0, 0, unix.SOCK_DGRAM)
	p.wake(ring)
	p.land(other)
	p.emit(moveImm, 0, 0, 0, 1)
	p.emit(exit, 0, 0, 0, 0)
	return p
}

// listenProgram wakes the reader when a TCP port is listened on. Whatever else
// the kernel asks such programs is left to the kernel.
func listenProgram(ring int) program {
	var p program
	p.emit(loadWord, 2, 1, 0, 0) // what happens, in a struct bpf_sock_ops
	p.emit(moveImm, 3, 0, 0, -1)
	p.emit(unix.BPF_STX|unix.BPF_MEM|unix.BPF_W, 1, 3, 4, 0) // the reply
	other := len(p)
	p.emit(unequal, 2, 0, 0, unix.BPF_SOCK_OPS_TCP_LISTEN_CB)
	p.wake(ring)
	p.land(other)
	p.emit(moveImm, 0, 0, 0, 1)
	p.emit(exit, 0, 0, 0, 0)
	return p
}

// wake puts an empty record into a ring.
func (p *program) wake(ring int) {
	p.emit(unix.BPF_ST|unix.BPF_MEM|unix.BPF_DW, frame, 0, -8, 0)
	p.loadMap(ring)
	p.pointer(2, -8)
	p.emit(moveImm, 3, 0, 0, 8)
	p.emit(moveImm, 4, 0, 0, ringForceWakeup)
	p.emit(unix.BPF_JMP|unix.BPF_CALL, 0, 0, 0, helperRingOutput)
}

// loadMap puts a map into the first register of a call.
func (p *program) loadMap(fd int) {
	p.emit(unix.BPF_LD|unix.BPF_IMM|unix.BPF_DW, 1, unix.BPF_PSEUDO_MAP_FD, 0, int32(fd))
	p.emit(0, 0, 0, 0, 0)
}

// pointer puts the address of a place on the stack into a register.
func (p *program) pointer(register byte, at int32) {
	p.emit(unix.BPF_ALU64|unix.BPF_MOV|unix.BPF_X, register, frame, 0, 0)
	p.emit(unix.BPF_ALU64|unix.BPF_ADD|unix.BPF_K, register, 0, 0, at)
}
