package spec

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
)

// keepForHooks puts back what a project had that only pre_start hooks use:
// compose-go looks at the services alone.
func keepForHooks(p, all *types.Project) {
	for _, s := range p.Services {
		for _, h := range s.PreStart {
			for _, v := range h.Volumes {
				if got, ok := all.Volumes[v.Source]; ok && v.Type == types.VolumeTypeVolume {
					p.Volumes[v.Source] = got
				}
			}
			for _, f := range h.Configs {
				if got, ok := all.Configs[f.Source]; ok {
					p.Configs[f.Source] = got
				}
			}
			for _, f := range h.Secrets {
				if got, ok := all.Secrets[f.Source]; ok {
					p.Secrets[f.Source] = got
				}
			}
		}
	}
}

// preStarts reads the pre_start hooks. compose-go has completed each with what its
// service says, so each is converted as a service of that name; what is wrong with
// the service is reported there.
func (c *converter) preStarts() {
	for _, name := range sortedKeys(c.src.Services) {
		s := c.out.Services[name]
		for i, h := range c.src.Services[name].PreStart {
			in := types.ServiceConfig{Name: name, ContainerSpec: h.ContainerSpec}
			if in.Image == "" { // of a service that is built
				in.Image = s.Image
			}
			sub := c.hookConverter(name, i)
			container := sub.service(name, in)
			container.Build = s.Build && container.Image == s.Image
			sub.references(h.ContainerSpec, name)
			c.takeFaults(sub)
			s.PreStart = append(s.PreStart, PreStart{Container: container, PerReplica: h.PerReplica})
		}
	}
}

// hookConverter converts a hook as if it were its service.
func (c *converter) hookConverter(service string, i int) *converter {
	return &converter{
		loading: c.loading, x: c.x.as([]string{"services", service, "pre_start", strconv.Itoa(i)}, "services", service),
		hook: true, src: c.src, out: c.out, wrong: c.wrong,
	}
}

// references reports what a hook mounts and the file does not declare.
func (c *converter) references(h types.ContainerSpec, service string) {
	undefined := func(kind, at, what, source string) {
		c.fault([]string{"services", service, kind, "@" + at}, "", "service %q refers to undefined %s %s", service, what, source)
	}
	for _, v := range h.Volumes {
		if _, ok := c.src.Volumes[v.Source]; !ok && v.Type == types.VolumeTypeVolume && v.Source != "" {
			undefined("volumes", v.Target, "volume", v.Source)
		}
	}
	for _, f := range h.Configs {
		if _, ok := c.src.Configs[f.Source]; !ok {
			undefined("configs", f.Source, "config", f.Source)
		}
	}
	for _, f := range h.Secrets {
		if _, ok := c.src.Secrets[f.Source]; !ok {
			undefined("secrets", f.Source, "secret", f.Source)
		}
	}
}

// takeFaults adds those of a hook that its service does not have itself.
func (c *converter) takeFaults(hook *converter) {
	for _, f := range hook.faults {
		if !slices.ContainsFunc(c.faults, func(o *Error) bool { return o.Err.Error() == f.Err.Error() }) {
			c.faults = append(c.faults, f)
		}
	}
}

// settlePreStarts gives hooks what is their service's, once that is settled.
func (c *converter) settlePreStarts() {
	for _, s := range c.out.Services {
		for _, h := range s.PreStart {
			o := h.Container
			o.NetworkMode, o.IPC, o.PID, o.Networks = s.NetworkMode, s.IPC, s.PID, s.Networks
		}
	}
}

// as returns an index in which what is written below one path stands below
// another, in place of all that does.
func (x *index) as(from []string, to ...string) *index {
	source, target := join(from...), join(to...)
	view := *x
	view.at = maps.Clone(x.at)
	maps.DeleteFunc(view.at, func(p string, _ entry) bool { return p == target || strings.HasPrefix(p, target+pathSep) })
	for p, e := range x.at {
		if rest, ok := strings.CutPrefix(p, source); ok && (rest == "" || strings.HasPrefix(rest, pathSep)) {
			view.at[target+rest] = e
		}
	}
	return &view
}
