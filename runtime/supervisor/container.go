package supervisor

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/image"
	"github.com/stackvm/stack/runtime/machine"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/runtime/volume"
	"github.com/stackvm/stack/spec"
)

// livingWith are the services that live in the machine of a service's replica.
func livingWith(p *spec.Project, svc *spec.Service) []*spec.Service {
	m := svc.Machine
	if m == nil || m.Host == "" {
		return []*spec.Service{svc}
	}
	var all []*spec.Service
	for _, name := range m.Services {
		all = append(all, p.Services[name])
	}
	return all
}

// machineSize is what the machine of a service's replica is made with, for all
// who live in it; x-stack has the last word.
func (s *Supervisor) machineSize(p *spec.Project, svc *spec.Service) (vcpus, memoryMiB int) {
	living := livingWith(p, svc)
	var cpus float64
	var limits int64
	anyCPUs, anyMemory := false, false // somebody has no limit
	var asked spec.Extension
	for _, o := range living {
		replicas := float64(max(1, o.Scale))
		cpus, limits = cpus+o.Resources.CPUs*replicas, limits+max(0, o.Resources.MemoryBytes)*int64(replicas)
		anyCPUs, anyMemory = anyCPUs || o.Resources.CPUs <= 0, anyMemory || o.Resources.MemoryBytes <= 0
		asked.VCPUs, asked.MemoryMiB = max(asked.VCPUs, o.Extension.VCPUs), max(asked.MemoryMiB, o.Extension.MemoryMiB)
	}
	if anyCPUs {
		cpus = 0
	}
	host := machine.Host{CPUs: goruntime.NumCPU(), MemoryMiB: hostMemoryMiB()}
	vcpus, memoryMiB = machine.Size(cpus, limits, host)
	if anyMemory {
		_, base := machine.Size(cpus, 0, host)
		base = cmp.Or(s.opt.MemoryMiB, base)
		memoryMiB = base
		if limits > 0 { // those with a limit, beside the others
			_, memoryMiB = machine.Size(cpus, limits+int64(base)<<20, host)
		}
	}
	return cmp.Or(asked.VCPUs, vcpus), cmp.Or(asked.MemoryMiB, memoryMiB)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// arguments are what a container runs. A cleared entrypoint or command is empty,
// an unset one nil: then the image's counts, its command only together with its
// entrypoint.
func arguments(svc *spec.Service, img image.Config) []string {
	entrypoint, command := img.Entrypoint, img.Cmd
	if svc.Entrypoint != nil {
		entrypoint, command = svc.Entrypoint, nil
	}
	if svc.Command != nil {
		command = svc.Command
	}
	return slices.Concat(entrypoint, command)
}

// environment is the image's with the user's proxies over it, and the service's
// over both.
func environment(svc *spec.Service, img image.Config, proxies api.Proxies) []string {
	set := map[string]string(maps.Clone(proxies))
	if set == nil {
		set = map[string]string{}
	}
	maps.Copy(set, svc.Environment)
	var env []string
	for _, kv := range img.Env {
		key, _, _ := strings.Cut(kv, "=")
		if _, ok := set[key]; !ok {
			env = append(env, kv)
		}
	}
	for _, key := range sortedKeys(set) {
		env = append(env, key+"="+set[key])
	}
	return env
}

// Defaults of the compose specification.
const (
	probeInterval      = 30 * time.Second
	probeTimeout       = 30 * time.Second
	probeStartInterval = 5 * time.Second
	probeRetries       = 3
)

// Probes of compose files are made for processors. What starts by emulation takes
// about so many times as long, and is given the retries for that; where they are
// far apart, no more than cover so long a delay.
const (
	emulationSlowness = 5
	emulationDelay    = 2 * time.Minute
)

// startRetries returns how many failures in a row a container that was never healthy is
// allowed when machines run by emulation.
func startRetries(h *wire.Healthcheck) int {
	delay := int((emulationDelay + h.Interval - 1) / h.Interval)
	return min(emulationSlowness*h.Retries, h.Retries+delay)
}

// healthcheck merges the service's probe with the image's, field by field.
func healthcheck(svc *spec.Service, img image.Config) (*wire.Healthcheck, error) {
	var h spec.Healthcheck
	if svc.Healthcheck != nil {
		h = *svc.Healthcheck
	}
	if h.Disable {
		return nil, nil
	}
	if i := img.Healthcheck; i != nil {
		if len(h.Test) == 0 {
			h.Test = i.Test
		}
		h.Interval = cmp.Or(h.Interval, i.Interval)
		h.Timeout = cmp.Or(h.Timeout, i.Timeout)
		h.StartPeriod = cmp.Or(h.StartPeriod, i.StartPeriod)
		h.StartInterval = cmp.Or(h.StartInterval, i.StartInterval)
		h.Retries = cmp.Or(h.Retries, i.Retries)
	}
	if len(h.Test) == 0 || h.Test[0] == "NONE" {
		return nil, nil
	}
	out := &wire.Healthcheck{
		Interval: cmp.Or(h.Interval, probeInterval), Timeout: cmp.Or(h.Timeout, probeTimeout),
		StartPeriod: h.StartPeriod, StartInterval: cmp.Or(h.StartInterval, probeStartInterval), Retries: cmp.Or(h.Retries, probeRetries),
	}
	switch h.Test[0] {
	case "CMD":
		out.Test = h.Test[1:]
	case "CMD-SHELL":
		shell := img.Shell
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		out.Test = append(slices.Clone(shell), strings.Join(h.Test[1:], " "))
	default:
		return nil, fmt.Errorf("healthcheck test begins with %q: want CMD, CMD-SHELL or NONE", h.Test[0])
	}
	if len(out.Test) == 0 {
		return nil, errors.New("healthcheck test has no command")
	}
	return out, nil
}

// containerOf writes down all that the agent needs to make a replica's
// container; interfaces are filled in when its machine boots.
func (s *Supervisor) containerOf(m making, rec *state.Replica) (wire.Container, error) {
	p, svc, img := m.project, m.service, m.image
	fault := func(key string, err error) error {
		pos := svc.Pos
		if at, ok := svc.Keys[key]; ok {
			pos = at
		}
		return &spec.Error{Pos: pos, Err: fmt.Errorf("service %q: %w", svc.Name, err)}
	}
	r := svc.Resources
	c := wire.Container{
		ID: rec.ID, Name: rec.Name,
		Root:       wire.Root{Image: imageSerial(img.ID), Scratch: scratchSerial(rec.ID), ScratchBytes: rec.ScratchBytes},
		Args:       arguments(svc, img.Config),
		Env:        environment(svc, img.Config, m.proxies),
		WorkingDir: cmp.Or(svc.WorkingDir, img.Config.WorkingDir),
		User:       cmp.Or(svc.User, img.Config.User),
		Groups:     svc.GroupAdd,
		TTY:        svc.TTY, Stdin: svc.StdinOpen, Init: svc.Init,
		StopSignal: rec.StopSignal,
		Hostname:   rec.Hostname, Domainname: svc.Domainname,
		DNS:        wire.DNS{Servers: svc.DNS, Search: svc.DNSSearch, Options: svc.DNSOptions},
		Privileged: svc.Privileged, CapAdd: svc.CapAdd, CapDrop: svc.CapDrop,
		ReadOnlyRoot: svc.ReadOnly, Sysctls: svc.Sysctls, OOMScoreAdj: svc.OOMScoreAdj, ShmSize: svc.ShmSize,
		Limits: wire.Limits{
			CPUs: r.CPUs, CPUShares: r.CPUShares, CPUSet: r.CPUSet, MemoryBytes: r.MemoryBytes,
			MemoryReservation: r.MemoryReservation, SwapBytes: r.SwapBytes, PIDs: r.PIDs,
			CPUPeriod: r.CPUPeriod, IO: wire.IORates(r.IO),
		},
		DeviceRules: svc.DeviceRules, Umask: svc.Umask, HostCgroup: svc.Cgroup == "host",
		TellPorts: svc.NetworkMode == hostNetwork,
		// Of a one-off only who runs it sees the output.
		Log: rec.Logging.Driver != "none" || !rec.OneOff,
	}
	if rec.Logging.NonBlocking {
		c.LogBuffer = cmp.Or(rec.Logging.BufferBytes, defaultLogBuffer)
	}
	if len(c.Args) == 0 {
		return c, fault("command", fmt.Errorf("no command specified: neither the service nor image %s has one", rec.Image))
	}
	var err error
	if m.hostCA {
		if c.CAs, err = s.opt.HostCAs(); err != nil {
			return c, fmt.Errorf("service %q: ca: host of config.yaml: %w", svc.Name, err)
		}
	}
	if c.Health, err = healthcheck(svc, img.Config); err != nil {
		return c, fault("healthcheck", err)
	}
	if c.Health != nil && s.opt.Emulated != nil && s.opt.Emulated(s.ctx) != "" {
		c.Health.StartRetries = startRetries(c.Health)
	}
	for _, o := range svc.SecurityOpt {
		securityOption(&c, o)
	}
	for _, u := range svc.Ulimits {
		c.Rlimits = append(c.Rlimits, wire.Rlimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	for _, d := range svc.Devices {
		parts := strings.Split(d, ":")
		dev := wire.Device{Source: parts[0], Path: parts[0]}
		if len(parts) > 1 {
			dev.Path = parts[1]
		}
		if len(parts) > 2 {
			dev.Permissions = parts[2]
		}
		c.Devices = append(c.Devices, dev)
	}
	for _, h := range svc.ExtraHosts {
		addr := h.Addr
		if addr == "host-gateway" {
			if addr = s.hostGateway(rec); addr == "" {
				return c, fault("extra_hosts", errors.New("host-gateway: the service has no network with a way to the host"))
			}
		}
		c.Hosts = append(c.Hosts, wire.Host{Addr: addr, Names: []string{h.Name}})
	}
	for _, use := range []struct {
		refs   []spec.FileRef
		from   map[string]*spec.Config
		secret bool
		what   string
	}{{svc.Configs, p.Configs, false, "config"}, {svc.Secrets, p.Secrets, true, "secret"}} {
		for _, ref := range use.refs {
			content := use.from[ref.Source]
			if content == nil {
				return c, &spec.Error{Pos: ref.Pos, Err: fmt.Errorf("service %q: undefined %s %s", svc.Name, use.what, ref.Source)}
			}
			c.Files = append(c.Files, wire.File{Target: ref.Target, Content: content.Content, Mode: ref.Mode, UID: ref.UID, GID: ref.GID, Secret: use.secret})
		}
	}
	if c.Mounts, err = s.wireMounts(svc, rec); err != nil {
		return c, err
	}
	return c, s.joinNamespaces(p, svc, &c)
}

// hostGateway is the address by which a replica reaches its host.
func (s *Supervisor) hostGateway(rec *state.Replica) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range rec.Endpoints {
		if n := s.networks[e.NetworkID]; e.Gateway && n != nil && !n.rec.Internal {
			for _, sub := range n.rec.Addresses.Subnets {
				return sub.Gateway.String()
			}
		}
	}
	return ""
}

// defaultLogBuffer is docker's, of logging mode non-blocking.
const defaultLogBuffer = 1 << 20

// securityOption applies one option; those that mean nothing here were reported
// when the file was loaded.
func securityOption(c *wire.Container, o string) {
	key, value := spec.SecurityOption(o)
	switch key {
	case "no-new-privileges":
		c.NoNewPrivs = value != "false"
	case "writable-cgroups":
		c.WritableCgroups = value != "false"
	case "systempaths":
		c.Unmasked = value == "unconfined"
	case "seccomp":
		if c.Seccomp = value; value == "builtin" {
			c.Seccomp = ""
		}
	}
}

// mountsOf are what a replica mounts: the service's mounts and the volumes that
// its image asks for, those of the replica it replaces where they are inherited.
func mountsOf(p *spec.Project, svc *spec.Service, img image.Config, inherited map[string]string, borrowed []state.MountUse) ([]state.MountUse, error) {
	var uses []state.MountUse
	taken := map[string]bool{}
	anonymous := func(target string) state.MountUse {
		m := state.MountUse{Type: spec.MountVolume, Anonymous: true, Target: target, Volume: inherited[target]}
		if m.Volume == "" {
			m.Volume = state.NewID()
		}
		return m
	}
	for _, m := range svc.Mounts {
		use := state.MountUse{Type: m.Type, Source: m.Source, Target: path.Clean(m.Target), ReadOnly: m.ReadOnly, Subpath: m.Subpath}
		if m.Type == spec.MountVolume {
			if m.Source == "" {
				own := anonymous(use.Target)
				own.ReadOnly, own.Subpath = use.ReadOnly, use.Subpath
				use = own
			} else {
				v := p.Volumes[m.Source]
				if v == nil {
					return nil, &spec.Error{Pos: m.Pos, Err: fmt.Errorf("service %q: undefined volume %s", svc.Name, m.Source)}
				}
				use.Volume, use.Source = v.Name, ""
			}
		}
		taken[use.Target] = true
		uses = append(uses, use)
	}
	for _, use := range borrowed {
		if !taken[use.Target] {
			taken[use.Target] = true
			uses = append(uses, use)
		}
	}
	for _, target := range img.Volumes {
		if target = path.Clean(target); !taken[target] {
			uses = append(uses, anonymous(target))
		}
	}
	return uses, nil
}

// wireMounts are a replica's mounts as the agent makes them, parents first.
func (s *Supervisor) wireMounts(svc *spec.Service, rec *state.Replica) ([]wire.Mount, error) {
	var out []wire.Mount
	for i, use := range rec.Mounts {
		var m spec.Mount // what is borrowed, and an image's volume, have none
		if i < len(svc.Mounts) {
			m = svc.Mounts[i]
		}
		w := wire.Mount{Target: use.Target, ReadOnly: use.ReadOnly, Subpath: use.Subpath}
		switch use.Type {
		case spec.MountVolume:
			w.Kind, w.Source, w.NoCopy = wire.MountVolume, volumeSerial(use.Volume), m.NoCopy
			if v, err := s.opt.Volumes.Get(use.Volume); err == nil {
				w.Bytes = v.Bytes
			}
		case spec.MountBind:
			w.Kind, w.Source, w.Options = wire.MountShare, bindShare(use), m.Options
			info, err := os.Stat(use.Source)
			if err != nil {
				return nil, &spec.Error{Pos: m.Pos, Err: fmt.Errorf("service %q: bind source: %w", svc.Name, err)}
			}
			w.File = !info.IsDir()
		case spec.MountSocket:
			mode, uid, gid, err := socketOwner(use.Source)
			if err != nil {
				return nil, &spec.Error{Pos: m.Pos, Err: fmt.Errorf("service %q: %w", svc.Name, err)}
			}
			w.Kind, w.File, w.Mode, w.UID, w.GID = wire.MountSocket, true, mode, uid, gid
		case spec.MountTmpfs:
			w.Kind, w.Bytes, w.Mode, w.UID, w.GID, w.Options = wire.MountTmpfs, m.SizeBytes, m.Mode, m.UID, m.GID, m.Options
		case spec.MountImage:
			img, err := s.opt.Images.Get(use.Source, rec.Platform)
			if err != nil {
				return nil, &spec.Error{Pos: m.Pos, Err: fmt.Errorf("service %q: %w", svc.Name, err)}
			}
			w.Kind, w.Source, w.ReadOnly = wire.MountImage, imageSerial(img.ID), true
		}
		out = append(out, w)
	}
	slices.SortStableFunc(out, func(a, b wire.Mount) int { return cmp.Compare(depth(a.Target), depth(b.Target)) })
	return out, nil
}

func depth(target string) int {
	if target == "/" {
		return 0
	}
	return strings.Count(target, "/")
}

// label begins the labels by which compose and the tools around it know what is
// whose.
const label = "com.docker.compose."

// ComposeVersion is the docker compose whose labels and commands these are.
const ComposeVersion = "5.5.0"

// labels are a replica's own and those by which compose tools know it.
func labels(p *spec.Project, svc *spec.Service, img *image.Image, number int) map[string]string {
	l := maps.Clone(svc.Labels)
	if l == nil {
		l = map[string]string{}
	}
	for k, v := range img.Config.Labels {
		if _, ok := l[k]; !ok {
			l[k] = v
		}
	}
	var deps []string
	for _, name := range sortedKeys(svc.DependsOn) {
		d := svc.DependsOn[name]
		deps = append(deps, fmt.Sprintf("%s:%s:%t", name, d.Condition, d.Restart))
	}
	maps.Copy(l, map[string]string{
		label + "project": p.Name, label + "service": svc.Name, label + "oneoff": "False", label + "config-hash": svc.Hash,
		label + "image": "sha256:" + strings.TrimPrefix(img.ID, "sha256:"), label + "depends_on": strings.Join(deps, ","),
		label + "project.working_dir": p.WorkingDir, label + "project.config_files": strings.Join(p.Files, ","),
		label + "version": ComposeVersion,
	})
	if number > 0 { // one-offs have none
		l[label+"container-number"] = strconv.Itoa(number)
	}
	if len(p.EnvFiles) > 0 {
		l[label+"project.environment_file"] = strings.Join(p.EnvFiles, ",")
	}
	return l
}

// newRecord decides all about a new replica that does not cost anything.
func (s *Supervisor) newRecord(p *spec.Project, svc *spec.Service, img *image.Image, name string, number int) (*state.Replica, error) {
	if _, err := s.opt.Rotation.With(svc.Logging.Options); err != nil {
		return nil, &spec.Error{Pos: cmp.Or(svc.Keys["logging"], svc.Pos), Err: fmt.Errorf("service %q: %w", svc.Name, err)}
	}
	rec := &state.Replica{
		ID: state.NewID(), Name: name, Created: time.Now(), Phase: state.Making,
		Labels: labels(p, svc, img, number), Annotations: svc.Annotations,
		Project: p.Name, Service: svc.Name, Number: number, Hash: svc.Hash, Aspects: svc.Aspects,
		DependsOn: map[string]string{},
		Image:     svc.Image, ImageID: img.ID, Platform: svc.Platform, Command: arguments(svc, img.Config), TTY: svc.TTY,
		RestartUnhealthy: svc.Extension.RestartUnhealthy,
		Restart:          svc.Restart, StopSignal: cmp.Or(svc.StopSignal, img.Config.StopSignal), StopGrace: svc.StopGrace,
		Logging: svc.Logging, ScratchBytes: cmp.Or(svc.StorageSize, volume.DefaultScratchBytes),
		NetworkMode: svc.NetworkMode, Status: "created",
	}
	rec.Hostname = cmp.Or(svc.Hostname, rec.ID[:12])
	if svc.UTS == "host" || svc.Hostname == "" && svc.NetworkMode == hostNetwork { // as docker
		if name, err := os.Hostname(); err == nil {
			rec.Hostname = name
		}
	}
	for dep, d := range svc.DependsOn {
		rec.DependsOn[dep] = d.Condition
	}
	for _, port := range svc.Ports {
		rec.Ports = append(rec.Ports, state.PublishSpec{Port: port, Service: svc.Name})
	}
	rec.Exposed = exposed(svc, img.Config)
	rec.VCPUs, rec.MemoryMiB = s.machineSize(p, svc)
	for _, o := range livingWith(p, svc) {
		rec.KernelArgs = append(rec.KernelArgs, o.Extension.KernelArgs...)
	}
	return rec, nil
}

// exposed are the ports that a service and its image name, as 80/tcp, sorted.
func exposed(svc *spec.Service, img image.Config) []string {
	all := slices.Clone(img.ExposedPorts)
	for _, e := range svc.Expose {
		ports, protocol, ok := strings.Cut(e, "/")
		if !ok {
			protocol = "tcp"
		}
		first, last, ranged := strings.Cut(ports, "-")
		from, err := strconv.ParseUint(first, 10, 16)
		to := from
		if err == nil && ranged {
			to, err = strconv.ParseUint(last, 10, 16)
		}
		if err != nil {
			continue // for people only: nothing depends on it
		}
		for ; from <= to; from++ {
			all = append(all, fmt.Sprintf("%d/%s", from, protocol))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
