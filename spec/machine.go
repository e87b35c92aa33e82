package spec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
)

// Machine says in which machine the replicas of a service live, when that is not
// one of their own. Namespaces and file systems are shared between containers of
// one kernel only, so services that share any of them share a machine.
type Machine struct {
	// Host is the service whose first replica's machine it is: of the services
	// that share it, one that depends on none of the others.
	Host string `json:"host,omitempty"`
	// Services are all that live in it, sorted, the host included.
	Services []string `json:"services,omitempty"`
	// All: the host's other replicas live in it too (x-stack.machine).
	All bool `json:"all,omitempty"`
	// Container is one of another project, by its name, in whose machine the
	// service lives; Host is empty then.
	Container string `json:"container,omitempty"`
	Pos       Pos    `json:"pos,omitzero"` // of the key that asks for it first
}

// Shared tells whether a service's replicas live in the machine of the first
// replica of another service, or of its own.
func (s *Service) Shared() bool {
	return s.Machine != nil && (s.Machine.Container != "" || s.Machine.Host != s.Name || s.Machine.All)
}

// VolumesFrom is one entry of volumes_from: the mounts of a service's first
// replica, or of a container.
type VolumesFrom struct {
	Service   string `json:"service,omitempty"`
	Container string `json:"container,omitempty"`
	ReadOnly  bool   `json:"readOnly,omitempty"`
}

// Reference splits a namespace's value: "service:db" names a service,
// "container:x" a container; others neither.
func Reference(mode string) (service, container string) {
	if name, ok := strings.CutPrefix(mode, types.ServicePrefix); ok {
		return name, ""
	}
	if name, ok := strings.CutPrefix(mode, types.ContainerPrefix); ok {
		return "", name
	}
	return "", ""
}

// tie is one reason why a service lives in another's machine.
type tie struct {
	service, container string
	pos                Pos
}

// machines finds out which services share a machine.
func (c *converter) machines() {
	containers := map[string]string{} // name -> service: a container of this project is a service's
	for _, name := range sortedKeys(c.out.Services) {
		s := c.out.Services[name]
		containers[first(s.ContainerName, c.out.Name+"-"+name+"-1")] = name
	}
	ties := map[string][]tie{}
	named := map[string][]string{} // x-stack.machine -> services
	for _, name := range sortedKeys(c.out.Services) {
		s := c.out.Services[name]
		ties[name] = c.ties(s, containers)
		if m := s.Extension.Machine; m != "" {
			named[m] = append(named[m], name)
		}
	}
	group := map[string]string{} // union-find over services
	var find func(string) string
	find = func(name string) string {
		if group[name] == "" || group[name] == name {
			return name
		}
		group[name] = find(group[name])
		return group[name]
	}
	for _, name := range sortedKeys(ties) {
		for _, j := range ties[name] {
			if j.service != "" {
				group[find(name)] = find(j.service)
			}
		}
	}
	all := map[string]bool{}
	for _, m := range sortedKeys(named) {
		for _, name := range named[m] {
			group[find(name)] = find(named[m][0])
		}
	}
	for _, services := range named {
		all[find(services[0])] = true
	}
	members := map[string][]string{}
	for _, name := range c.dependencyOrder() {
		members[find(name)] = append(members[find(name)], name)
	}
	for _, of := range sortedKeys(members) {
		c.machine(members[of], all[of], ties)
	}
}

// machine settles one group, which is in the order of dependencies.
func (c *converter) machine(services []string, all bool, ties map[string][]tie) {
	m := Machine{Host: services[0], All: all, Services: slices.Sorted(slices.Values(services))}
	for _, name := range services {
		for _, j := range ties[name] {
			m.Pos = first(m.Pos, j.pos)
			switch {
			case j.container == "":
			case m.Container != "" && m.Container != j.container:
				c.faults = append(c.faults, &Error{Pos: j.pos, Err: fmt.Errorf("service %q would have to be in the machines of two containers, %s and %s", name, m.Container, j.container)})
			default:
				m.Container, m.Host, m.All = j.container, "", false
			}
		}
		if s := c.out.Services[name]; s.Extension.Machine != "" {
			m.Pos = first(m.Pos, c.x.find("services", name, extensionKey, "machine"))
		}
	}
	if len(services) == 1 && !all && m.Container == "" {
		return
	}
	for _, name := range services {
		s, own := c.out.Services[name], m
		s.Machine = &own
		if m.Host == "" || name == m.Host {
			continue
		}
		s.after(m.Host)
	}
	if m.Host != "" && c.out.Services[m.Host].Scale == 0 {
		c.faults = append(c.faults, &Error{
			Pos: first(m.Pos, c.out.Services[m.Host].Pos), Hint: "scale it to 1 at least",
			Err: fmt.Errorf("service %q has no replica, whose machine %s would share", m.Host, strings.Join(services[1:], ", ")),
		})
	}
}

// after has a service start after another, whose machine or namespace it needs,
// unless that is so already.
func (s *Service) after(other string) {
	if _, ok := s.DependsOn[other]; ok || other == "" {
		return
	}
	if s.DependsOn == nil {
		s.DependsOn = map[string]Dependency{}
	}
	s.DependsOn[other] = Dependency{Condition: ConditionStarted, Restart: true, Required: true}
}

// ties are the reasons why a service lives in another's machine, and settle its
// namespaces: a container of this project becomes the service whose it is.
func (c *converter) ties(s *Service, containers map[string]string) []tie {
	var out []tie
	for _, ns := range []struct {
		key   string
		value *string
	}{{"network_mode", &s.NetworkMode}, {"ipc", &s.IPC}, {"pid", &s.PID}} {
		at := []string{"services", s.Name, ns.key}
		service, container := Reference(*ns.value)
		if of := containers[container]; of != "" {
			service, container = of, ""
			*ns.value = types.ServicePrefix + of
		}
		switch {
		case service == "" && container == "":
			c.namespace(at, s, ns.value)
			continue
		case service == s.Name:
			c.fault(at, "", "service %q: %s: a service cannot share its own", s.Name, ns.key)
			continue
		case service != "" && c.out.Services[service] == nil:
			c.fault(at, "", "service %q: %s: there is no service %q in this run", s.Name, ns.key, service)
			continue
		}
		out = append(out, tie{service, container, c.x.find(at...)})
		s.after(service)
	}
	for i, v := range c.src.Services[s.Name].VolumesFrom {
		at := []string{"services", s.Name, "volumes_from", strconv.Itoa(i)}
		from, err := parseVolumesFrom(v)
		if of := containers[from.Container]; of != "" {
			from.Service, from.Container = of, ""
		}
		switch {
		case err != nil:
			c.fault(at, "write it like SERVICE:ro or container:NAME:ro", "service %q: volumes_from %q: %w", s.Name, v, err)
			continue
		case from.Service == s.Name:
			c.fault(at, "", "service %q: volumes_from: a service cannot name itself", s.Name)
			continue
		case from.Service != "" && c.out.Services[from.Service] == nil:
			c.fault(at, "", "service %q: volumes_from: there is no service %q in this run", s.Name, from.Service)
			continue
		}
		s.VolumesFrom = append(s.VolumesFrom, from)
		out = append(out, tie{from.Service, from.Container, c.x.find(at...)})
		s.after(from.Service)
	}
	if service, container := Reference(s.NetworkMode); service+container != "" {
		c.sharedNetwork(s)
	}
	return out
}

// namespace settles a namespace that is shared with no container. Its host is
// the machine, which is the service's own: nothing is to be seen there.
func (c *converter) namespace(at []string, s *Service, value *string) {
	key := at[2]
	switch v := *value; {
	case v == "" || v == "private" || v == "none" && key != "pid" || v == "shareable" && key == "ipc" || v == "bridge" && key == "network_mode":
	case v == "host" && key == "network_mode":
		c.hostNetwork(at, s)
	case v == "host":
		c.ignored(at, key+": host", "the service's host is its machine, where nothing else runs")
		*value = ""
	default:
		c.fault(at, "", "service %q: %s: %q is not supported", s.Name, key, v)
	}
}

// hostNetwork says how a machine's network that stands for the host's differs, and
// refuses what docker refuses beside it.
func (c *converter) hostNetwork(at []string, s *Service) {
	c.warn(Warning{Pos: c.x.find(at...), Key: strings.Join(at, "."), Text: "network_mode: host is a network of the machine's own: " +
		"what the service listens on is opened on the host, whose own loopback it reaches as host.docker.internal; the host's interfaces are not to be seen"})
	in := c.src.Services[s.Name]
	if len(in.Ports) > 0 {
		ports := []string{"services", s.Name, "ports"}
		c.warn(Warning{Pos: c.x.find(ports...), Key: strings.Join(ports, "."), Text: "Published ports are discarded when using host network mode"})
		s.Ports = nil
	}
	if len(in.Links) > 0 {
		c.fault([]string{"services", s.Name, "links"}, "", "service %q: conflicting options: host type networking can't be used with links", s.Name)
	}
	if in.MacAddress != "" {
		c.fault([]string{"services", s.Name, "mac_address"}, "", "service %q: conflicting options: mac-address and the network mode", s.Name)
	}
}

// sharedNetwork refuses what docker refuses of a container that has another's
// network.
func (c *converter) sharedNetwork(s *Service) {
	in := c.src.Services[s.Name]
	for _, bad := range []struct {
		key  string
		set  bool
		what string // in docker's words
	}{
		{"ports", len(in.Ports) > 0, "port publishing and the container type network mode"},
		{"expose", len(in.Expose) > 0, "port exposing and the container type network mode"},
		{"hostname", in.Hostname != "", "hostname and the network mode"},
		{"links", len(in.Links) > 0, "container type network can't be used with links"},
		{"external_links", len(in.ExternalLinks) > 0, "container type network can't be used with links"},
		{"dns", len(in.DNS) > 0, "dns and the network mode"},
		{"extra_hosts", len(in.ExtraHosts) > 0, "custom host-to-IP mapping and the network mode"},
		{"mac_address", in.MacAddress != "", "mac-address and the network mode"},
	} {
		if bad.set {
			c.fault([]string{"services", s.Name, bad.key}, "its network is that of "+s.NetworkMode+": set it there", "service %q: conflicting options: %s", s.Name, bad.what)
		}
	}
}

// parseVolumesFrom reads SERVICE[:ro|rw] or container:NAME[:ro|rw].
func parseVolumesFrom(v string) (VolumesFrom, error) {
	parts := strings.Split(v, ":")
	var from VolumesFrom
	if parts[0] == "container" && len(parts) > 1 {
		from.Container, parts = parts[1], parts[1:]
	} else {
		from.Service = parts[0]
	}
	switch {
	case from.Service+from.Container == "" || len(parts) > 2:
		return from, fmt.Errorf("not a service or container")
	case len(parts) == 2 && parts[1] != "ro" && parts[1] != "rw":
		return from, fmt.Errorf("%q is neither ro nor rw", parts[1])
	}
	from.ReadOnly = len(parts) == 2 && parts[1] == "ro"
	return from, nil
}

// dependencyOrder lists the services, each after those it depends on, by name
// where that leaves a choice. What is in a cycle is reported elsewhere.
func (c *converter) dependencyOrder() []string {
	var out []string
	seen := map[string]bool{}
	var visit func(string)
	visit = func(name string) {
		s := c.out.Services[name]
		if s == nil || seen[name] {
			return
		}
		seen[name] = true
		for _, dep := range sortedKeys(s.DependsOn) {
			visit(dep)
		}
		out = append(out, name)
	}
	for _, name := range sortedKeys(c.out.Services) {
		visit(name)
	}
	return out
}
