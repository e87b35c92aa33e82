package config

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
)

// File is the name of the configuration in the config directory.
const File = "config.yaml"

// DockerHub is the registry of names without a host, as compose files spell it.
const DockerHub = "docker.io"

// Config is the effective configuration: the file, the environment over it, and
// defaults below. It is not changed after Load.
type Config struct {
	Registries map[string]Registry // by host, with port if any
	Proxy      Proxy
	CAFile     string // PEM file trusted beside the system's authorities; "" for none
	HostCA     bool   // containers trust the host's authorities beside their image's
	Accel      Accel
	Memory     int64 // bytes of a machine whose service sets no limit; 0: the host decides
	Logs       Logs

	cas    map[string][]byte // PEM by file, read while loading
	values []Value
}

// Registry is how one registry host is reached.
type Registry struct {
	// Mirrors are asked first, in this order, each at most once per pull; then
	// the registry itself. A path is put before the repository's name.
	Mirrors            []*url.URL
	PlainHTTP          bool   // speaks HTTP without TLS
	CAFile             string // PEM file trusted for this host, beside Config.CAFile and the system's
	InsecureSkipVerify bool   // its certificate is not checked
}

// Accel chooses how machines run.
type Accel string

const (
	AccelAuto Accel = "auto" // what a probe finds to work
	AccelKVM  Accel = "kvm"
	AccelTCG  Accel = "tcg"
)

// Logs are the limits of a container's log that sets none of its own.
type Logs struct {
	MaxSize int64 // bytes of one file
	MaxFile int   // files kept
	Removed int64 // bytes of the logs of all removed containers
}

// The sizes of memory a machine can have by default: templates are made per class.
var memoryClasses = []int64{256 << 20, 512 << 20, 1 << 30, 2 << 30, 4 << 30, 8 << 30}

// Value is one setting as doctor shows it: its key as in the file, its value
// without secrets, and where it comes from.
type Value struct{ Key, Value, Origin string }

// Load reads config.yaml in dir, which need not exist, and the environment. Its
// error holds every fault there is, each with file and line.
func Load(dir string) (*Config, error) { return load(dir, os.Getenv) }

// maxFile bounds what is parsed, in bytes.
const maxFile = 1 << 20

func load(dir string, getenv func(string) string) (*Config, error) {
	path := filepath.Join(dir, File)
	text, err := readBounded(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	c := &Config{
		Registries: make(map[string]Registry),
		Accel:      AccelAuto,
		Logs:       Logs{MaxSize: 100 << 20, MaxFile: 3, Removed: 256 << 20}, // docker keeps one file without end; nothing of ours grows without bound
		cas:        make(map[string][]byte),
	}
	d := &decoder{path: path, dir: dir, origins: make(map[string]string)}
	d.decode(text, c)
	d.environment(c, getenv)
	if d.faults != nil {
		d.faults.ErrorFormat = func(errs []error) string {
			lines := make([]string, len(errs))
			for n, err := range errs {
				lines[n] = err.Error()
			}
			return strings.Join(lines, "\n")
		}
	}
	if err := d.faults.ErrorOrNil(); err != nil {
		return nil, err
	}
	c.list(d.origins)
	return c, nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s: larger than %s", path, units.BytesSize(maxFile))
	}
	return text, err
}

// Registry returns how to reach a host; the zero value when nothing is set.
func (c *Config) Registry(host string) Registry { return c.Registries[canonicalHost(host)] }

// CAs returns the authorities a host's certificate may come from, or nil for
// the system's alone.
func (c *Config) CAs(host string) (*x509.CertPool, error) {
	var pool *x509.CertPool
	for _, file := range []string{c.CAFile, c.Registry(host).CAFile} {
		if file == "" {
			continue
		}
		if pool == nil {
			var err error
			if pool, err = x509.SystemCertPool(); err != nil {
				pool = x509.NewCertPool()
			}
		}
		if !pool.AppendCertsFromPEM(c.cas[file]) {
			return nil, fmt.Errorf("%s: no PEM certificate in it", file)
		}
	}
	return pool, nil
}

// canonicalHost is the name under which a registry's settings are kept: the
// several hosts of Docker Hub are one registry.
func canonicalHost(host string) string {
	host = strings.ToLower(host)
	switch host {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		return DockerHub
	}
	return host
}

// Values lists every setting with its origin, in a fixed order.
func (c *Config) Values() []Value { return slices.Clone(c.values) }

func (c *Config) list(origins map[string]string) {
	add := func(key, value string) {
		origin := origins[key]
		if origin == "" {
			origin = "default"
		}
		c.values = append(c.values, Value{key, value, origin})
	}
	memory := "2GiB, or half of the host's if that is less"
	if c.Memory > 0 {
		memory = units.BytesSize(float64(c.Memory))
	}
	add("accel", string(c.Accel))
	add("memory", memory)
	add("logs.max_size", units.BytesSize(float64(c.Logs.MaxSize)))
	add("logs.max_file", strconv.Itoa(c.Logs.MaxFile))
	add("logs.removed", units.BytesSize(float64(c.Logs.Removed)))
	add("ca_file", c.CAFile)
	add("ca", map[bool]string{true: "host"}[c.HostCA])
	add("proxy.http", redactURL(c.Proxy.HTTP))
	add("proxy.https", redactURL(c.Proxy.HTTPS))
	add("proxy.no_proxy", c.Proxy.NoProxy)
	for _, host := range slices.Sorted(maps.Keys(c.Registries)) {
		r, key := c.Registries[host], "registries."+host+"."
		if len(r.Mirrors) > 0 {
			mirrors := make([]string, len(r.Mirrors))
			for n, m := range r.Mirrors {
				mirrors[n] = m.Redacted()
			}
			add(key+"mirrors", strings.Join(mirrors, " "))
		}
		if r.PlainHTTP {
			add(key+"plain_http", "true")
		}
		if r.CAFile != "" {
			add(key+"ca_file", r.CAFile)
		}
		if r.InsecureSkipVerify {
			add(key+"insecure_skip_verify", "true")
		}
	}
}
