//go:build linux

package container

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/stackvm/stack/guest/agent/launch"
	"github.com/stackvm/stack/guest/agent/seccomp"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// capabilities are the kernel's, by number.
var capabilities = [...]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

const allCapabilities = uint64(1)<<len(capabilities) - 1

// defaultCapabilities are docker's.
var defaultCapabilities = mask("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID",
	"SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE")

func mask(names ...string) uint64 {
	var m uint64
	for _, name := range names {
		for i, c := range capabilities {
			if c == name {
				m |= 1 << i
			}
		}
	}
	return m
}

// bounding applies what is added and dropped to the default set, as docker does:
// with ALL added, only what is dropped is missing; with ALL dropped, only what
// is added is there.
func bounding(add, drop []string) (uint64, error) {
	parse := func(names []string) (m uint64, all bool, err error) {
		for _, name := range names {
			upper := strings.TrimPrefix(strings.ToUpper(name), "CAP_")
			if upper == "ALL" {
				all = true
				continue
			}
			one := mask(upper)
			if one == 0 {
				return 0, false, &wire.Error{Code: wire.CodeInvalid, Message: fmt.Sprintf("capability %q: no such capability", name)}
			}
			m |= one
		}
		return m, all, nil
	}
	added, addAll, err := parse(add)
	if err != nil {
		return 0, err
	}
	dropped, dropAll, err := parse(drop)
	if err != nil {
		return 0, err
	}
	switch {
	case addAll:
		return allCapabilities &^ dropped, nil
	case dropAll:
		return added, nil
	}
	return defaultCapabilities&^dropped | added, nil
}

// confine sets the capabilities and the seccomp filter.
func (c *Container) confine(spec *launch.Spec, privileged bool) error {
	if privileged {
		spec.Bounding = allCapabilities
		return nil
	}
	var err error
	if spec.Bounding, err = bounding(c.spec.CapAdd, c.spec.CapDrop); err != nil {
		return err
	}
	if c.spec.Seccomp != "unconfined" {
		spec.Filter, err = filters.get(c.spec.Seccomp, spec.Bounding)
	}
	return err
}

// Prepare does once what the first container would otherwise wait for.
func (s *Set) Prepare() error {
	_, err := filters.get("", defaultCapabilities)
	return errors.Join(err, s.machine.Launcher.Prepare())
}

// filters keeps the last seccomp program, which is mostly the next one too.
var filters filterCache

type filterCache struct {
	mu       sync.Mutex
	profile  string
	bounding uint64
	program  []byte
}

func (f *filterCache) get(profile string, bounding uint64) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.program != nil && f.profile == profile && f.bounding == bounding {
		return f.program, nil
	}
	var names []string
	for i, name := range capabilities {
		if bounding&(1<<i) != 0 {
			names = append(names, "CAP_"+name)
		}
	}
	program, err := seccomp.Filter(profile, names)
	if err != nil {
		return nil, &wire.Error{Code: wire.CodeInvalid, Message: err.Error()}
	}
	f.profile, f.bounding, f.program = profile, bounding, program
	return program, nil
}

// busy reports whether err is the kernel's refusal to put a process in a group
// that has groups below it.
func busy(err error) bool { return errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EOPNOTSUPP) }
