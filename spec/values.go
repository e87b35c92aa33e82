package spec

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
)

// capabilities are the names of capabilities(7), ALL beside them.
var capabilities = []string{
	"ALL", "AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF", "CHECKPOINT_RESTORE", "CHOWN",
	"DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "IPC_LOCK", "IPC_OWNER", "KILL", "LEASE",
	"LINUX_IMMUTABLE", "MAC_ADMIN", "MAC_OVERRIDE", "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE", "NET_BROADCAST",
	"NET_RAW", "PERFMON", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYSLOG", "SYS_ADMIN", "SYS_BOOT",
	"SYS_CHROOT", "SYS_MODULE", "SYS_NICE", "SYS_PACCT", "SYS_PTRACE", "SYS_RAWIO", "SYS_RESOURCE", "SYS_TIME",
	"SYS_TTY_CONFIG", "WAKE_ALARM",
}

// signal is one of signal(7) as docker takes it: a name, with or without SIG, or
// a number.
var signal = regexp.MustCompile(`^(?i:(SIG)?(ABRT|ALRM|BUS|CHLD|CLD|CONT|FPE|HUP|ILL|INT|IO|IOT|KILL|PIPE|POLL|PROF|PWR|QUIT|SEGV|` +
	`STKFLT|STOP|SYS|TERM|TRAP|TSTP|TTIN|TTOU|URG|USR1|USR2|VTALRM|WINCH|XCPU|XFSZ|RTMIN(\+([0-9]|[12][0-9]|30))?|RTMAX(-([0-9]|[12][0-9]|30))?)` +
	`|[1-9]|[1-5][0-9]|6[0-4])$`)

// values checks what the schema takes for any text and a machine would refuse
// only when it starts.
func (c *converter) values(service string, in types.ServiceConfig) {
	at := func(key string, i int) []string { return []string{"services", service, key, strconv.Itoa(i)} }
	for key, names := range map[string][]string{"cap_add": in.CapAdd, "cap_drop": in.CapDrop} {
		for i, name := range names {
			if plain := strings.TrimPrefix(strings.ToUpper(name), "CAP_"); !slices.Contains(capabilities, plain) {
				c.fault(at(key, i), suggest(plain, capabilities), "service %q: %s: unknown capability %q", service, key, name)
			}
		}
	}
	if s := in.StopSignal; s != "" && !signal.MatchString(s) {
		c.fault([]string{"services", service, "stop_signal"}, "write it like SIGTERM", "service %q: stop_signal: no signal is called %q", service, s)
	}
	for i, v := range in.Expose {
		ports, protocol, _ := strings.Cut(v, "/")
		if _, _, err := parsePublished(ports); err != nil {
			c.fault(at("expose", i), "", "service %q: expose: %q: %w", service, v, err)
		} else if protocol != "" && !slices.Contains([]string{"tcp", "udp", "sctp"}, protocol) {
			c.fault(at("expose", i), "", "service %q: expose: %q: no protocol is called %q", service, v, protocol)
		}
	}
}

// staticAddresses checks that the addresses which a service asks for are of the
// networks it asks for them on.
func (c *converter) staticAddresses(s *Service) {
	for _, key := range sortedKeys(s.Networks) {
		n := c.out.Networks[key]
		if n == nil || len(n.Pools) == 0 {
			continue
		}
		a := s.Networks[key]
		for attr, ip := range map[string]netip.Addr{"ipv4_address": a.IPv4, "ipv6_address": a.IPv6} {
			if !ip.IsValid() || slices.ContainsFunc(n.Pools, func(p IPAMPool) bool { return p.Subnet.Contains(ip) }) {
				continue
			}
			if !slices.ContainsFunc(n.Pools, func(p IPAMPool) bool { return p.Subnet.IsValid() && p.Subnet.Addr().Is4() == ip.Is4() }) {
				continue // the subnet of this family is ours to choose
			}
			c.fault([]string{"services", s.Name, "networks", key, attr}, "", "service %q: %s %s is in no subnet of network %q", s.Name, attr, ip, key)
		}
	}
}
