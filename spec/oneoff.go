package spec

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/format"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/mattn/go-shellwords"
)

// OneOff says how a one-off replica differs from its service, as the flags of
// run do.
type OneOff struct {
	Command       []string // nil or empty: the service's
	Entrypoint    string   // split as a shell would; an image's command is dropped with it
	EntrypointSet bool
	Environment   []string // KEY=VALUE
	EnvFiles      []string // their variables come after the service's and before Environment
	Labels        []string // KEY=VALUE
	User          string
	WorkingDir    string
	TTY           bool
	StdinOpen     bool
	CapAdd        []string
	CapDrop       []string
	Ports         bool     // publish the service's ports
	Publish       []string // ports, as in the short form of the compose file
	Volumes       []string // more mounts, in the short form; relative paths start from the working directory
}

// OneOff returns a copy of a service for one run of a command: no restarts, no
// fixed container name or addresses, which its replicas hold, and no published
// ports that were not asked for. The project returned is p, with the volumes that
// OneOff names beside its own.
func (p *Project) OneOff(service string, o OneOff) (*Project, *Service, error) {
	base, ok := p.Services[service]
	if !ok {
		return nil, nil, fmt.Errorf("no such service: %s", service)
	}
	s := *base
	s.Scale = 1
	s.ContainerName = ""
	s.Restart = Restart{Policy: "no"}
	s.PreStart = nil // as with compose: they go before the service, not before any command
	s.TTY, s.StdinOpen = o.TTY, o.StdinOpen
	if o.EntrypointSet {
		words, err := shellwords.Parse(o.Entrypoint)
		if err != nil {
			return nil, nil, fmt.Errorf("--entrypoint %q: %w", o.Entrypoint, err)
		}
		s.Entrypoint = append([]string{}, words...)
		s.Command = []string{}
	}
	if len(o.Command) > 0 {
		s.Command = o.Command
	}
	if o.User != "" {
		s.User = o.User
	}
	if o.WorkingDir != "" {
		s.WorkingDir = o.WorkingDir
	}
	s.CapAdd, s.CapDrop = moved(base.CapAdd, base.CapDrop, o.CapAdd)
	s.CapDrop, s.CapAdd = moved(s.CapDrop, s.CapAdd, o.CapDrop)
	if err := o.environment(&s); err != nil {
		return nil, nil, err
	}
	s.Labels = copyOf(base.Labels)
	for _, l := range o.Labels {
		k, v, ok := strings.Cut(l, "=")
		if !ok {
			return nil, nil, fmt.Errorf("label must be set as KEY=VALUE: %q", l)
		}
		s.Labels[k] = v
	}
	s.Networks = maps.Clone(base.Networks)
	for key, at := range s.Networks {
		s.Networks[key] = Attachment{Priority: at.Priority, GatewayPriority: at.GatewayPriority, InterfaceName: at.InterfaceName, Aliases: at.Aliases, Pos: at.Pos}
	}
	with, err := p.withFlags(&s, o)
	return with, &s, err
}

// moved adds to one list and takes from the other what was added.
func moved(to, from, added []string) (newTo, newFrom []string) {
	if len(added) == 0 {
		return to, from
	}
	return append(slices.Clone(to), added...), slices.DeleteFunc(slices.Clone(from), func(c string) bool { return slices.Contains(added, c) })
}

func copyOf(m map[string]string) map[string]string {
	c := maps.Clone(m)
	if c == nil {
		c = map[string]string{}
	}
	return c
}

func (o OneOff) environment(s *Service) error {
	given := map[string]string{}
	for _, kv := range o.Environment {
		k, v, _ := strings.Cut(kv, "=")
		given[k] = v
	}
	s.Environment = copyOf(s.Environment)
	for _, name := range o.EnvFiles {
		f, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("--env-from-file: %w", err)
		}
		vars, err := dotenv.ParseWithLookup(f, func(k string) (string, bool) {
			v, ok := given[k]
			return v, ok
		})
		f.Close()
		if err != nil {
			return fmt.Errorf("--env-from-file %s: %w", name, err)
		}
		maps.Copy(s.Environment, vars)
	}
	maps.Copy(s.Environment, given)
	return nil
}

// withFlags gives s the ports and mounts of flags. They are read and checked as
// those of a file are.
func (p *Project) withFlags(s *Service, o OneOff) (*Project, error) {
	c := &converter{loading: &loading{}, x: &index{}, src: &types.Project{}}
	if !o.Ports {
		s.Ports = nil
		s.PostStart, s.PreStop = nil, nil
	}
	if len(o.Publish) > 0 {
		s.Ports = nil
	}
	for _, text := range o.Publish {
		ports, err := types.ParsePortConfig(text)
		if err != nil {
			return nil, fmt.Errorf("--publish %q: %w", text, err)
		}
		c.ports(s, ports)
	}
	var in types.ServiceConfig
	for _, text := range o.Volumes {
		v, err := format.ParseVolume(text)
		if err == nil && v.Type == types.VolumeTypeBind {
			v.Source, err = hostPath(v.Source)
		}
		if err != nil {
			return nil, fmt.Errorf("--volume %q: %w", text, err)
		}
		in.Volumes = append(in.Volumes, v)
	}
	s.Mounts = slices.Clone(s.Mounts)
	for _, v := range in.Volumes { // a flag's mount replaces the service's in its place
		s.Mounts = slices.DeleteFunc(s.Mounts, func(m Mount) bool { return m.Target == v.Target })
	}
	c.mounts(s, in)
	if err := c.faults.err(); err != nil {
		return nil, err
	}
	with := *p
	with.Volumes = maps.Clone(p.Volumes)
	for _, v := range in.Volumes {
		if v.Type != types.VolumeTypeVolume || v.Source == "" || with.Volumes[v.Source] != nil {
			continue
		}
		if !objectNames.MatchString(v.Source) {
			return nil, fmt.Errorf("--volume: %q is no name of a volume", v.Source)
		}
		if with.Volumes == nil {
			with.Volumes = map[string]*Volume{}
		}
		with.Volumes[v.Source] = &Volume{Name: v.Source} // without a key: not the project's
	}
	return &with, nil
}

// hostPath is a path of the host as a shell would have it.
func hostPath(p string) (string, error) {
	if rest, ok := strings.CutPrefix(p, "~/"); ok || p == "~" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		return filepath.Join(home, rest), nil
	}
	return filepath.Abs(p)
}
