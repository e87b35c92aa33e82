package spec

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"reflect"
	"strings"
)

// hash fills the hashes and aspects of everything. Every digest is keyed, so
// that it tells nothing about the value to whoever lacks the key, and truncated
// where it only has to say "changed".
func (c *converter) hash() {
	d := digester(c.opt.HashKey)
	for _, n := range c.out.Networks {
		n.Hash = d.sum(networkShape{n.Name, n.Internal, n.IPv4, n.IPv6, n.MTU, n.Pools, n.Labels, n.Isolated})
	}
	for _, v := range c.out.Volumes {
		// Not the size: a volume grows in place. Not the driver's default name.
		driver := v.Driver
		if driver == "local" {
			driver = ""
		}
		v.Hash = d.sum(volumeShape{v.Name, driver, v.DriverOpts, v.Labels})
	}
	for _, s := range c.out.Services {
		s.Aspects = d.aspects(s, c.out)
		s.Hash = d.sum(s.Aspects)
	}
}

type networkShape struct {
	Name     string
	Internal bool
	IPv4     bool
	IPv6     bool
	MTU      int
	Pools    []IPAMPool
	Labels   map[string]string
	Isolated bool `json:",omitempty"`
}

type volumeShape struct {
	Name       string
	Driver     string
	DriverOpts map[string]string
	Labels     map[string]string
}

// unhashed are the fields of Service that do not change a running replica, or
// that are aspects of their own.
var unhashed = map[string]bool{
	"Name": true, "Pos": true, "Keys": true, "Hash": true, "Aspects": true,
	"Build": true, "PullPolicy": true, "Scale": true, "DependsOn": true, "Attach": true,
	"Environment": true, "Labels": true, "Mounts": true, "Configs": true, "Secrets": true, "Networks": true, "Ports": true, "Restart": true,
	"Machine": true, "PreStart": true,
}

type digester []byte

func (d digester) sum(v any) string {
	// Plain data with sorted keys: equal values give equal bytes, and no error.
	b, err := json.Marshal(v)
	if err != nil {
		panic("spec: hashing: " + err.Error())
	}
	m := hmac.New(sha256.New, d)
	m.Write(b)
	return hex.EncodeToString(m.Sum(nil))
}

// short is a digest that only has to differ when the value does.
func (d digester) short(kind string, v any) string { return d.sum([]any{kind, v})[:16] }

// aspects are the digests of a service's parts, by name: what a user would say
// has changed. Parts that are not set have none, so that an attribute learnt
// later changes no hash.
func (d digester) aspects(s *Service, p *Project) map[string]string {
	out := map[string]string{}
	set := func(name string, v any) { out[name] = d.short(name, v) }
	rv := reflect.ValueOf(*s)
	for i := range rv.NumField() {
		f := rv.Type().Field(i)
		if unhashed[f.Name] || rv.Field(i).IsZero() {
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		set(name, rv.Field(i).Interface())
	}
	for k, v := range s.Environment {
		set("environment."+k, v)
	}
	for k, v := range s.Labels {
		set("labels."+k, v)
	}
	for _, m := range s.Mounts {
		m.Pos = Pos{}
		set("volumes."+m.Target, m)
	}
	for _, f := range s.Configs {
		f.Pos = Pos{}
		set("configs."+f.Source+aspectTarget(f, s.Configs), []any{f, content64(p.Configs[f.Source])})
	}
	for _, f := range s.Secrets {
		f.Pos = Pos{}
		set("secrets."+f.Source+aspectTarget(f, s.Secrets), []any{f, content64(p.Secrets[f.Source])})
	}
	for name, a := range s.Networks {
		a.Pos = Pos{}
		set("networks."+name, a)
	}
	if len(s.Ports) > 0 {
		ports := make([]Port, len(s.Ports))
		for i, p := range s.Ports {
			p.Pos = Pos{}
			ports[i] = p
		}
		set("ports", ports)
	}
	if s.Restart.Policy != "no" {
		set("restart", s.Restart)
	}
	if len(s.PreStart) > 0 {
		var hooks []any
		for _, h := range s.PreStart {
			hooks = append(hooks, d.aspects(h.Container, p), h.PerReplica)
		}
		set("preStart", hooks)
	}
	if m := s.Machine; m != nil {
		// What it boots with is settled by all who live in it.
		shape := []any{m.Host, m.Services, m.All, m.Container}
		for _, name := range m.Services {
			o := p.Services[name]
			shape = append(shape, o.Extension.MemoryMiB, o.Extension.VCPUs, o.Extension.KernelArgs, o.Resources.MemoryBytes, o.Resources.CPUs)
			for _, mount := range o.MachineMounts() {
				if mount.Type == MountBind {
					shape = append(shape, mount.Source, mount.ReadOnly)
				}
			}
		}
		set("machine", shape)
	}
	return out
}

// aspectTarget tells two uses of one config apart.
func aspectTarget(f FileRef, all []FileRef) string {
	n := 0
	for _, o := range all {
		if o.Source == f.Source {
			n++
		}
	}
	if n < 2 {
		return ""
	}
	return " at " + f.Target
}

func content64(c *Config) []byte {
	if c == nil {
		return nil
	}
	return c.Content
}
