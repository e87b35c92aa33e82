//go:build linux && (amd64 || arm64)

package seccomp

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	profiles "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Filter returns the program of a profile, docker's default when it is "", as the
// kernel takes it: 8 bytes an instruction. capabilities are those the process can
// have, named CAP_….
func Filter(profile string, capabilities []string) ([]byte, error) {
	spec := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: capabilities}}}
	var rules *specs.LinuxSeccomp
	var err error
	if profile == "" {
		rules, err = profiles.GetDefaultProfile(spec)
	} else {
		rules, err = profiles.LoadProfile(profile, spec)
	}
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	if rules == nil {
		return nil, nil // a profile that says nothing
	}
	program, err := assemble(rules)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	return encode(program), nil
}

// numbers are the system calls of the native and the compatible instruction set.
type numbers struct{ native, compat map[string]uint32 }

var loadTable = sync.OnceValue(func() numbers {
	n := numbers{native: make(map[string]uint32, 512), compat: make(map[string]uint32, 512)}
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		for i, m := range []map[string]uint32{n.native, n.compat} {
			if nr, err := strconv.ParseUint(f[i+1], 10, 32); err == nil {
				m[f[0]] = uint32(nr)
			}
		}
	}
	return n
})

// auditArches are the kernel's numbers of the instruction sets.
var auditArches = map[string][2]uint32{
	"amd64": {unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386},
	"arm64": {unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM},
}

// Offsets in struct seccomp_data, little-endian.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

// x32Bit marks calls of the x32 instruction set, which our kernels do not have.
const x32Bit = 0x40000000

// highest is the largest number a table is searched for; all above are unknown.
const highest = x32Bit - 1

func assemble(s *specs.LinuxSeccomp) ([]unix.SockFilter, error) {
	fallback, err := action(s.DefaultAction, s.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	t := loadTable()
	native, err := section(s, t.native, fallback)
	if err != nil {
		return nil, err
	}
	compat, err := section(s, t.compat, fallback)
	if err != nil {
		return nil, err
	}
	archs := auditArches[runtime.GOARCH]
	var p []unix.SockFilter
	p = append(p,
		load(offArch),
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: archs[0], Jt: 1},
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(native))},
	)
	p = append(p, native...)
	p = append(p,
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: archs[1], Jt: 1},
		ret(unix.SECCOMP_RET_KILL_PROCESS),
	)
	p = append(p, compat...)
	if len(p) > unix.BPF_MAXINSNS {
		return nil, fmt.Errorf("needs %d instructions, the kernel takes %d", len(p), unix.BPF_MAXINSNS)
	}
	return p, nil
}

// span is a range of numbers treated alike.
type span struct {
	first uint32
	code  []unix.SockFilter // ends with a return
}

// section is the part for one instruction set.
func section(s *specs.LinuxSeccomp, numbers map[string]uint32, fallback uint32) ([]unix.SockFilter, error) {
	rules := make(map[uint32][]specs.LinuxSyscall)
	for _, r := range s.Syscalls {
		for _, name := range r.Names {
			if nr, ok := numbers[name]; ok { // profiles name calls of every architecture
				rules[nr] = append(rules[nr], r)
			}
		}
	}
	known := make([]uint32, 0, len(rules))
	for nr := range rules {
		known = append(known, nr)
	}
	slices.Sort(known)
	spans := []span{{0, []unix.SockFilter{ret(fallback)}}}
	add := func(first uint32, code []unix.SockFilter) {
		last := &spans[len(spans)-1]
		switch {
		case slices.Equal(last.code, code):
		case last.first == first:
			last.code = code
			if n := len(spans); n > 1 && slices.Equal(spans[n-2].code, code) {
				spans = spans[:n-1]
			}
		default:
			spans = append(spans, span{first, code})
		}
	}
	for _, nr := range known {
		code, err := decide(rules[nr], fallback)
		if err != nil {
			return nil, err
		}
		add(nr, code)
		add(nr+1, []unix.SockFilter{ret(fallback)})
	}
	add(highest+1, []unix.SockFilter{ret(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS))})
	return append([]unix.SockFilter{load(offNumber)}, search(spans)...), nil
}

// search finds the span of the number that is loaded.
func search(spans []span) []unix.SockFilter {
	if len(spans) == 1 {
		return spans[0].code
	}
	middle := len(spans) / 2
	below, above := search(spans[:middle]), search(spans[middle:])
	p := []unix.SockFilter{
		{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: spans[middle].first, Jf: 1},
		{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(below))}, // conditional jumps reach 255 instructions
	}
	return append(append(p, below...), above...)
}

// decide is the code for one call. A rule without conditions settles it;
// otherwise the first whose conditions all hold does.
func decide(rules []specs.LinuxSyscall, fallback uint32) ([]unix.SockFilter, error) {
	var code []unix.SockFilter
	for _, r := range rules {
		verdict, err := action(r.Action, r.ErrnoRet)
		if err != nil {
			return nil, err
		}
		if len(r.Args) == 0 {
			return []unix.SockFilter{ret(verdict)}, nil
		}
		conditions, err := match(r.Args, verdict)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", strings.Join(r.Names, ", "), err)
		}
		code = append(code, conditions...)
	}
	return append(code, ret(fallback)), nil
}

// failing marks a jump to behind the rule, until its length is known.
const failing = 0xff

// match returns verdict when all conditions hold, and falls through otherwise.
func match(args []specs.LinuxSeccompArg, verdict uint32) ([]unix.SockFilter, error) {
	var p []unix.SockFilter
	for _, a := range args {
		if a.Index > 5 {
			return nil, fmt.Errorf("argument %d: there are six", a.Index)
		}
		low := uint32(offArgs + 8*a.Index)
		high := low + 4
		vl, vh := uint32(a.Value), uint32(a.Value>>32)
		jump := func(op uint16, k uint32, jt, jf uint8) unix.SockFilter {
			return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, K: k, Jt: jt, Jf: jf}
		}
		and := func(k uint32) unix.SockFilter {
			return unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: k}
		}
		switch a.Op {
		case specs.OpEqualTo:
			p = append(p, load(high), jump(unix.BPF_JEQ, vh, 0, failing), load(low), jump(unix.BPF_JEQ, vl, 0, failing))
		case specs.OpNotEqual:
			p = append(p, load(high), jump(unix.BPF_JEQ, vh, 0, 2), load(low), jump(unix.BPF_JEQ, vl, failing, 0))
		case specs.OpGreaterEqual, specs.OpGreaterThan:
			op := uint16(unix.BPF_JGE)
			if a.Op == specs.OpGreaterThan {
				op = unix.BPF_JGT
			}
			p = append(p, load(high), jump(unix.BPF_JGT, vh, 3, 0), jump(unix.BPF_JEQ, vh, 0, failing), load(low), jump(op, vl, 0, failing))
		case specs.OpLessThan, specs.OpLessEqual:
			op := uint16(unix.BPF_JGE)
			if a.Op == specs.OpLessEqual {
				op = unix.BPF_JGT
			}
			p = append(p, load(high), jump(unix.BPF_JGT, vh, failing, 0), jump(unix.BPF_JEQ, vh, 0, 2), load(low), jump(op, vl, failing, 0))
		case specs.OpMaskedEqual:
			wl, wh := uint32(a.ValueTwo), uint32(a.ValueTwo>>32)
			p = append(p, load(high), and(vh), jump(unix.BPF_JEQ, wh, 0, failing), load(low), and(vl), jump(unix.BPF_JEQ, wl, 0, failing))
		default:
			return nil, fmt.Errorf("operator %q: unknown", a.Op)
		}
	}
	p = append(p, ret(verdict))
	for i := range p {
		rest := uint8(len(p) - 1 - i) // at most 6 conditions of 6 instructions
		if p[i].Jt == failing {
			p[i].Jt = rest
		}
		if p[i].Jf == failing {
			p[i].Jf = rest
		}
	}
	return p, nil
}

func action(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	n := uint32(unix.EPERM)
	if errno != nil {
		n = uint32(*errno) & unix.SECCOMP_RET_DATA
	}
	switch a {
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | n, nil
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | n, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	}
	return 0, fmt.Errorf("action %q: not supported", a)
}

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func ret(k uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k}
}

func encode(p []unix.SockFilter) []byte {
	b := make([]byte, 0, 8*len(p))
	for _, i := range p {
		b = binary.NativeEndian.AppendUint16(b, i.Code)
		b = append(b, i.Jt, i.Jf)
		b = binary.NativeEndian.AppendUint32(b, i.K)
	}
	return b
}
