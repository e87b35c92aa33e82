//go:build linux && amd64

package seccomp

import (
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// run executes a program as the kernel would.
func run(t testing.TB, p []unix.SockFilter, arch, nr uint32, args ...uint64) uint32 {
	t.Helper()
	var a uint32
	for pc := 0; ; pc++ {
		if pc >= len(p) {
			t.Fatal("ran off the end")
		}
		i := p[pc]
		jump := func(ok bool) {
			if ok {
				pc += int(i.Jt)
			} else {
				pc += int(i.Jf)
			}
		}
		switch i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			switch {
			case i.K == offNumber:
				a = nr
			case i.K == offArch:
				a = arch
			default:
				var v uint64
				if n := int(i.K-offArgs) / 8; n < len(args) {
					v = args[n]
				}
				a = uint32(v >> (8 * ((i.K - offArgs) % 8)))
			}
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= i.K
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(i.K)
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(a == i.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump(a >= i.K)
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			jump(a > i.K)
		case unix.BPF_RET | unix.BPF_K:
			return i.K
		default:
			t.Fatalf("instruction %#x", i.Code)
		}
	}
}

func program(t testing.TB, profile string, caps ...string) []unix.SockFilter {
	t.Helper()
	b, err := Filter(profile, caps)
	if err != nil {
		t.Fatal(err)
	}
	var p []unix.SockFilter
	for ; len(b) > 0; b = b[8:] {
		p = append(p, unix.SockFilter{
			Code: uint16(b[0]) | uint16(b[1])<<8, Jt: b[2], Jf: b[3],
			K: uint32(b[4]) | uint32(b[5])<<8 | uint32(b[6])<<16 | uint32(b[7])<<24,
		})
	}
	return p
}

func TestDefaultProfile(t *testing.T) {
	const (
		allow  = unix.SECCOMP_RET_ALLOW
		eperm  = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
		enosys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
		x86    = unix.AUDIT_ARCH_X86_64
	)
	plain := program(t, "")
	admin := program(t, "", "CAP_SYS_ADMIN")
	for _, tt := range []struct {
		name string
		p    []unix.SockFilter
		arch uint32
		nr   uint32
		args []uint64
		want uint32
	}{
		{"read", plain, x86, unix.SYS_READ, nil, allow},
		{"execveat", plain, x86, unix.SYS_EXECVEAT, nil, allow},
		{"mount", plain, x86, unix.SYS_MOUNT, nil, eperm},
		{"mount with SYS_ADMIN", admin, x86, unix.SYS_MOUNT, nil, allow},
		{"clone3", plain, x86, unix.SYS_CLONE3, nil, enosys},
		{"clone of a thread", plain, x86, unix.SYS_CLONE, []uint64{unix.CLONE_VM | unix.CLONE_THREAD}, allow},
		{"clone into a user namespace", plain, x86, unix.SYS_CLONE, []uint64{unix.CLONE_NEWUSER}, eperm},
		{"the same with SYS_ADMIN", admin, x86, unix.SYS_CLONE, []uint64{unix.CLONE_NEWUSER}, allow},
		{"socket of IPv4", plain, x86, unix.SYS_SOCKET, []uint64{unix.AF_INET}, allow},
		{"socket of the crypto API", plain, x86, unix.SYS_SOCKET, []uint64{unix.AF_ALG}, eperm},
		{"socket of vsock", plain, x86, unix.SYS_SOCKET, []uint64{unix.AF_VSOCK}, eperm},
		{"personality, an upper half", plain, x86, unix.SYS_PERSONALITY, []uint64{1 << 32}, eperm},
		{"a number nobody has", plain, x86, 9999, nil, eperm},
		{"x32", plain, x86, x32Bit | 1, nil, enosys},
		{"i386 read", plain, unix.AUDIT_ARCH_I386, 3, nil, allow},
		{"i386 mount", plain, unix.AUDIT_ARCH_I386, 21, nil, eperm},
		{"another architecture", plain, unix.AUDIT_ARCH_S390X, 1, nil, unix.SECCOMP_RET_KILL_PROCESS},
	} {
		if got := run(t, tt.p, tt.arch, tt.nr, tt.args...); got != tt.want {
			t.Errorf("%s: %#x, want %#x", tt.name, got, tt.want)
		}
	}
}

// Whatever the rules, the program decides as they say.
func TestPrograms(t *testing.T) {
	table := loadTable()
	names := []string{"read", "write", "openat", "socket", "clone", "ptrace", "kill", "futex", "mseal", "landlock_restrict_self"}
	ops := []specs.LinuxSeccompOperator{
		specs.OpEqualTo, specs.OpNotEqual, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpLessEqual, specs.OpLessThan, specs.OpMaskedEqual,
	}
	value := rapid.SampledFrom([]uint64{0, 1, 2, 7, 1 << 31, 1<<32 - 1, 1 << 32, 1<<32 + 1, 1 << 63, 1<<64 - 1})
	holds := func(a specs.LinuxSeccompArg, v uint64) bool {
		switch a.Op {
		case specs.OpEqualTo:
			return v == a.Value
		case specs.OpNotEqual:
			return v != a.Value
		case specs.OpGreaterEqual:
			return v >= a.Value
		case specs.OpGreaterThan:
			return v > a.Value
		case specs.OpLessEqual:
			return v <= a.Value
		case specs.OpLessThan:
			return v < a.Value
		}
		return v&a.Value == a.ValueTwo
	}
	rapid.Check(t, func(rt *rapid.T) {
		s := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
		for range rapid.IntRange(0, 12).Draw(rt, "rules") {
			r := specs.LinuxSyscall{
				Names:  []string{rapid.SampledFrom(names).Draw(rt, "name")},
				Action: rapid.SampledFrom([]specs.LinuxSeccompAction{specs.ActAllow, specs.ActLog, specs.ActTrap}).Draw(rt, "action"),
			}
			for range rapid.IntRange(0, 3).Draw(rt, "args") {
				r.Args = append(r.Args, specs.LinuxSeccompArg{
					Index: uint(rapid.IntRange(0, 5).Draw(rt, "index")), Op: rapid.SampledFrom(ops).Draw(rt, "op"),
					Value: value.Draw(rt, "value"), ValueTwo: value.Draw(rt, "value two"),
				})
			}
			s.Syscalls = append(s.Syscalls, r)
		}
		p, err := assemble(s)
		if err != nil {
			rt.Fatal(err)
		}
		for _, name := range append(names, "mount") {
			nr, ok := table.native[name]
			if !ok {
				continue
			}
			args := make([]uint64, 6)
			for i := range args {
				args[i] = value.Draw(rt, "argument")
			}
			want := unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
			decided := false
			for pass := range 2 { // a rule without conditions comes first
				for _, r := range s.Syscalls {
					if decided || r.Names[0] != name || (len(r.Args) == 0) != (pass == 0) {
						continue
					}
					all := true
					for _, a := range r.Args {
						all = all && holds(a, args[a.Index])
					}
					if all {
						want, _ = action(r.Action, r.ErrnoRet)
						decided = true
					}
				}
			}
			if got := run(t, p, unix.AUDIT_ARCH_X86_64, nr, args...); got != want {
				rt.Fatalf("%s%x: %#x, want %#x", name, args, got, want)
			}
		}
	})
}

// The generated tables are those of the library.
func TestTable(t *testing.T) {
	table := loadTable()
	for name, nr := range arch.X86_64.SyscallNames {
		if got, ok := table.native[name]; !ok || int(got) != nr {
			t.Errorf("%s: %d, want %d: go generate", name, got, nr)
		}
	}
	for name, nr := range arch.I386.SyscallNames {
		if got, ok := table.compat[name]; !ok || int(got) != nr {
			t.Errorf("i386 %s: %d, want %d: go generate", name, got, nr)
		}
	}
}

func FuzzProfile(f *testing.F) {
	f.Add(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}]}`)
	f.Add(`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]}]}`)
	f.Fuzz(func(t *testing.T, profile string) {
		b, err := Filter(profile, nil)
		if profile == "" || err != nil || len(b) == 0 {
			return
		}
		// Every program ends, for every call.
		p := program(t, profile)
		for _, nr := range []uint32{0, 1, 56, 1 << 20, x32Bit} {
			run(t, p, unix.AUDIT_ARCH_X86_64, nr, 1, 2, 3)
		}
	})
}
