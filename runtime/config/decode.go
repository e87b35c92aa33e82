package config

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/hashicorp/go-multierror"
	"gopkg.in/yaml.v3"
)

// decoder turns the file into a Config and gathers every fault on the way.
type decoder struct {
	path, dir string
	origins   map[string]string // where a key was set
	faults    *multierror.Error
}

// keys are what a mapping may hold, each with what reads its value.
type keys map[string]func(key string, n *yaml.Node)

func (d *decoder) fault(n *yaml.Node, key, format string, args ...any) {
	d.faults = multierror.Append(d.faults, fmt.Errorf("%s:%d: %s: %w", d.path, n.Line, key, fmt.Errorf(format, args...)))
}

func (d *decoder) decode(text []byte, c *Config) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return
	}
	if err != nil {
		d.faults = multierror.Append(d.faults, fmt.Errorf("%s: %s", d.path, strings.TrimPrefix(err.Error(), "yaml: ")))
		return
	}
	if !errors.Is(dec.Decode(new(yaml.Node)), io.EOF) {
		d.faults = multierror.Append(d.faults, fmt.Errorf("%s: more than one document", d.path))
		return
	}
	root := follow(doc.Content[0])
	if isNull(root) {
		return
	}
	d.mapping("", root, keys{
		"accel": func(key string, n *yaml.Node) {
			s, _ := d.text(key, n)
			c.Accel = d.accel(func(format string, args ...any) { d.fault(n, key, format, args...) }, s)
		},
		"memory": func(key string, n *yaml.Node) {
			if v, ok := d.size(key, n); ok {
				if !slices.Contains(memoryClasses, v) {
					d.fault(n, key, "%s is not a size machines come in: 256m, 512m, 1g, 2g, 4g or 8g", units.BytesSize(float64(v)))
				}
				c.Memory = v
			}
		},
		"logs": func(key string, n *yaml.Node) {
			d.mapping(key, n, keys{
				"max_size": func(key string, n *yaml.Node) {
					if v, ok := d.size(key, n); ok {
						if v < 64<<10 {
							d.fault(n, key, "at least 64k: a record must fit")
						}
						c.Logs.MaxSize = v
					}
				},
				"removed": func(key string, n *yaml.Node) {
					if s, _ := d.text(key, n); s == "0" { // no size, yet a word for none
						c.Logs.Removed = 0
						return
					}
					if v, ok := d.size(key, n); ok {
						c.Logs.Removed = v
					}
				},
				"max_file": func(key string, n *yaml.Node) {
					s, _ := d.text(key, n)
					v, err := strconv.Atoi(s)
					if err != nil || v < 1 || v > 1000 {
						d.fault(n, key, "%q is not a number from 1 to 1000", s)
					}
					c.Logs.MaxFile = v
				},
			})
		},
		"ca_file": func(key string, n *yaml.Node) { c.CAFile = d.caFile(key, n, c) },
		"ca": func(key string, n *yaml.Node) {
			s, ok := d.text(key, n)
			if ok && s != "host" {
				d.fault(n, key, "%q is not host, which is all there is to say: without it containers trust whom their images trust", s)
			}
			c.HostCA = ok
		},
		"proxy": func(key string, n *yaml.Node) {
			if n.Kind == yaml.ScalarNode {
				proxy := d.proxyURL(key, n)
				c.Proxy.HTTP, c.Proxy.HTTPS = proxy, proxy
				d.origins["proxy.http"], d.origins["proxy.https"] = d.origins[key], d.origins[key]
				return
			}
			d.mapping(key, n, keys{
				"http":     func(key string, n *yaml.Node) { c.Proxy.HTTP = d.proxyURL(key, n) },
				"https":    func(key string, n *yaml.Node) { c.Proxy.HTTPS = d.proxyURL(key, n) },
				"no_proxy": func(key string, n *yaml.Node) { c.Proxy.NoProxy, _ = d.text(key, n) },
			})
		},
		"registries": func(key string, n *yaml.Node) { d.registries(key, n, c) },
	})
}

// registry hosts: a name or an address, with a port or without.
var hostPattern = regexp.MustCompile(`^([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?$`)

func (d *decoder) registries(key string, n *yaml.Node, c *Config) {
	d.pairs(key, n, func(name string, k, n *yaml.Node) {
		host, at := canonicalHost(name), key+"."+name
		if !hostPattern.MatchString(host) {
			d.fault(k, at, "not a registry's host: write it as in image names, like %q or %q", DockerHub, "registry.example.com:5000")
			return
		}
		if _, twice := c.Registries[host]; twice {
			d.fault(k, at, "is %s, which is set above", host)
			return
		}
		var r Registry
		d.mapping(key+"."+host, n, keys{
			"mirrors": func(key string, n *yaml.Node) {
				if n.Kind != yaml.SequenceNode {
					d.fault(n, key, "must be a list of URLs")
					return
				}
				for _, item := range n.Content {
					item = follow(item)
					s, ok := d.text(key, item)
					if !ok {
						continue
					}
					u, err := mirrorURL(s)
					if err != nil {
						d.fault(item, key, "%w", err)
						continue
					}
					r.Mirrors = append(r.Mirrors, u)
				}
			},
			"plain_http":           func(key string, n *yaml.Node) { r.PlainHTTP = d.bool(key, n) },
			"ca_file":              func(key string, n *yaml.Node) { r.CAFile = d.caFile(key, n, c) },
			"insecure_skip_verify": func(key string, n *yaml.Node) { r.InsecureSkipVerify = d.bool(key, n) },
		})
		if r.PlainHTTP && (r.CAFile != "" || r.InsecureSkipVerify) {
			d.fault(k, at, "plain_http uses no certificates: drop it, or ca_file and insecure_skip_verify")
		}
		c.Registries[host] = r
	})
}

func mirrorURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%q is not a URL", s)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("%q must begin with https:// or http:// and name a host", s)
	case u.User != nil:
		return nil, fmt.Errorf("credentials do not belong into this file: log in to %q with stack login", u.Host)
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%q must end with its path", s)
	case !hostPattern.MatchString(strings.ToLower(u.Host)):
		return nil, fmt.Errorf("%q is not a host", u.Host)
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return u, nil
}

// environment lays the variables over the file.
func (d *decoder) environment(c *Config, getenv func(string) string) {
	if s := getenv("STACK_ACCEL"); s != "" {
		d.origins["accel"] = "STACK_ACCEL"
		c.Accel = d.accel(func(format string, args ...any) {
			d.faults = multierror.Append(d.faults, fmt.Errorf("STACK_ACCEL: %w", fmt.Errorf(format, args...)))
		}, s)
	}
	// The file speaks of stack alone, so it goes before variables for everybody.
	for _, v := range []struct {
		key   string
		value *string
		names []string
	}{
		{"proxy.http", &c.Proxy.HTTP, []string{"HTTP_PROXY", "http_proxy"}},
		{"proxy.https", &c.Proxy.HTTPS, []string{"HTTPS_PROXY", "https_proxy"}},
		{"proxy.no_proxy", &c.Proxy.NoProxy, []string{"NO_PROXY", "no_proxy"}},
	} {
		if d.origins[v.key] != "" {
			continue
		}
		for _, name := range v.names {
			s := getenv(name)
			if s == "" {
				continue
			}
			*v.value, d.origins[v.key] = s, name
			if v.key != "proxy.no_proxy" {
				if _, err := parseProxy(s); err != nil {
					d.faults = multierror.Append(d.faults, fmt.Errorf("%s: %w", name, err))
				}
			}
			break
		}
	}
}

func (d *decoder) accel(fault func(string, ...any), s string) Accel {
	switch a := Accel(s); a {
	case AccelAuto, AccelKVM, AccelTCG:
		return a
	}
	fault("%q is not auto, kvm or tcg", s)
	return ""
}

// pairs calls each for every key of a mapping, once.
func (d *decoder) pairs(key string, n *yaml.Node, each func(name string, k, v *yaml.Node)) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.fault(n, or(key, "the file"), "must be a mapping of keys to values")
		return
	}
	lines := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], follow(n.Content[i+1])
		if k.Kind != yaml.ScalarNode {
			d.fault(k, or(key, "the file"), "has a key that is no string")
			continue
		}
		if line, twice := lines[k.Value]; twice {
			d.fault(k, join(key, k.Value), "is set in line %d already", line)
			continue
		}
		lines[k.Value] = k.Line
		each(k.Value, k, v)
	}
}

func (d *decoder) mapping(key string, n *yaml.Node, known keys) {
	d.pairs(key, n, func(name string, k, v *yaml.Node) {
		read, ok := known[name]
		if !ok {
			d.fault(k, join(key, name), "unknown key; known are %s", strings.Join(slices.Sorted(maps.Keys(known)), ", "))
			return
		}
		if isNull(v) {
			return // as if it were not there
		}
		d.origins[join(key, name)] = fmt.Sprintf("%s:%d", d.path, k.Line)
		read(join(key, name), v)
	})
}

func (d *decoder) text(key string, n *yaml.Node) (string, bool) {
	if n.Kind != yaml.ScalarNode || isNull(n) {
		d.fault(n, key, "must be a single value")
		return "", false
	}
	return n.Value, true
}

func (d *decoder) bool(key string, n *yaml.Node) (v bool) {
	if n.Kind != yaml.ScalarNode || n.Decode(&v) != nil {
		d.fault(n, key, "must be true or false")
	}
	return v
}

func (d *decoder) size(key string, n *yaml.Node) (int64, bool) {
	s, ok := d.text(key, n)
	if !ok {
		return 0, false
	}
	v, err := units.RAMInBytes(s)
	if err != nil || v <= 0 {
		d.fault(n, key, "%q is not a size such as 512m or 2g", s)
		return 0, false
	}
	return v, true
}

// caFile reads the file, so that a mistake is found here and not at the first pull.
func (d *decoder) caFile(key string, n *yaml.Node, c *Config) string {
	s, ok := d.text(key, n)
	if !ok {
		return ""
	}
	file := s
	if !filepath.IsAbs(file) {
		file = filepath.Join(d.dir, file)
	}
	pem, err := readBounded(file)
	if err != nil {
		d.fault(n, key, "%w", err)
		return ""
	}
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		d.fault(n, key, "no PEM certificate in %s", file)
		return ""
	}
	c.cas[file] = pem
	return file
}

func (d *decoder) proxyURL(key string, n *yaml.Node) string {
	s, ok := d.text(key, n)
	if !ok {
		return ""
	}
	if _, err := parseProxy(s); err != nil {
		d.fault(n, key, "%w", err)
	}
	return s
}

// follow returns what an alias stands for.
func follow(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
