package spec

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
)

// isolation converts what sets a container apart from the rest of its machine,
// or does not.
func (c *converter) isolation(s *Service, in types.ServiceConfig) {
	at := func(parts ...string) []string { return append([]string{"services", s.Name}, parts...) }
	for i, v := range in.SecurityOpt {
		s.SecurityOpt = append(s.SecurityOpt, c.securityOpt(s.Name, i, v))
	}
	switch in.Uts {
	case "", "private":
	case "host":
		if s.UTS = in.Uts; in.Hostname != "" {
			c.fault(at("hostname"), "leave one of them out", "service %q: hostname %q: the service has its host's name (uts: host)", s.Name, in.Hostname)
		}
	default:
		c.fault(at("uts"), "", "service %q: uts: %q is not supported", s.Name, in.Uts)
	}
	if in.Cgroup == "host" {
		s.Cgroup = in.Cgroup
	}
	for i, v := range in.DeviceCgroupRules {
		if !deviceRule.MatchString(v) {
			c.fault(at("device_cgroup_rules", strconv.Itoa(i)), `write it like "c 1:3 mr"`, "service %q: invalid device cgroup format: %q", s.Name, v)
		}
	}
	s.DeviceRules = in.DeviceCgroupRules
	if s.Umask = in.Umask; s.Umask != nil && *s.Umask > 0o777 {
		c.fault(at("umask"), "", "service %q: umask %#o is no mask of permissions", s.Name, *s.Umask)
	}
}

// deviceRule is docker's form: type, major:minor, access.
var deviceRule = regexp.MustCompile(`^[acb] ([0-9]{1,9}|\*):([0-9]{1,9}|\*) [rwm]{1,3}$`)

// securityOpt checks one option and returns it with a seccomp profile's content
// in place of its path, as docker compose sends it: what has changed in the file
// has changed in the service.
func (c *converter) securityOpt(service string, i int, v string) string {
	at := []string{"services", service, "security_opt", strconv.Itoa(i)}
	name, value := SecurityOption(v)
	switch name {
	case "no-new-privileges", "writable-cgroups":
		if value != "" && value != "true" && value != "false" {
			c.fault(at, "", "service %q: security_opt %q: not true or false", service, v)
		}
	case "seccomp":
		if value == "unconfined" || value == "builtin" || c.opt.NamesOnly {
			break
		}
		if !filepath.IsAbs(value) {
			value = filepath.Join(c.dir, value)
		}
		profile, err := readFile(value)
		if err == nil && !json.Valid(profile) {
			err = fmt.Errorf("%s is no JSON", value)
		}
		if err != nil {
			c.fault(at, "", "service %q: seccomp profile: %w", service, err)
		}
		return name + "=" + string(profile)
	case "systempaths":
		if value != "unconfined" {
			c.fault(at, "", "service %q: security_opt %q: not unconfined", service, v)
		}
	case "apparmor", "label":
		if value != "unconfined" && value != "disable" { // which is so
			c.ignored(at, "security_opt "+name, "the machine's kernel has no such module, and is the service's own")
		}
	default:
		c.fault(at, "", "service %q: security_opt %q is not supported", service, v)
	}
	return v
}

// SecurityOption splits NAME=VALUE or NAME:VALUE.
func SecurityOption(v string) (name, value string) {
	if i := strings.IndexAny(v, "=:"); i >= 0 {
		return v[:i], v[i+1:]
	}
	return v, ""
}

// ioRates takes the lowest of each kind: a machine's disks are not the host's
// that the file names, so that each is bounded for all of them.
func (c *converter) ioRates(service string, in *types.BlkioConfig) IORates {
	var out IORates
	if in == nil {
		return out
	}
	for _, kind := range []struct {
		key  string
		from []types.ThrottleDevice
		to   *int64
	}{
		{"device_read_bps", in.DeviceReadBps, &out.ReadBytes},
		{"device_write_bps", in.DeviceWriteBps, &out.WriteBytes},
		{"device_read_iops", in.DeviceReadIOps, &out.ReadOps},
		{"device_write_iops", in.DeviceWriteIOps, &out.WriteOps},
	} {
		for i, d := range kind.from {
			rate := int64(d.Rate)
			if rate < 0 {
				c.fault([]string{"services", service, "blkio_config", kind.key, strconv.Itoa(i)}, "", "service %q: %s: %d is no rate", service, kind.key, rate)
			}
			if rate > 0 && (*kind.to == 0 || rate < *kind.to) {
				*kind.to = rate
			}
		}
	}
	return out
}

// cpuPeriod is the length of the periods that the processors are shared in, where
// that is asked for; docker's bounds.
func (c *converter) cpuPeriod(service string, in types.ServiceConfig) int64 {
	for _, bad := range []struct {
		wrong     bool
		key, hint string
		why       string
	}{
		{in.CPUPeriod != 0 && (in.CPUPeriod < 1000 || in.CPUPeriod > 1_000_000), "cpu_period", "", fmt.Sprintf("cpu_period %d is not in 1000-1000000 microseconds", in.CPUPeriod)},
		{in.CPUQuota > 0 && in.CPUQuota < 1000, "cpu_quota", "", fmt.Sprintf("cpu_quota %d is less than 1000 microseconds", in.CPUQuota)},
		{in.CPUPeriod != 0 && in.CPUS != 0, "cpu_period", "leave one of them out", "cpus and cpu_period contradict each other"},
		{in.CPUQuota != 0 && in.CPUS != 0, "cpu_quota", "leave one of them out", "cpus and cpu_quota contradict each other"},
	} {
		if bad.wrong {
			c.fault([]string{"services", service, bad.key}, bad.hint, "service %q: %s", service, bad.why)
		}
	}
	return in.CPUPeriod
}
