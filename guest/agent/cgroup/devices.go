//go:build linux

package cgroup

import (
	"fmt"
	"strconv"
	"strings"

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
	fd, err := loadProgram(unix.BPF_PROG_TYPE_CGROUP_DEVICE, 0, program)
	if err != nil {
		return fmt.Errorf("loading the device program: %w", err)
	}
	defer unix.Close(fd) // the group holds it once attached
	if err := attachProgram(g.Dir, fd, unix.BPF_CGROUP_DEVICE); err != nil {
		return fmt.Errorf("attaching the device program: %w", err)
	}
	return nil
}

// Registers of the program: the context, then what it is taken apart into.
const (
	result, context, kind, access, major, minor = 0, 1, 2, 3, 4, 5
)

// deviceProgram writes the rules as eBPF, 8 bytes an instruction.
func deviceProgram(rules []DeviceRule, fallback bool) ([]byte, error) {
	var p program
	emit := p.emit
	const (
		and       = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
		shift     = unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K
		unequalRx = unix.BPF_JMP | unix.BPF_JNE | unix.BPF_X
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
			p.land(at)
		}
	}
	finish(fallback)
	return p, nil
}
