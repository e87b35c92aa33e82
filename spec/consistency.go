package spec

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
)

// consistency reports every contradiction of a project that loads by itself: the
// rules and words are compose-go's (loader, checkConsistency), which stops at
// the first and has no places.
func (d *diagnosis) consistency(p *types.Project) {
	for _, name := range sortedKeys(p.Services) {
		s := p.Services[name]
		bad := func(at []string, format string, args ...any) {
			d.faults.add(d.x.find(append([]string{"services", name}, at...)...), fmt.Errorf(format, args...))
		}
		if s.Build == nil && s.Image == "" && s.Provider == nil {
			bad([]string{"image"}, "service %q has neither an image nor a build context specified", name)
		}
		d.buildConsistency(p, s, bad)
		if s.NetworkMode != "" && len(s.Networks) > 0 {
			bad([]string{"network_mode"}, "service %s declares mutually exclusive `network_mode` and `networks`", name)
		}
		for _, n := range sortedKeys(s.Networks) {
			if _, ok := p.Networks[n]; !ok {
				bad([]string{"networks", n}, "service %q refers to undefined network %s", name, n)
			}
		}
		if h := s.HealthCheck; h != nil && len(h.Test) > 0 && !slices.Contains([]string{"CMD", "CMD-SHELL", "NONE"}, h.Test[0]) {
			bad([]string{"healthcheck", "test"}, `healthcheck.test must start either by "CMD", "CMD-SHELL" or "NONE"`)
		}
		for _, dep := range sortedKeys(s.DependsOn) {
			_, ok := p.Services[dep]
			if _, off := p.DisabledServices[dep]; !ok && !(off && !s.DependsOn[dep].Required) {
				bad([]string{"depends_on", dep}, "service %q depends on undefined service %q", name, dep)
			}
		}
		if shared, ok := strings.CutPrefix(s.NetworkMode, types.ServicePrefix); ok {
			if _, ok := p.Services[shared]; !ok {
				bad([]string{"network_mode"}, "service %q not found for network_mode 'service:%s'", shared, shared)
			}
		}
		for _, v := range s.Volumes {
			if _, ok := p.Volumes[v.Source]; !ok && v.Type == types.VolumeTypeVolume && v.Source != "" {
				bad([]string{"volumes", "@" + path.Clean(v.Target)}, "service %q refers to undefined volume %s", name, v.Source)
			}
		}
		for _, c := range s.Configs {
			if _, ok := p.Configs[c.Source]; !ok {
				bad([]string{"configs", "@" + c.Source}, "service %q refers to undefined config %s", name, c.Source)
			}
		}
		for _, c := range s.Secrets {
			if _, ok := p.Secrets[c.Source]; !ok {
				bad([]string{"secrets", "@" + c.Source}, "service %q refers to undefined secret %s", name, c.Source)
			}
		}
		for _, m := range sortedKeys(s.Models) {
			if _, ok := p.Models[m]; !ok {
				bad([]string{"models", m}, "service %q refers to undefined model %s", name, m)
			}
		}
		d.scaleConsistency(s, bad)
		d.mountConsistency(s, bad)
	}
	d.containerNames(p)
	for _, name := range sortedKeys(p.Secrets) {
		if s := p.Secrets[name]; !bool(s.External) && s.File == "" && s.Environment == "" {
			d.faults.add(d.x.find("secrets", name), fmt.Errorf("secret %q must declare either `file` or `environment`", name))
		}
	}
	d.cycle(p)
}

// containerNames reports the names that two services want.
func (d *diagnosis) containerNames(p *types.Project) {
	used := map[string]string{}
	for _, name := range sortedKeys(p.Services) {
		cn := p.Services[name].ContainerName
		if by, ok := used[cn]; ok && cn != "" {
			d.faults.add(d.x.find("services", name, "container_name"),
				fmt.Errorf("services.%s: container name %q is already in use by service %s", name, cn, by))
		}
		used[cn] = name
	}
}

func (d *diagnosis) buildConsistency(p *types.Project, s types.ServiceConfig, bad func([]string, string, ...any)) {
	b := s.Build
	if b == nil {
		return
	}
	if b.DockerfileInline != "" && b.Dockerfile != "" {
		bad([]string{"build", "dockerfile_inline"}, "service %q declares mutualy exclusive dockerfile and dockerfile_inline", s.Name)
	}
	for _, add := range sortedKeys(b.AdditionalContexts) {
		target, ok := strings.CutPrefix(b.AdditionalContexts[add], types.ServicePrefix)
		if !ok {
			continue
		}
		t, ok := p.AllServices()[target]
		switch {
		case !ok:
			bad([]string{"build", "additional_contexts", add}, "service %q declares unknown service %q as additional contexts %s", s.Name, target, add)
		case t.Build == nil:
			bad([]string{"build", "additional_contexts", add}, "service %q declares non-buildable service %q as additional contexts %s", s.Name, target, add)
		}
	}
	if len(b.Platforms) > 0 && s.Platform != "" && !slices.Contains(b.Platforms, s.Platform) {
		bad([]string{"platform"}, "service.build.platforms MUST include service.platform %q", s.Platform)
	}
	for _, c := range b.Secrets {
		if _, ok := p.Secrets[c.Source]; !ok {
			bad([]string{"build", "secrets", "@" + c.Source}, "service %q refers to undefined build secret %s", s.Name, c.Source)
		}
	}
}

func (d *diagnosis) scaleConsistency(s types.ServiceConfig, bad func([]string, string, ...any)) {
	if s.Scale != nil && *s.Scale < 0 {
		bad([]string{"scale"}, "services.%s.scale: must be greater than or equal to 0", s.Name)
	}
	if s.GetScale() > 1 && s.ContainerName != "" {
		bad([]string{"container_name"}, "services.%s: can't set container_name and scale as container name must be unique", s.Name)
	}
	if s.Deploy == nil {
		return
	}
	if r := s.Deploy.Replicas; r != nil {
		if *r < 0 {
			bad([]string{"deploy", "replicas"}, "services.%s.deploy.replicas: must be greater than or equal to 0", s.Name)
		}
		if s.Scale != nil && *s.Scale != *r {
			bad([]string{"scale"}, "services.%s: can't set distinct values on 'scale' and 'deploy.replicas'", s.Name)
		}
	}
	twice := func(own, deploy string) {
		bad([]string{own}, "services.%s: can't set distinct values on '%s' and 'deploy.resources.%s'", s.Name, own, deploy)
	}
	if l := s.Deploy.Resources.Limits; l != nil {
		if s.CPUS != 0 && l.NanoCPUs.Value() != s.CPUS {
			twice("cpus", "limits.cpus")
		}
		if s.MemLimit != 0 && l.MemoryBytes != s.MemLimit {
			twice("mem_limit", "limits.memory")
		}
		if s.PidsLimit != 0 && l.Pids != s.PidsLimit {
			twice("pids_limit", "limits.pids")
		}
	}
	if r := s.Deploy.Resources.Reservations; r != nil && s.MemReservation != 0 && r.MemoryBytes != s.MemReservation {
		twice("mem_reservation", "reservations.memory")
	}
}

func (d *diagnosis) mountConsistency(s types.ServiceConfig, bad func([]string, string, ...any)) {
	mounts := map[string]string{}
	add := func(at []string, loc, target string) {
		if p, ok := mounts[target]; ok {
			bad(at, "%s: target %s already mounted as %s", loc, target, p)
		}
		mounts[target] = loc
	}
	for i, t := range s.Tmpfs {
		target, _, _ := strings.Cut(t, ":")
		add([]string{"tmpfs", strconv.Itoa(i)}, fmt.Sprintf("services.%s.tmpfs[%d]", s.Name, i), target)
	}
	for i, v := range s.Volumes {
		add([]string{"volumes", strconv.Itoa(i)}, fmt.Sprintf("services.%s.volumes[%d]", s.Name, i), v.Target)
	}
	if s.Develop == nil {
		return
	}
	for i, w := range s.Develop.Watch {
		if w.Target == "" && w.Action != types.WatchActionRebuild && w.Action != types.WatchActionRestart {
			bad([]string{"develop", "watch", strconv.Itoa(i)}, "services.%s.develop.watch: target is required for non-rebuild actions", s.Name)
		}
	}
}

// cycle reports the services of one dependency cycle, at the first edge of it.
func (d *diagnosis) cycle(p *types.Project) {
	state := map[string]int{} // 1: on the path, 2: done
	var trail []string
	var visit func(string) bool
	visit = func(name string) bool {
		switch state[name] {
		case 1:
			c := append(slices.Clone(trail[slices.Index(trail, name):]), name)
			d.faults.add(d.x.find("services", c[0], "depends_on", c[1]), errors.New("dependency cycle detected: "+strings.Join(c, " -> ")))
			return true
		case 2:
			return false
		}
		state[name], trail = 1, append(trail, name)
		for _, dep := range sortedKeys(p.Services[name].DependsOn) {
			if visit(dep) {
				return true
			}
		}
		state[name], trail = 2, trail[:len(trail)-1]
		return false
	}
	for _, name := range sortedKeys(p.Services) {
		if visit(name) {
			return
		}
	}
}
