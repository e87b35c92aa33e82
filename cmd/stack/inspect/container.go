package inspect

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/spec"
)

// Container is a replica. resolved is what it is made from, the zero value where
// that cannot be read; log is the path of its log, pid its machine's process.
func Container(r *state.Replica, resolved wire.Container, log string, pid int) container.InspectResponse {
	out := container.InspectResponse{
		ID: r.ID, Name: "/" + r.Name, Created: stamp(r.Created), Image: imageID(r.ImageID), LogPath: log,
		Platform: "linux", Driver: "erofs", RestartCount: r.Restarts,
		State:  containerState(r, pid),
		Config: config(r, resolved), HostConfig: hostConfig(r, resolved),
		Mounts: mounts(r), NetworkSettings: networkSettings(r),
	}
	if args := r.Command; len(args) > 0 {
		out.Path, out.Args = args[0], args[1:]
	}
	if out.Args == nil {
		out.Args = []string{}
	}
	return out
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func imageID(id string) string { return "sha256:" + strings.TrimPrefix(id, "sha256:") }

func containerState(r *state.Replica, pid int) *container.State {
	s := &container.State{
		Status: container.ContainerState(r.Status), ExitCode: r.ExitCode, OOMKilled: r.OOM, Error: r.Error,
		StartedAt: stamp(r.Started), FinishedAt: stamp(r.Finished),
	}
	switch r.Status {
	case planner.StatusRunning:
		s.Running, s.Pid = true, pid
	case planner.StatusPaused:
		s.Running, s.Paused, s.Pid = true, true, pid
	case planner.StatusRestarting:
		s.Running, s.Restarting = true, true
	case planner.StatusDead:
		s.Dead = true
	}
	if r.Probed {
		s.Health = &container.Health{Status: container.Starting, Log: []*container.HealthcheckResult{}}
		if r.Status != planner.StatusRunning {
			s.Health.Status = container.Unhealthy
		}
	}
	if h := r.Health; h != nil {
		s.Health = &container.Health{Status: container.HealthStatus(h.Status), FailingStreak: h.FailingStreak, Log: []*container.HealthcheckResult{}}
		if h.FailingStreak > 0 {
			s.Health.Log = append(s.Health.Log, &container.HealthcheckResult{Start: h.At, End: h.At, ExitCode: 1, Output: h.Output})
		}
	}
	return s
}

func config(r *state.Replica, c wire.Container) *container.Config {
	out := &container.Config{
		Hostname: r.Hostname, Domainname: c.Domainname, User: c.User, Tty: r.TTY, OpenStdin: c.Stdin,
		Env: c.Env, Cmd: r.Command, Image: r.Image, WorkingDir: c.WorkingDir, Labels: r.Labels, StopSignal: r.StopSignal,
	}
	for _, e := range r.Exposed {
		if p, err := network.ParsePort(e); err == nil {
			if out.ExposedPorts == nil {
				out.ExposedPorts = network.PortSet{}
			}
			out.ExposedPorts[p] = struct{}{}
		}
	}
	if r.StopGrace != nil {
		seconds := int(*r.StopGrace / time.Second)
		out.StopTimeout = &seconds
	}
	if h := c.Health; h != nil {
		out.Healthcheck = &container.HealthConfig{
			Test: append([]string{"CMD"}, h.Test...), Interval: h.Interval, Timeout: h.Timeout,
			StartPeriod: h.StartPeriod, StartInterval: h.StartInterval, Retries: h.Retries,
		}
	}
	return out
}

func hostConfig(r *state.Replica, c wire.Container) *container.HostConfig {
	init := c.Init
	out := &container.HostConfig{
		LogConfig:     container.LogConfig{Type: cmp.Or(r.Logging.Driver, "json-file"), Config: r.Logging.Options},
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyMode(cmp.Or(r.Restart.Policy, "no")), MaximumRetryCount: r.Restart.Max},
		AutoRemove:    r.AutoRemove, CapAdd: c.CapAdd, CapDrop: c.CapDrop, GroupAdd: c.Groups, OomScoreAdj: c.OOMScoreAdj,
		Privileged: c.Privileged, ReadonlyRootfs: c.ReadOnlyRoot, Sysctls: c.Sysctls, Init: &init,
		ShmSize: cmp.Or(c.ShmSize, 64<<20), PortBindings: network.PortMap{},
		Annotations: r.Annotations,
		DNSOptions:  c.DNS.Options, DNSSearch: c.DNS.Search, Runtime: "stack",
		NetworkMode: container.NetworkMode(cmp.Or(r.NetworkMode, firstNetwork(r), "none")),
	}
	for _, s := range c.DNS.Servers {
		if a, err := netip.ParseAddr(s); err == nil {
			out.DNS = append(out.DNS, a)
		}
	}
	for _, h := range c.Hosts {
		for _, name := range h.Names {
			out.ExtraHosts = append(out.ExtraHosts, name+":"+h.Addr)
		}
	}
	if c.NoNewPrivs {
		out.SecurityOpt = append(out.SecurityOpt, "no-new-privileges")
	}
	if c.Seccomp == "unconfined" {
		out.SecurityOpt = append(out.SecurityOpt, "seccomp=unconfined")
	}
	l := c.Limits
	out.Resources = container.Resources{
		NanoCPUs: int64(l.CPUs * 1e9), CPUShares: l.CPUShares, CpusetCpus: l.CPUSet,
		Memory: l.MemoryBytes, MemoryReservation: l.MemoryReservation, MemorySwap: l.SwapBytes,
	}
	if l.PIDs != 0 {
		out.PidsLimit = &l.PIDs
	}
	for _, p := range r.Ports {
		port, ok := network.PortFrom(p.Target, network.IPProtocol(p.Protocol))
		if !ok {
			continue
		}
		host := ""
		if p.Published != 0 {
			host = strconv.Itoa(int(p.Published))
		}
		out.PortBindings[port] = append(out.PortBindings[port], network.PortBinding{HostIP: p.HostIP, HostPort: host})
	}
	for _, m := range r.Mounts {
		source := cmp.Or(m.Volume, m.Source)
		switch {
		case m.Type == spec.MountTmpfs:
			if out.Tmpfs == nil {
				out.Tmpfs = map[string]string{}
			}
			out.Tmpfs[m.Target] = ""
		case !m.Anonymous && m.Type != spec.MountImage:
			mode := "rw"
			if m.ReadOnly {
				mode = "ro"
			}
			out.Binds = append(out.Binds, source+":"+m.Target+":"+mode)
		}
	}
	return out
}

func firstNetwork(r *state.Replica) string {
	if len(r.Endpoints) == 0 {
		return ""
	}
	return r.Endpoints[0].Network
}

func mounts(r *state.Replica) []container.MountPoint {
	out := []container.MountPoint{}
	for _, m := range r.Mounts {
		p := container.MountPoint{Type: mount.Type(m.Type), Name: m.Volume, Source: m.Source, Destination: m.Target, RW: !m.ReadOnly}
		switch m.Type {
		case spec.MountTmpfs:
			continue // docker has those in HostConfig
		case spec.MountVolume:
			p.Driver = "local"
		case spec.MountSocket:
			p.Type = mount.TypeBind
			p.Propagation = "rprivate"
		case spec.MountBind:
			p.Propagation = "rprivate"
		}
		out = append(out, p)
	}
	return out
}

func networkSettings(r *state.Replica) *container.NetworkSettings {
	out := &container.NetworkSettings{Ports: network.PortMap{}, Networks: map[string]*network.EndpointSettings{}}
	running := r.Status == planner.StatusRunning || r.Status == planner.StatusPaused
	if running {
		for _, e := range r.Exposed {
			if p, err := network.ParsePort(e); err == nil {
				out.Ports[p] = nil
			}
		}
		for _, p := range r.Published {
			port, ok := network.PortFrom(p.Target, network.IPProtocol(p.Protocol))
			ip, err := netip.ParseAddr(p.HostIP)
			if ok && err == nil {
				out.Ports[port] = append(out.Ports[port], network.PortBinding{HostIP: ip, HostPort: strconv.Itoa(int(p.HostPort))})
			}
		}
	}
	for _, e := range r.Endpoints {
		s := &network.EndpointSettings{NetworkID: e.NetworkID, Aliases: slices.Clone(e.Aliases), DNSNames: slices.Clone(e.Aliases)}
		_ = s.MacAddress.UnmarshalText([]byte(e.MAC)) // what cannot be read is not shown
		for _, a := range e.Addrs {
			if a.Addr().Is4() {
				s.IPAddress, s.IPPrefixLen = a.Addr(), a.Bits()
			} else {
				s.GlobalIPv6Address, s.GlobalIPv6PrefixLen = a.Addr(), a.Bits()
			}
		}
		out.Networks[e.Network] = s
	}
	return out
}
