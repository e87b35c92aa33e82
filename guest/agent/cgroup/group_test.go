//go:build linux

package cgroup

import (
	"encoding/binary"
	"errors"
	goruntime "runtime"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

func TestSettings(t *testing.T) {
	type m = map[string]string
	for _, tt := range []struct {
		limits wire.Limits
		want   m
	}{
		{wire.Limits{}, m{}},
		{wire.Limits{CPUs: 1.5}, m{"cpu.max": "150000 100000"}},
		{wire.Limits{CPUs: 0.001}, m{"cpu.max": "1000 100000"}},
		{wire.Limits{CPUs: 0.5, CPUPeriod: 60_000}, m{"cpu.max": "30000 60000"}},
		{wire.Limits{CPUPeriod: 60_000}, m{"cpu.max": "max 60000"}},
		{wire.Limits{CPUShares: 1024}, m{"cpu.weight": "39"}},
		{wire.Limits{CPUShares: 2}, m{"cpu.weight": "1"}},
		{wire.Limits{CPUShares: 1 << 20}, m{"cpu.weight": "10000"}},
		{wire.Limits{CPUSet: "0-1"}, m{"cpuset.cpus": "0-1"}},
		{wire.Limits{MemoryBytes: 100, SwapBytes: 150, MemoryReservation: 50}, m{"memory.max": "100", "memory.swap.max": "50", "memory.low": "50"}},
		{wire.Limits{MemoryBytes: 100, SwapBytes: 100}, m{"memory.max": "100", "memory.swap.max": "0"}},
		{wire.Limits{MemoryBytes: 100, SwapBytes: -1}, m{"memory.max": "100", "memory.swap.max": "max"}},
		{wire.Limits{PIDs: 7}, m{"pids.max": "7"}},
		{wire.Limits{PIDs: -1}, m{}},
	} {
		got := m{}
		for _, s := range settings(tt.limits) {
			got[s.file] = s.value
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%+v: %s", tt.limits, diff)
		}
	}
}

// decide runs a device program as the kernel would.
func decide(t *testing.T, p []byte, kind, access, major, minor uint32) bool {
	t.Helper()
	ctx := binary.NativeEndian.AppendUint32(nil, access<<16|kind)
	ctx = binary.NativeEndian.AppendUint32(ctx, major)
	ctx = binary.NativeEndian.AppendUint32(ctx, minor)
	var reg [11]uint64
	for pc := 0; ; pc++ {
		if pc*8 >= len(p) {
			t.Fatal("ran off the end")
		}
		i := p[pc*8:]
		op, dst, src := i[0], i[1]&0xf, i[1]>>4
		jump := int(int16(binary.NativeEndian.Uint16(i[2:])))
		imm := int32(binary.NativeEndian.Uint32(i[4:]))
		switch op {
		case unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W:
			reg[dst] = uint64(binary.NativeEndian.Uint32(ctx[jump:]))
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			reg[dst] &= uint64(uint32(imm))
		case unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K:
			reg[dst] = uint64(uint32(reg[dst]) >> imm)
		case unix.BPF_ALU | unix.BPF_MOV | unix.BPF_X:
			reg[dst] = uint64(uint32(reg[src]))
		case unix.BPF_ALU | unix.BPF_MOV | unix.BPF_K:
			reg[dst] = uint64(uint32(imm))
		case unix.BPF_JMP | unix.BPF_JNE | unix.BPF_K:
			if reg[dst] != uint64(int64(imm)) {
				pc += jump
			}
		case unix.BPF_JMP | unix.BPF_JNE | unix.BPF_X:
			if reg[dst] != reg[src] {
				pc += jump
			}
		case unix.BPF_JMP | unix.BPF_EXIT:
			return reg[0] != 0
		default:
			t.Fatalf("instruction %#x", op)
		}
	}
}

func TestDevices(t *testing.T) {
	const (
		block, char       = unix.BPF_DEVCG_DEV_BLOCK, unix.BPF_DEVCG_DEV_CHAR
		make, read, write = unix.BPF_DEVCG_ACC_MKNOD, unix.BPF_DEVCG_ACC_READ, unix.BPF_DEVCG_ACC_WRITE
	)
	standard, err := deviceProgram(append([]DeviceRule{{true, 'c', 10, 229, "rw"}}, DefaultDevices...), false)
	if err != nil {
		t.Fatal(err)
	}
	privileged, err := deviceProgram([]DeviceRule{{false, 'b', 8, -1, "rwm"}}, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		program                    []byte
		kind, access, major, minor uint32
		want                       bool
	}{
		{standard, char, read | write, 1, 3, true},
		{standard, char, read, 136, 7, true},
		{standard, block, make, 8, 0, true},
		{standard, block, read, 8, 0, false},
		{standard, block, make | read, 8, 0, false},
		{standard, char, read, 1, 1, false}, // mem
		{standard, block, read, 1, 3, false},
		{standard, char, read | write, 10, 229, true},
		{standard, char, read | write, 10, 228, false},
		{privileged, block, read, 8, 16, false},
		{privileged, block, read, 7, 0, true},
		{privileged, char, write, 8, 0, true},
	} {
		if got := decide(t, tt.program, tt.kind, tt.access, tt.major, tt.minor); got != tt.want {
			t.Errorf("type %d access %d %d:%d: %v", tt.kind, tt.access, tt.major, tt.minor, got)
		}
	}
	for _, bad := range []DeviceRule{{true, 'c', 1, 1, "x"}, {false, 'c', 1, 1, "r"}} {
		if _, err := deviceProgram([]DeviceRule{bad}, false); err == nil {
			t.Errorf("rule %+v was taken", bad)
		}
	}
}

// The kernel ends the verification of a program when a signal waits, as the Go
// scheduler's do: loading must not see them.
func TestLoadUnderSignals(t *testing.T) {
	program, err := deviceProgram(DefaultDevices, false)
	if err != nil {
		t.Fatal(err)
	}
	load := func() error {
		fd, err := loadProgram(unix.BPF_PROG_TYPE_CGROUP_DEVICE, 0, program)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	if err := load(); errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		t.Skipf("loading a program here: %v", err)
	}
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	tid, done := unix.Gettid(), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				_ = unix.Tgkill(unix.Getpid(), tid, unix.SIGURG)
			}
		}
	})
	for range 300 {
		if err := load(); err != nil {
			t.Error(err)
			break
		}
	}
	close(done)
	wg.Wait()
}
