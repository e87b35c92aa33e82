package spec

import (
	"maps"
	"slices"
)

// Redact returns a copy without what may be secret: the contents of secrets and
// configs, and the values of environment variables. It is for whatever is
// printed, logged or kept; hashes stay.
func (p *Project) Redact() *Project {
	out := *p
	out.Secrets, out.Configs = redactFiles(p.Secrets), redactFiles(p.Configs)
	out.Services = maps.Clone(p.Services)
	for name, s := range out.Services {
		c := *s
		c.Environment = redactEnvironment(s.Environment)
		c.PostStart, c.PreStop = redactHooks(s.PostStart), redactHooks(s.PreStop)
		c.PreStart = slices.Clone(s.PreStart)
		for i, h := range c.PreStart {
			container := *h.Container
			container.Environment = redactEnvironment(container.Environment)
			c.PreStart[i].Container = &container
		}
		if s.Provider != nil {
			c.Provider = &Provider{Type: s.Provider.Type}
		}
		out.Services[name] = &c
	}
	return &out
}

func redactEnvironment(in map[string]string) map[string]string {
	out := maps.Clone(in)
	for k := range out {
		out[k] = redacted
	}
	return out
}

func redactHooks(in []Hook) []Hook {
	out := slices.Clone(in)
	for i := range out {
		out[i].Environment = redactEnvironment(out[i].Environment)
	}
	return out
}

const redacted = "(redacted)"

func redactFiles(in map[string]*Config) map[string]*Config {
	out := maps.Clone(in)
	for k, f := range out {
		c := *f
		c.Content = nil
		out[k] = &c
	}
	return out
}
