package spec

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/distribution/reference"
	"github.com/docker/go-units"
)

// converter turns compose-go's project into ours. It goes on after a fault, so
// that all of them are found.
type converter struct {
	*loading
	x      *index // of the loading; of a hook, as if it were a service
	hook   bool   // what is not written for it is its service's
	src    *types.Project
	out    *Project
	faults faults
	// wrong: the schema has found faults already, unknown keys among them.
	wrong bool
}

func (l *loading) convert(src *types.Project) (*Project, error) {
	c := &converter{loading: l, x: l.x, src: src}
	c.run()
	if l.opt.NamesOnly {
		return c.out, nil
	}
	if err := c.faults.err(); err != nil {
		return nil, err
	}
	c.hash()
	return c.out, nil
}

// converted returns only what converting finds wrong, for a project that is
// known to be wrong elsewhere.
func (l *loading) converted(src *types.Project) (found faults) {
	defer func() { // a model that the schema has not seen may be anything
		if recover() != nil {
			found = nil
		}
	}()
	c := &converter{loading: l, x: l.x, src: src, wrong: true}
	c.run()
	return c.faults
}

func (c *converter) run() {
	if !c.opt.NamesOnly {
		c.resolveEnvironments()
	}
	src := c.src
	c.out = &Project{
		Name: src.Name, NameFrom: c.named, WorkingDir: c.dir,
		Files: src.ComposeFiles, EnvFiles: slices.Clone(c.envFiles),
		Compatibility: c.opt.Compatibility,
		Services:      map[string]*Service{}, Networks: map[string]*Network{}, Volumes: map[string]*Volume{},
		Configs: map[string]*Config{}, Secrets: map[string]*Config{},
		Disabled: src.DisabledServiceNames(), Environ: c.env.Values(),
	}
	for i, f := range c.out.EnvFiles {
		if abs, err := filepath.Abs(f); err == nil {
			c.out.EnvFiles[i] = abs
		}
	}
	if !c.opt.NamesOnly {
		c.checkSupport()
	}
	for _, key := range sortedKeys(src.Networks) {
		c.network(key, src.Networks[key])
	}
	for _, key := range sortedKeys(src.Volumes) {
		c.volume(key, src.Volumes[key])
	}
	if !c.opt.NamesOnly {
		for _, key := range sortedKeys(src.Configs) {
			c.file("configs", key, types.FileObjectConfig(src.Configs[key]), c.out.Configs)
		}
		for _, key := range sortedKeys(src.Secrets) {
			c.file("secrets", key, types.FileObjectConfig(src.Secrets[key]), c.out.Secrets)
		}
	}
	for _, name := range sortedKeys(src.Services) {
		c.out.Services[name] = c.service(name, src.Services[name])
	}
	if !c.opt.NamesOnly {
		c.preStarts()
	}
	c.links()
	c.containerNames()
	if !c.opt.NamesOnly {
		c.machines()
		c.settlePreStarts()
	}
}

// resolveEnvironments reads env files, one service at a time where something is
// wrong, so that every one that is missing is reported.
func (c *converter) resolveEnvironments() {
	p, err := c.src.WithServicesEnvironmentResolved(true)
	if err == nil {
		c.src = p
		return
	}
	for _, name := range sortedKeys(c.src.Services) {
		c.envFaults(name, c.src.Services[name])
		for i, h := range c.src.Services[name].PreStart {
			sub := c.hookConverter(name, i)
			sub.envFaults(name, types.ServiceConfig{Name: name, ContainerSpec: h.ContainerSpec})
			c.takeFaults(sub)
		}
	}
	if len(c.faults) == 0 {
		c.faults.add(Pos{}, err)
	}
}

// envFaults reports the env files of a service that cannot be read.
func (c *converter) envFaults(name string, s types.ServiceConfig) {
	files := s.EnvFiles
	for i, f := range files {
		one := *c.src
		s.EnvFiles, s.PreStart = files[i:i+1], nil
		one.Services = types.Services{name: s}
		_, err := one.WithServicesEnvironmentResolved(true)
		if err == nil {
			continue
		}
		pos := c.x.find("services", name, "env_file", strconv.Itoa(i))
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("env file %s not found", f.Path)
		}
		c.faults.add(pos, fmt.Errorf("service %q: %w", name, err))
	}
}

func (c *converter) fault(at []string, hint, msg string, args ...any) {
	c.faults = append(c.faults, &Error{Pos: c.x.find(at...), Err: fmt.Errorf(msg, args...), Hint: hint})
}

func (c *converter) service(name string, in types.ServiceConfig) *Service {
	key := func(parts ...string) []string { return append([]string{"services", name}, parts...) }
	s := &Service{
		Name: name, Pos: c.x.find("services", name), Keys: c.x.under("services", name),
		Image: in.Image, Build: in.Build != nil, Platform: in.Platform, PullPolicy: in.PullPolicy,
		Command: in.Command, Entrypoint: in.Entrypoint,
		WorkingDir: in.WorkingDir, User: in.User, GroupAdd: in.GroupAdd,
		TTY: in.Tty, StdinOpen: in.StdinOpen, Init: in.Init != nil && *in.Init,
		StopSignal: in.StopSignal,
		Attach:     in.Attach == nil || *in.Attach,
		Labels:     in.Labels, Annotations: in.Annotations, ContainerName: in.ContainerName, Scale: in.GetScale(),
		Privileged: in.Privileged, CapAdd: in.CapAdd, CapDrop: in.CapDrop,
		ReadOnly: in.ReadOnly, Sysctls: in.Sysctls, OOMScoreAdj: int(in.OomScoreAdj), ShmSize: int64(in.ShmSize),
		NetworkMode: in.NetworkMode, IPC: in.Ipc, PID: in.Pid, Expose: in.Expose,
		Hostname: in.Hostname, Domainname: in.DomainName,
		DNS: in.DNS, DNSSearch: in.DNSSearch, DNSOptions: in.DNSOpts,
	}
	s.Extension = c.serviceExtension(name, in.Extensions)
	if s.Image == "" && s.Build {
		s.Image = c.out.Name + "-" + name
	}
	if in.StopGracePeriod != nil {
		d := time.Duration(*in.StopGracePeriod)
		s.StopGrace = &d
	}
	for k, v := range in.Environment {
		if strings.ContainsAny(k, "=\x00") || v != nil && strings.Contains(*v, "\x00") {
			c.fault(key("environment", k), "", "service %q: environment: %q is no variable", name, k)
			continue
		}
		if v != nil { // a name without value that the environment lacks stays unset
			if s.Environment == nil {
				s.Environment = map[string]string{}
			}
			s.Environment[k] = *v
		}
	}
	if len(in.DependsOn) > 0 {
		s.DependsOn = map[string]Dependency{}
		for dep, d := range in.DependsOn {
			if _, ok := c.src.Services[dep]; !ok && !d.Required {
				continue // optional, and not in this run
			}
			s.DependsOn[dep] = Dependency{Condition: d.Condition, Restart: d.Restart, Required: d.Required}
		}
	}
	if _, _, err := in.GetPullPolicy(); err != nil {
		c.fault(key("pull_policy"), "", "service %q: invalid pull_policy %q", name, in.PullPolicy)
	}
	if s.Image == "" && in.Provider == nil {
		c.fault(key("image"), "", "service %q has neither an image nor a build context specified", name)
	}
	if in.Image != "" {
		if _, err := reference.ParseDockerRef(in.Image); err != nil {
			c.fault(key("image"), "write it like registry.example/name:tag", "service %q: image %q: %w", name, in.Image, err)
		}
	}
	if in.ContainerName != "" {
		c.objectName(key("container_name"), "container", in.ContainerName)
	}
	c.hostName(key("hostname"), name, in.Hostname)
	c.hostName(key("domainname"), name, in.DomainName)
	for i, addr := range in.DNS {
		if net.ParseIP(addr) == nil {
			c.fault(key("dns", strconv.Itoa(i)), "", "service %q: dns: %q is no IP address", name, addr)
		}
	}
	for attr, args := range map[string][]string{"command": in.Command, "entrypoint": in.Entrypoint} {
		if slices.ContainsFunc(args, func(a string) bool { return strings.Contains(a, "\x00") }) {
			c.fault(key(attr), "", "service %q: %s: an argument cannot hold a zero byte", name, attr)
		}
	}
	c.restart(s, in)
	c.health(s, in.HealthCheck)
	c.logging(s, in.Logging)
	c.resources(s, in)
	c.ulimits(s, in.Ulimits)
	c.devices(s, in.Devices)
	c.mounts(s, in)
	s.Configs = c.refs(name, "configs", refsOf(in.Configs))
	s.Secrets = c.refs(name, "secrets", refsOf(in.Secrets))
	c.attachments(s, in)
	c.staticAddresses(s)
	c.values(name, in)
	c.ports(s, in.Ports)
	for _, host := range sortedKeys(in.ExtraHosts) {
		c.hostName(key("extra_hosts", host), name, host)
		for _, addr := range in.ExtraHosts[host] {
			if addr != "host-gateway" && net.ParseIP(addr) == nil {
				c.fault(key("extra_hosts", host), "", "service %q: extra_hosts: %q is no IP address", name, addr)
			}
			s.ExtraHosts = append(s.ExtraHosts, ExtraHost{Name: host, Addr: addr})
		}
	}
	if v, ok := in.StorageOpt["size"]; ok {
		n, err := units.RAMInBytes(v)
		if err != nil || n <= 0 {
			c.fault(key("storage_opt", "size"), "", "service %q: storage_opt.size: %q is no size", name, v)
		}
		s.StorageSize = n
	}
	for _, k := range sortedKeys(in.StorageOpt) {
		if k != "size" {
			c.fault(key("storage_opt", k), "", "service %q: storage_opt: %q is not supported, only size is", name, k)
		}
	}
	c.isolation(s, in)
	c.provider(s, in)
	s.PostStart = c.hooks(name, "post_start", in.PostStart)
	s.PreStop = c.hooks(name, "pre_stop", in.PreStop)
	return s
}

func (c *converter) provider(s *Service, in types.ServiceConfig) {
	if in.Provider == nil {
		return
	}
	at := []string{"services", s.Name, "provider"}
	if in.Provider.Type == "compose" {
		c.fault(append(at, "type"), "", "service %q: 'compose' is not a valid provider type", s.Name)
	}
	s.Provider = &Provider{Type: in.Provider.Type, Options: in.Provider.Options}
	var err error
	if s.Provider.Config, err = json.Marshal(in); err != nil {
		c.fault(at, "", "service %q: %w", s.Name, err)
	}
}

func (c *converter) hooks(service, kind string, in []types.ServiceHook) []Hook {
	var out []Hook
	for i, h := range in {
		at := []string{"services", service, kind, strconv.Itoa(i)}
		if len(h.Command) == 0 || slices.ContainsFunc(h.Command, func(a string) bool { return strings.Contains(a, "\x00") }) {
			c.fault(at, "", "service %q: %s has no command that could be run", service, kind)
		}
		hook := Hook{Command: h.Command, User: h.User, WorkingDir: h.WorkingDir, Privileged: h.Privileged}
		for k, v := range h.Environment {
			if strings.ContainsAny(k, "=\x00") || v != nil && strings.Contains(*v, "\x00") {
				c.fault(append(at, "environment"), "", "service %q: %s: %q is no variable", service, kind, k)
				continue
			}
			if v == nil { // as here, or unset
				here, ok := c.env[k]
				if !ok {
					continue
				}
				v = &here
			}
			if hook.Environment == nil {
				hook.Environment = map[string]string{}
			}
			hook.Environment[k] = *v
		}
		out = append(out, hook)
	}
	return out
}

// objectNames are docker's rule for names of containers and volumes. They become
// file names, and are printed to terminals.
var objectNames = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// ObjectName reports whether a network or a volume can have a name.
func ObjectName(name string) bool { return objectNames.MatchString(name) && len(name) <= 255 }

func (c *converter) objectName(at []string, what, name string) {
	if !ObjectName(name) {
		c.fault(at, "", "invalid %s name %q: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", what, name)
	}
}

// hostName checks what becomes a word in /etc/hosts or resolv.conf.
func (c *converter) hostName(at []string, service, name string) {
	if len(name) > 253 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '#' || r == 0x7f }) {
		c.fault(at, "", "service %q: %s: %q is no host name", service, at[2], name)
	}
}

func (c *converter) restart(s *Service, in types.ServiceConfig) {
	at := []string{"services", s.Name, "restart"}
	policy, limit, ok := strings.Cut(in.Restart, ":")
	if ok {
		n, err := strconv.Atoi(limit)
		if err != nil || n < 0 || policy != "on-failure" {
			c.fault(at, "", "service %q: invalid restart policy %q", s.Name, in.Restart)
		}
		s.Restart.Max = n
	}
	switch policy {
	case "":
		policy = "no"
	case "no", "always", "on-failure", "unless-stopped":
	default:
		c.fault(at, "one of no, always, on-failure[:max], unless-stopped", "service %q: invalid restart policy %q", s.Name, in.Restart)
	}
	s.Restart.Policy = policy
	// As docker compose: deploy's policy replaces the service's.
	if in.Deploy == nil || in.Deploy.RestartPolicy == nil {
		return
	}
	rp := in.Deploy.RestartPolicy
	s.Restart = Restart{Policy: "no"}
	switch rp.Condition {
	case "none", "no", "never":
	case "on-failure":
		s.Restart.Policy = "on-failure"
	case "unless-stopped":
		s.Restart.Policy = "unless-stopped"
	case "", "any", "always":
		s.Restart.Policy = "always"
	default:
		c.fault([]string{"services", s.Name, "deploy", "restart_policy", "condition"}, "one of none, on-failure, any",
			"service %q: invalid restart_policy condition %q", s.Name, rp.Condition)
	}
	for _, d := range []struct {
		name string
		from *types.Duration
		to   *time.Duration
	}{{"delay", rp.Delay, &s.Restart.Delay}, {"window", rp.Window, &s.Restart.Window}} {
		if d.from == nil {
			continue
		}
		if *d.to = time.Duration(*d.from); *d.to < 0 {
			c.fault([]string{"services", s.Name, "deploy", "restart_policy", d.name}, "", "service %q: restart_policy.%s must not be negative", s.Name, d.name)
		}
	}
	if rp.MaxAttempts != nil && s.Restart.Policy != "no" {
		s.Restart.Max = int(min(*rp.MaxAttempts, 1<<31-1))
	}
}

func (c *converter) health(s *Service, in *types.HealthCheckConfig) {
	if in == nil {
		return
	}
	h := &Healthcheck{Disable: in.Disable, Test: in.Test}
	if len(h.Test) > 0 && h.Test[0] == "NONE" {
		h.Disable = true
	}
	for _, d := range []struct {
		name string
		from *types.Duration
		to   *time.Duration
	}{
		{"interval", in.Interval, &h.Interval},
		{"timeout", in.Timeout, &h.Timeout},
		{"start_period", in.StartPeriod, &h.StartPeriod},
		{"start_interval", in.StartInterval, &h.StartInterval},
	} {
		if d.from == nil {
			continue
		}
		if *d.to = time.Duration(*d.from); *d.to < 0 {
			c.fault([]string{"services", s.Name, "healthcheck", d.name}, "", "service %q: healthcheck.%s must not be negative", s.Name, d.name)
		}
	}
	if in.Retries != nil {
		h.Retries = int(min(*in.Retries, 1<<31-1))
	}
	s.Healthcheck = h
}

func (c *converter) logging(s *Service, in *types.LoggingConfig) {
	if in == nil {
		return
	}
	s.Logging = Logging{Driver: in.Driver, Options: in.Options}
	at := []string{"services", s.Name, "logging"}
	switch in.Driver {
	case "", "json-file", "local":
		for _, k := range sortedKeys(in.Options) {
			v, bad := in.Options[k], error(nil)
			switch k {
			case "max-size":
				_, bad = units.RAMInBytes(v)
			case "max-file":
				if n, err := strconv.Atoi(v); err != nil || n < 1 {
					bad = fmt.Errorf("%q is no number of files", v)
				}
			case "mode":
				if v != "blocking" && v != "non-blocking" {
					bad = fmt.Errorf("%q is neither blocking nor non-blocking", v)
				}
				s.Logging.NonBlocking = v == "non-blocking"
			case "max-buffer-size":
				s.Logging.BufferBytes, bad = units.RAMInBytes(v)
			case "compress":
				if v != "false" {
					c.ignored(append(at, "options", k), "log option compress", "older files stay as they are, so that they can be read at any place")
				}
			case "labels", "labels-regex", "env", "env-regex", "tag":
				c.ignored(append(at, "options", k), "log option "+k, "no command shows the details of a line")
			default:
				c.ignored(append(at, "options", k), "log option", "no such option of the json-file driver")
			}
			if bad != nil {
				c.fault(append(at, "options", k), "", "service %q: logging: %s: %w", s.Name, k, bad)
			}
		}
	case "none":
	default:
		c.ignored(append(at, "driver"), fmt.Sprintf("log driver %q", in.Driver), "logs go to files, as with json-file")
		s.Logging = Logging{}
	}
}

func (c *converter) resources(s *Service, in types.ServiceConfig) {
	r := Resources{
		CPUs: float64(in.CPUS), CPUShares: in.CPUShares, CPUSet: in.CPUSet,
		MemoryBytes: int64(in.MemLimit), MemoryReservation: int64(in.MemReservation),
		SwapBytes: int64(in.MemSwapLimit), PIDs: in.PidsLimit,
		CPUPeriod: c.cpuPeriod(s.Name, in), IO: c.ioRates(s.Name, in.BlkioConfig),
	}
	if r.CPUs == 0 {
		r.CPUs = float64(in.CPUCount)
	}
	if r.CPUs == 0 && in.CPUQuota > 0 {
		period := in.CPUPeriod
		if period == 0 {
			period = 100_000 // the kernel's default, µs
		}
		r.CPUs = float64(in.CPUQuota) / float64(period)
	}
	if d := in.Deploy; d != nil {
		if l := d.Resources.Limits; l != nil {
			r.CPUs = first(r.CPUs, float64(l.NanoCPUs.Value()))
			r.MemoryBytes = first(r.MemoryBytes, int64(l.MemoryBytes))
			r.PIDs = first(r.PIDs, l.Pids)
		}
		if l := d.Resources.Reservations; l != nil {
			r.MemoryReservation = first(r.MemoryReservation, int64(l.MemoryBytes))
		}
	}
	// 0.1 written in the file is 0.1 to us, not the nearest float32.
	r.CPUs, _ = strconv.ParseFloat(strconv.FormatFloat(r.CPUs, 'g', 7, 64), 64)
	if r.CPUs < 0 {
		c.fault([]string{"services", s.Name, "cpus"}, "", "service %q: cpus must not be negative", s.Name)
	}
	if r.MemoryBytes != 0 && r.MemoryBytes < minMemory {
		c.fault([]string{"services", s.Name, "mem_limit"}, "", "service %q: minimum memory limit allowed is 6MB", s.Name)
	}
	if r.PIDs < 0 {
		r.PIDs = 0 // -1 is docker's word for no limit
	}
	s.Resources = r
}

// minMemory is docker's least memory limit.
const minMemory = 6 << 20

func first[T comparable](a, b T) T {
	var zero T
	if a != zero {
		return a
	}
	return b
}

// ulimitNames are those of setrlimit(2) that docker takes.
var ulimitNames = []string{
	"core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc",
	"rss", "rtprio", "rttime", "sigpending", "stack",
}

func (c *converter) ulimits(s *Service, in map[string]*types.UlimitsConfig) {
	for _, name := range sortedKeys(in) {
		u := in[name]
		at := []string{"services", s.Name, "ulimits", name}
		if u == nil {
			c.fault(at, "", "service %q: ulimit %s has no value", s.Name, name)
			continue
		}
		if !slices.Contains(ulimitNames, name) {
			c.fault(at, "one of "+strings.Join(ulimitNames, ", "), "service %q: invalid ulimit %q", s.Name, name)
			continue
		}
		l := Ulimit{Name: name, Soft: int64(u.Soft), Hard: int64(u.Hard)}
		if u.Single != 0 {
			l.Soft, l.Hard = int64(u.Single), int64(u.Single)
		}
		if l.Hard != -1 && (l.Soft == -1 || l.Soft > l.Hard) {
			c.fault(append(at, "soft"), "", "service %q: ulimit %s: soft limit %d is above the hard limit %d", s.Name, name, l.Soft, l.Hard)
		}
		s.Ulimits = append(s.Ulimits, l)
	}
}

// guestDevices are the devices a machine has of its own: a service that asks
// for one gets its own kernel's, no device of the host.
var guestDevices = []string{"/dev/net/tun", "/dev/fuse", "/dev/kmsg", "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/loop-control"}

func (c *converter) devices(s *Service, in []types.DeviceMapping) {
	for i, d := range in {
		at := []string{"services", s.Name, "devices", strconv.Itoa(i)}
		if !slices.Contains(guestDevices, d.Source) {
			c.fault(at, "devices of the host are not passed into machines; the machine's own are "+strings.Join(guestDevices, ", "),
				"service %q: device %q: not supported", s.Name, d.Source)
			continue
		}
		s.Devices = append(s.Devices, d.Source+":"+first(d.Target, d.Source)+":"+first(d.Permissions, "rwm"))
	}
}

func (c *converter) mounts(s *Service, in types.ServiceConfig) {
	for _, v := range in.Volumes {
		at := []string{"services", s.Name, "volumes", "@" + v.Target}
		m := Mount{Type: MountType(v.Type), Source: v.Source, Target: v.Target, ReadOnly: v.ReadOnly, Pos: c.x.find(at...)}
		if !path.IsAbs(v.Target) || path.Clean(v.Target) == "/" {
			c.fault(append(at, "target"), "", "service %q: mount target %q must be an absolute path, and not /", s.Name, v.Target)
		}
		switch v.Type {
		case types.VolumeTypeBind:
			if filepath.Base(v.Source) == "docker.sock" {
				c.dockerSocket(at, s, &m)
			}
			if v.Bind != nil {
				m.CreateHostPath, m.Propagation = bool(v.Bind.CreateHostPath), v.Bind.Propagation
				if strings.HasSuffix(m.Propagation, "shared") {
					c.ignored(append(at, "bind", "propagation"), "propagation "+m.Propagation, "what is mounted in a machine does not reach its host; what the host mounts is seen")
				}
			}
		case types.VolumeTypeVolume:
			if v.Volume != nil {
				m.NoCopy, m.Subpath, m.Labels = v.Volume.NoCopy, v.Volume.Subpath, v.Volume.Labels
				if m.Source != "" && len(m.Labels) > 0 {
					c.ignored(append(at, "volume", "labels"), "the labels", "label the volume itself")
					m.Labels = nil
				}
			}
			m = c.localDriver(at, m)
		case types.VolumeTypeTmpfs:
			if v.Tmpfs != nil {
				m.SizeBytes, m.Mode = int64(v.Tmpfs.Size), v.Tmpfs.Mode
			}
		case types.VolumeTypeImage:
			if v.Image != nil {
				m.Subpath = v.Image.SubPath
			}
			m.ReadOnly = true
		default:
			c.fault(at, "", "service %q: mounts of type %q are not supported", s.Name, v.Type)
		}
		if m.Subpath != "" && !filepath.IsLocal(m.Subpath) {
			c.fault(at, "", "service %q: subpath %q leads out of its volume", s.Name, m.Subpath)
		}
		s.Mounts = append(s.Mounts, m)
	}
	for i, v := range in.Tmpfs {
		at := []string{"services", s.Name, "tmpfs", strconv.Itoa(i)}
		m, err := parseTmpfs(v)
		if err != nil {
			c.fault(at, "", "service %q: tmpfs %q: %w", s.Name, v, err)
			continue
		}
		m.Pos = c.x.find(at...)
		s.Mounts = append(s.Mounts, m)
	}
	// A mount below another one must come after it.
	slices.SortStableFunc(s.Mounts, func(a, b Mount) int {
		return strings.Count(path.Clean(a.Target), "/") - strings.Count(path.Clean(b.Target), "/")
	})
}

// dockerSocket is a bind of the host's docker socket, which is the host: only for
// who says that it is meant. That it is read-only would keep nobody from anything.
func (c *converter) dockerSocket(at []string, s *Service, m *Mount) {
	if !s.Extension.HostDockerSocket {
		c.fault(at, "a machine has no docker engine to talk to; the host's, and with it the host, is had by x-stack: {host_docker_socket: true}",
			"service %q: mounting %s is not supported", s.Name, m.Source)
		return
	}
	m.Type, m.ReadOnly = MountSocket, false
	c.warn(Warning{
		Pos: m.Pos, Key: strings.Join(at, "."),
		Text: fmt.Sprintf("service %q gets the docker socket of the host: whatever runs in it, or breaks into it, can take over the host, and its machine protects nothing", s.Name),
	})
}

// localDriver makes the mount that a volume of driver local stands for when its
// options say more than "a volume".
func (c *converter) localDriver(at []string, m Mount) Mount {
	v, ok := c.src.Volumes[m.Source]
	if !ok || len(v.DriverOpts) == 0 || bool(v.External) {
		return m
	}
	switch kind := v.DriverOpts["type"]; {
	case kind == "tmpfs":
		t, err := parseTmpfs(m.Target + ":" + v.DriverOpts["o"])
		if err != nil {
			c.fault([]string{"volumes", m.Source, "driver_opts", "o"}, "", "volume %q: %w", m.Source, err)
			return m
		}
		t.Pos, t.ReadOnly = m.Pos, m.ReadOnly
		return t
	case (kind == "none" || kind == "") && hasOption(v.DriverOpts["o"], "bind", "rbind"):
		if !filepath.IsAbs(v.DriverOpts["device"]) {
			c.fault([]string{"volumes", m.Source, "driver_opts", "device"}, "", "volume %q: device %q is no absolute path", m.Source, v.DriverOpts["device"])
		}
		b := Mount{Type: MountBind, Source: v.DriverOpts["device"], Target: m.Target, ReadOnly: m.ReadOnly, Subpath: m.Subpath, Pos: m.Pos}
		for _, o := range strings.Split(v.DriverOpts["o"], ",") {
			switch o = strings.TrimSpace(o); o {
			case "bind", "rbind", "rw":
			case "ro":
				b.ReadOnly = true
			case "nosuid", "nodev", "noexec", "noatime":
				b.Options = append(b.Options, o)
			default:
				c.fault([]string{"volumes", m.Source, "driver_opts", "o"}, "", "volume %q: option %q of a bind is not supported", m.Source, o)
			}
		}
		return b
	case kind != "":
		c.fault([]string{"volumes", m.Source, "driver_opts", "type"}, "", "volume %q: driver_opts of type %q are not supported", m.Source, kind)
	}
	return m
}

func hasOption(list string, names ...string) bool {
	for _, o := range strings.Split(list, ",") {
		if slices.Contains(names, strings.TrimSpace(o)) {
			return true
		}
	}
	return false
}

// parseTmpfs reads PATH[:OPTIONS] as docker's --tmpfs takes it.
func parseTmpfs(v string) (Mount, error) {
	target, options, _ := strings.Cut(v, ":")
	m := Mount{Type: MountTmpfs, Target: path.Clean(target)}
	if !path.IsAbs(target) {
		return m, errors.New("the path must be absolute")
	}
	for _, o := range strings.Split(options, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(o), "=")
		var err error
		switch name {
		case "", "rw":
		case "ro":
			m.ReadOnly = true
		case "size":
			m.SizeBytes, err = units.RAMInBytes(value)
			if err == nil && m.SizeBytes < 0 {
				err = errors.New("negative")
			}
		case "mode":
			var n uint64
			n, err = strconv.ParseUint(value, 8, 32)
			m.Mode = uint32(n)
		case "uid":
			m.UID, err = parseID(value)
		case "gid":
			m.GID, err = parseID(value)
		case "exec", "noexec", "suid", "nosuid", "dev", "nodev", "atime", "noatime", "nr_inodes", "nr_blocks", "huge":
			m.Options = append(m.Options, o)
		default:
			return m, fmt.Errorf("unknown option %q", name)
		}
		if err != nil {
			return m, fmt.Errorf("invalid %s %q", name, value)
		}
	}
	return m, nil
}

func parseID(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	return int(n), err
}

func refsOf[T ~struct {
	Source     string           `yaml:"source,omitempty" json:"source,omitempty"`
	Target     string           `yaml:"target,omitempty" json:"target,omitempty"`
	UID        string           `yaml:"uid,omitempty" json:"uid,omitempty"`
	GID        string           `yaml:"gid,omitempty" json:"gid,omitempty"`
	Mode       *types.FileMode  `yaml:"mode,omitempty" json:"mode,omitempty"`
	Extensions types.Extensions `yaml:"#extensions,inline,omitempty" json:"-"`
}](in []T) []types.FileReferenceConfig {
	var out []types.FileReferenceConfig
	for _, r := range in {
		out = append(out, types.FileReferenceConfig(r))
	}
	return out
}

// refs places configs at /NAME and secrets in /run/secrets, as docker does.
func (c *converter) refs(service, kind string, in []types.FileReferenceConfig) []FileRef {
	dir, targets := "/", map[string]bool{}
	if kind == "secrets" {
		dir = "/run/secrets"
	}
	var out []FileRef
	for _, r := range in {
		at := []string{"services", service, kind, "@" + r.Source}
		f := FileRef{Source: r.Source, Target: first(r.Target, r.Source), UID: r.UID, GID: r.GID, Mode: 0o444, Pos: c.x.find(at...)}
		if !path.IsAbs(f.Target) {
			f.Target = path.Join(dir, f.Target)
		}
		f.Target = path.Clean(f.Target)
		if r.Mode != nil {
			if *r.Mode < 0 || *r.Mode > 0o7777 {
				c.fault(at, "", "service %q: mode %#o of %s is no file mode", service, *r.Mode, r.Source)
			}
			f.Mode = uint32(*r.Mode) & 0o7777
		}
		if targets[f.Target] {
			c.fault(at, "", "service %q: target %s already used by another of its %s", service, f.Target, kind)
		}
		targets[f.Target] = true
		out = append(out, f)
	}
	return out
}

func (c *converter) attachments(s *Service, in types.ServiceConfig) {
	if len(in.Networks) > 0 {
		s.Networks = map[string]Attachment{}
	}
	if s.NetworkMode == "bridge" || s.NetworkMode == "host" {
		c.modeNetwork(s)
	}
	for _, name := range sortedKeys(in.Networks) {
		at := []string{"services", s.Name, "networks", name}
		a := Attachment{Pos: c.x.find(at...)}
		if n := in.Networks[name]; n != nil {
			a.Aliases, a.InterfaceName, a.Priority, a.GatewayPriority = n.Aliases, n.InterfaceName, n.Priority, n.GatewayPriority
			a.Unnamed = !n.ServiceNameAliasEnabled()
			for i, alias := range n.Aliases {
				c.hostName(append(at, "aliases", strconv.Itoa(i)), s.Name, alias)
			}
			a.IPv4 = c.addr(append(at, "ipv4_address"), s.Name, n.Ipv4Address, netip.Addr.Is4)
			a.IPv6 = c.addr(append(at, "ipv6_address"), s.Name, n.Ipv6Address, netip.Addr.Is6)
			a.MAC = c.mac(append(at, "mac_address"), s.Name, n.MacAddress)
			for i, v := range n.LinkLocalIPs {
				at := append(at, "link_local_ips", strconv.Itoa(i))
				ip := c.addr(at, s.Name, v, netip.Addr.IsValid)
				if ip.IsValid() && !ip.IsLinkLocalUnicast() {
					c.fault(at, "", "service %q: %s is no link-local address", s.Name, ip)
				}
				a.LinkLocal = append(a.LinkLocal, ip)
			}
			c.endpointOptions(at, s.Name, n.DriverOpts, &a)
			if len(a.InterfaceName) > 15 || strings.ContainsAny(a.InterfaceName, "/ \t\n") {
				c.fault(append(at, "interface_name"), "", "service %q: %q is no interface name", s.Name, a.InterfaceName)
			}
		}
		s.Networks[name] = a
	}
	if in.MacAddress != "" {
		mac := c.mac([]string{"services", s.Name, "mac_address"}, s.Name, in.MacAddress)
		by := in.NetworksByPriority()
		if s.NetworkMode == "bridge" {
			by = sortedKeys(s.Networks)
		}
		if len(by) > 0 {
			a := s.Networks[by[0]]
			a.MAC = first(a.MAC, mac)
			s.Networks[by[0]] = a
		}
	}
}

// endpointOptions reads those of docker's options for an endpoint that are not
// about a kernel's bridge.
func (c *converter) endpointOptions(at []string, service string, options map[string]string, a *Attachment) {
	for _, k := range sortedKeys(options) {
		at, v := append(slices.Clone(at), "driver_opts", k), options[k]
		switch k {
		case "com.docker.network.endpoint.ifname":
			a.InterfaceName = first(a.InterfaceName, v)
		case "com.docker.network.endpoint.sysctls":
			a.Sysctls = map[string]string{}
			for _, setting := range strings.Split(v, ",") {
				key, value, ok := strings.Cut(strings.TrimSpace(setting), "=")
				if !ok || !interfaceSysctl.MatchString(key) {
					c.fault(at, "write it like net.ipv6.conf.IFNAME.accept_ra=2", "service %q: %q is no setting of an interface", service, setting)
				}
				a.Sysctls[key] = value
			}
		default:
			c.ignored(at, "network option "+k, "no kernel bridge carries this network")
		}
	}
}

var interfaceSysctl = regexp.MustCompile(`^net\.(ipv4|ipv6|mpls)\.(conf|neigh)\.IFNAME\.[a-z0-9_]+$`)

// modeNetwork puts a service on the network that stands for docker's default
// bridge, or for the host: one for the project, so that projects stay apart.
func (c *converter) modeNetwork(s *Service) {
	key := s.NetworkMode
	at := c.x.find("services", s.Name, "network_mode")
	if _, ok := c.src.Networks[key]; ok {
		c.faults = append(c.faults, &Error{
			Pos: at, Err: fmt.Errorf("service %q: network_mode: %s, and the project has a network of that name", s.Name, key), Hint: "rename that network",
		})
		return
	}
	c.out.Networks[key] = &Network{Key: key, Name: c.out.Name + "_" + key, IPv4: true, Pos: at}
	s.Networks = map[string]Attachment{key: {Pos: at}}
}

func (c *converter) addr(at []string, service, v string, family func(netip.Addr) bool) netip.Addr {
	if v == "" {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(v)
	if err != nil || !family(a) || a.Zone() != "" {
		c.fault(at, "", "service %q: %s: %q is no address of that family", service, at[len(at)-1], v)
	}
	return a
}

func (c *converter) mac(at []string, service, v string) string {
	if v == "" {
		return ""
	}
	hw, err := net.ParseMAC(v)
	if err != nil || len(hw) != 6 || hw[0]&1 != 0 {
		c.fault(at, "", "service %q: %q is no address of a network card", service, v)
		return ""
	}
	return hw.String()
}

func (c *converter) ports(s *Service, in []types.ServicePortConfig) {
	for _, p := range in {
		at := []string{"services", s.Name, "ports", portName(p)}
		if !c.x.has(at...) {
			at = at[:3] // a range in the long form has no name of its own
		}
		out := Port{Target: uint16(p.Target), Protocol: first(p.Protocol, "tcp"), Name: p.Name, Pos: c.x.find(at...)}
		switch {
		case p.Target == 0 || p.Target > 65535:
			c.fault(append(at, "target"), "", "service %q: port %d is not in 1-65535", s.Name, p.Target)
		case out.Protocol != "tcp" && out.Protocol != "udp":
			c.fault(append(at, "protocol"), "", "service %q: publishing %s ports is not supported", s.Name, out.Protocol)
		}
		if p.HostIP != "" {
			ip, err := netip.ParseAddr(p.HostIP)
			if err != nil {
				c.fault(append(at, "host_ip"), "", "service %q: invalid ip address: %s", s.Name, p.HostIP)
			}
			if !ip.IsUnspecified() || ip.Is6() {
				out.HostIP = ip
			}
			if ip == netip.IPv4Unspecified() {
				out.HostIP = ip
			}
		}
		if !out.HostIP.IsValid() && p.HostIP == "" {
			out.HostIP = c.hostBinding(s)
		}
		var err error
		if out.Published, out.PublishedEnd, err = parsePublished(p.Published); err != nil {
			c.fault(append(at, "published"), "", "service %q: published port %q: %w", s.Name, p.Published, err)
		}
		s.Ports = append(s.Ports, out)
	}
}

// hostBinding is where a service's ports are published that name no address, if
// one of its networks says so.
func (c *converter) hostBinding(s *Service) netip.Addr {
	for _, key := range sortedKeys(s.Networks) {
		if n := c.out.Networks[key]; n != nil && n.HostBinding.IsValid() {
			return n.HostBinding
		}
	}
	return netip.Addr{}
}

// parsePublished reads "", "8080" or "8080-8090".
func parsePublished(v string) (from, to uint16, err error) {
	if v == "" {
		return 0, 0, nil
	}
	lo, hi, ranged := strings.Cut(v, "-")
	a, err := strconv.ParseUint(lo, 10, 16)
	if err != nil {
		return 0, 0, errors.New("not a port or a range of ports")
	}
	if !ranged {
		return uint16(a), 0, nil
	}
	b, err := strconv.ParseUint(hi, 10, 16)
	switch {
	case err != nil || a == 0:
		return 0, 0, errors.New("not a port or a range of ports")
	case b < a:
		return 0, 0, errors.New("the range ends before it starts")
	case b == a:
		return uint16(a), 0, nil
	}
	return uint16(a), uint16(b), nil
}

func (c *converter) network(key string, in types.NetworkConfig) {
	at := func(parts ...string) []string { return append([]string{"networks", key}, parts...) }
	n := &Network{
		Key: key, Name: in.Name, External: bool(in.External), Internal: in.Internal,
		IPv4: in.EnableIPv4 == nil || *in.EnableIPv4, IPv6: in.EnableIPv6 != nil && *in.EnableIPv6,
		Labels: in.Labels,
	}
	c.objectName(at("name"), "network", in.Name)
	if c.x.has(at()...) {
		n.Pos = c.x.find(at()...) // the implicit default network is written nowhere
	}
	switch in.Driver {
	case "", "default", "bridge":
	case "overlay":
		c.ignored(at("driver"), `driver "overlay"`, "there is one host, its networks are bridges")
	default:
		c.fault(at("driver"), "leave the driver out", "network %q: driver %q is not supported", key, in.Driver)
	}
	for _, k := range sortedKeys(in.DriverOpts) {
		var err error
		switch v := in.DriverOpts[k]; k {
		case MTUOption:
			n.MTU, err = NetworkMTU(v)
		case "com.docker.network.bridge.enable_icc":
			var talk bool
			talk, err = strconv.ParseBool(v)
			n.Isolated = !talk
		case "com.docker.network.bridge.host_binding_ipv4":
			if n.HostBinding, err = netip.ParseAddr(v); err == nil && !n.HostBinding.Is4() {
				err = fmt.Errorf("%s is no IPv4 address", v)
			}
		default:
			c.ignored(at("driver_opts", k), "network option "+k, "no kernel bridge carries this network")
		}
		if err != nil {
			c.fault(at("driver_opts", k), "", "network %q: %w", key, err)
		}
	}
	for i, p := range in.Ipam.Config {
		if p == nil {
			continue
		}
		n.Pools = append(n.Pools, c.pool(at("ipam", "config", strconv.Itoa(i)), key, p))
	}
	for _, p := range n.Pools {
		if p.Subnet.Addr().Is6() {
			n.IPv6 = true // a v6 subnet is asked for by naming it
		}
	}
	c.out.Networks[key] = n
}

// MTUOption is the only driver option of a network that means something.
const MTUOption = "com.docker.network.driver.mtu"

// NetworkMTU reads the value of MTUOption, the size of the largest IP packet.
func NetworkMTU(value string) (int, error) {
	mtu, err := strconv.Atoi(value)
	if err != nil || mtu < 576 || mtu > 65535 {
		return 0, fmt.Errorf("mtu %q is not in 576-65535", value)
	}
	return mtu, nil
}

func (c *converter) pool(at []string, key string, in *types.IPAMPool) IPAMPool {
	prefix := func(name, v string) netip.Prefix {
		if v == "" {
			return netip.Prefix{}
		}
		p, err := netip.ParsePrefix(v)
		if err != nil {
			c.fault(append(at, name), "", "network %q: %s: %q is no network in CIDR notation", key, name, v)
		}
		return p.Masked()
	}
	var pool IPAMPool
	pool.Subnet, pool.Range = prefix("subnet", in.Subnet), prefix("ip_range", in.IPRange)
	inside := func(name, v string) netip.Addr {
		a, err := netip.ParseAddr(v)
		switch {
		case err != nil:
			c.fault(append(at, name), "", "network %q: %s: %q is no address", key, name, v)
		case pool.Subnet.IsValid() && !pool.Subnet.Contains(a):
			c.fault(append(at, name), "", "network %q: %s %s is not in subnet %s", key, name, a, pool.Subnet)
		}
		return a
	}
	if in.Gateway != "" {
		pool.Gateway = inside("gateway", in.Gateway)
	}
	if pool.Range.IsValid() && pool.Subnet.IsValid() && (pool.Range.Bits() < pool.Subnet.Bits() || !pool.Subnet.Contains(pool.Range.Addr())) {
		c.fault(append(at, "ip_range"), "", "network %q: ip_range %s is not in subnet %s", key, pool.Range, pool.Subnet)
	}
	for _, name := range sortedKeys(in.AuxiliaryAddresses) {
		if pool.Aux == nil {
			pool.Aux = map[string]netip.Addr{}
		}
		pool.Aux[name] = inside("aux_addresses", in.AuxiliaryAddresses[name])
	}
	return pool
}

func (c *converter) volume(key string, in types.VolumeConfig) {
	at := []string{"volumes", key}
	v := &Volume{
		Key: key, Name: in.Name, External: bool(in.External), Driver: in.Driver, DriverOpts: in.DriverOpts,
		Labels: in.Labels, Pos: c.x.find(at...),
	}
	c.objectName(append(at, "name"), "volume", in.Name)
	if in.Driver != "" && in.Driver != "local" {
		c.fault(append(at, "driver"), "leave the driver out: a volume is a disk of the machine", "volume %q: driver %q is not supported", key, in.Driver)
	}
	for _, k := range sortedKeys(in.DriverOpts) {
		if !slices.Contains([]string{"type", "o", "device", "size"}, k) {
			c.fault(append(at, "driver_opts", k), "one of type, o, device, size", "volume %q: invalid option: %q", key, k)
		}
	}
	if size, ok := in.DriverOpts["size"]; ok {
		v.SizeBytes = c.volumeSize(append(at, "driver_opts", "size"), key, size)
	}
	if size := c.volumeExtension(key, in.Extensions); size != 0 {
		v.SizeBytes = size
	}
	if t := in.DriverOpts["type"]; t == "tmpfs" || (t == "none" || t == "") && hasOption(in.DriverOpts["o"], "bind", "rbind") {
		return // its mounts were made what it stands for: nothing to create
	}
	c.out.Volumes[key] = v
}

func (c *converter) volumeSize(at []string, key, v string) int64 {
	n, err := VolumeBytes(v)
	if err != nil {
		c.fault(at, "write it like 20g", "volume %q: %v", key, err)
	}
	return n
}

// VolumeBytes reads the size of a volume, like 20g, and rounds it up to whole
// blocks.
func VolumeBytes(size string) (int64, error) {
	n, err := units.RAMInBytes(size)
	if err != nil || n < MinVolumeBytes || n > 1<<50 {
		return 0, fmt.Errorf("size %q is no size of at least 256 MiB", size)
	}
	return (n + blockBytes - 1) / blockBytes * blockBytes, nil
}

// MinVolumeBytes is the size of the file system that a volume begins as, and
// grows from. Volumes are made of whole blocks.
const (
	MinVolumeBytes = 256 << 20
	blockBytes     = 4096
)

func (c *converter) file(kind, key string, in types.FileObjectConfig, out map[string]*Config) {
	at := []string{kind, key}
	what := strings.TrimSuffix(kind, "s")
	f := &Config{Key: key, Name: in.Name, Pos: c.x.find(at...)}
	switch {
	case bool(in.External):
		c.fault(append(at, "external"), "declare it with file: or environment:", "%s %q: external %s are not supported", what, key, kind)
	case in.Driver != "" || in.TemplateDriver != "":
		c.fault(at, "", "%s %q: drivers are not supported", what, key)
	case in.Environment != "":
		v, ok := c.env[in.Environment]
		if !ok {
			c.fault(append(at, "environment"), "", "environment variable %q required by %s %q is not set", in.Environment, what, key)
		}
		f.Content, f.From = []byte(v), "environment "+in.Environment
	case in.File != "":
		data, err := readFile(in.File)
		if err != nil {
			c.fault(append(at, "file"), "", "%s %q: %w", what, key, err)
		}
		f.Content, f.From = data, "file "+in.File
	default:
		f.Content, f.From = []byte(in.Content), "content"
	}
	out[key] = f
}

// links are names that a service alone knows: of services, and of containers that
// may be another project's, on a network that both are on.
func (c *converter) links() {
	for _, name := range sortedKeys(c.src.Services) {
		s, in := c.out.Services[name], c.src.Services[name]
		for _, of := range []struct {
			key   string
			links []string
		}{{"links", in.Links}, {"external_links", in.ExternalLinks}} {
			for i, link := range of.links {
				at := []string{"services", name, of.key, strconv.Itoa(i)}
				target, alias, ok := strings.Cut(link, ":")
				if !ok || alias == target {
					continue // by its own name it is known anyway
				}
				c.hostName(at, name, alias)
				if target == "" || alias == "" || strings.Contains(alias, ":") {
					c.fault(at, "write it like NAME:ALIAS", "service %q: %s: %q is no link", name, of.key, link)
				}
				if s.Links == nil {
					s.Links = map[string]string{}
				}
				s.Links[alias] = target
			}
		}
	}
}

func (c *converter) containerNames() {
	used := map[string]string{}
	for _, name := range sortedKeys(c.out.Services) {
		cn := c.out.Services[name].ContainerName
		if cn == "" {
			continue
		}
		if by, ok := used[cn]; ok {
			c.fault([]string{"services", name, "container_name"}, "", "services.%s: container name %q is already in use by service %s", name, cn, by)
		}
		used[cn] = name
		if c.out.Services[name].Scale > 1 {
			c.fault([]string{"services", name, "container_name"}, "", "services.%s: can't set container_name and scale as container name must be unique", name)
		}
	}
}

// ignored warns, once, of something written that has no effect.
func (c *converter) ignored(at []string, what, why string) {
	if c.opt.NamesOnly || c.hook && !c.x.has(at...) {
		return
	}
	c.warn(Warning{Pos: c.x.find(at...), Key: strings.Join(at, "."), Text: what + " is ignored: " + why})
}
