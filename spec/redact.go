package spec

import "maps"

// Redact returns a copy without what may be secret: the contents of secrets and
// configs, and the values of environment variables. It is for whatever is
// printed, logged or kept; hashes stay.
func (p *Project) Redact() *Project {
	out := *p
	out.Secrets, out.Configs = redactFiles(p.Secrets), redactFiles(p.Configs)
	out.Services = maps.Clone(p.Services)
	for name, s := range out.Services {
		c := *s
		if len(s.Environment) > 0 {
			c.Environment = map[string]string{}
			for k := range s.Environment {
				c.Environment[k] = redacted
			}
		}
		out.Services[name] = &c
	}
	return &out
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
