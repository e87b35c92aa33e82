package spec

import (
	"fmt"
	"maps"
	"strings"
)

// OneOff says how a one-off replica differs from its service, as the flags of
// run do.
type OneOff struct {
	Command       []string // nil or empty: the service's
	Entrypoint    string   // split at white space; an image's command is dropped with it
	EntrypointSet bool
	Environment   []string // KEY=VALUE
	User          string
	WorkingDir    string
	TTY           bool
	StdinOpen     bool
}

// OneOff returns a copy of a service for one run of a command: no restarts, no
// published ports, no fixed container name or addresses, which its replicas
// hold.
func (p *Project) OneOff(service string, o OneOff) (*Service, error) {
	base, ok := p.Services[service]
	if !ok {
		return nil, fmt.Errorf("no such service: %s", service)
	}
	s := *base
	s.Scale = 1
	s.ContainerName = ""
	s.Ports = nil
	s.Restart = Restart{Policy: "no"}
	s.TTY, s.StdinOpen = o.TTY, o.StdinOpen
	if o.EntrypointSet {
		s.Entrypoint = strings.Fields(o.Entrypoint)
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
	s.Environment = maps.Clone(base.Environment)
	if s.Environment == nil {
		s.Environment = map[string]string{}
	}
	for _, kv := range o.Environment {
		k, v, _ := strings.Cut(kv, "=")
		s.Environment[k] = v
	}
	s.Networks = maps.Clone(base.Networks)
	for key, at := range s.Networks {
		s.Networks[key] = Attachment{Priority: at.Priority, GatewayPriority: at.GatewayPriority, InterfaceName: at.InterfaceName, Aliases: at.Aliases, Pos: at.Pos}
	}
	return &s, nil
}
