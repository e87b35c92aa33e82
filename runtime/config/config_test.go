package config

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// loadText loads a configuration of the text, with an environment.
func loadText(t testing.TB, text string, env map[string]string) (*Config, string, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, File), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewTLSServer(http.NotFoundHandler())
	s.Close()
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := load(dir, func(name string) string { return env[name] })
	return c, dir, err
}

const full = `
accel: tcg
memory: 1g
logs: {max_size: 10m, max_file: 5, removed: 0}
ca_file: ca.pem
ca: host
proxy:
  http: http://user:canary@proxy:3128
  no_proxy: .local
registries:
  docker.io:
    mirrors:
      - https://mirror.example.com/hub/
      - http://127.0.0.1:5000
  Registry.Example.com:5000: {plain_http: true}
  other.example.com: {ca_file: ca.pem, insecure_skip_verify: true}
  empty.example.com:
`

func TestLoad(t *testing.T) {
	c, dir, err := loadText(t, full, map[string]string{"STACK_ACCEL": "kvm", "HTTP_PROXY": "http://loses", "https_proxy": "wins:8080"})
	if err != nil {
		t.Fatal(err)
	}
	if r := c.Registry("index.docker.io"); len(r.Mirrors) != 2 || r.Mirrors[0].String() != "https://mirror.example.com/hub" {
		t.Errorf("mirrors of docker.io: %v", r.Mirrors)
	}
	if !c.Registry("registry.example.com:5000").PlainHTTP || c.Registry("registry.example.com").PlainHTTP {
		t.Error("plain_http is not for its host alone")
	}
	for host, want := range map[string]bool{"other.example.com": true, "docker.io": true} {
		if pool, err := c.CAs(host); err != nil || (pool != nil) != want {
			t.Errorf("authorities of %s: %v, %v", host, pool, err)
		}
	}
	file := func(line int) string { return fmt.Sprintf("%s:%d", filepath.Join(dir, File), line) }
	want := []Value{
		{"accel", "kvm", "STACK_ACCEL"},
		{"memory", "1GiB", file(3)},
		{"logs.max_size", "10MiB", file(4)},
		{"logs.max_file", "5", file(4)},
		{"logs.removed", "0B", file(4)},
		{"ca_file", filepath.Join(dir, "ca.pem"), file(5)},
		{"ca", "host", file(6)},
		{"proxy.http", "http://user:xxxxx@proxy:3128", file(8)},
		{"proxy.https", "http://wins:8080", "https_proxy"},
		{"proxy.no_proxy", ".local", file(9)},
		{"registries.docker.io.mirrors", "https://mirror.example.com/hub http://127.0.0.1:5000", file(12)},
		{"registries.other.example.com.ca_file", filepath.Join(dir, "ca.pem"), file(16)},
		{"registries.other.example.com.insecure_skip_verify", "true", file(16)},
		{"registries.registry.example.com:5000.plain_http", "true", file(15)},
	}
	if diff := cmp.Diff(want, c.Values()); diff != "" {
		t.Error(diff)
	}
}

func TestDefaults(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "comment": "# nothing", "null": "~", "nulls": "registries:\nproxy:\naccel:\n"} {
		c, _, err := loadText(t, text, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c.Accel != AccelAuto || c.Memory != 0 || c.Logs != (Logs{100 << 20, 3, 256 << 20}) || c.Proxy != (Proxy{}) || len(c.Registries) != 0 {
			t.Errorf("%s: %+v", name, c)
		}
		for _, v := range c.Values() {
			if v.Origin != "default" {
				t.Errorf("%s: %+v", name, v)
			}
		}
	}
	if c, err := Load(filepath.Join(t.TempDir(), "none")); err != nil || c == nil {
		t.Errorf("without a directory: %v", err)
	}
}

func TestFaults(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"unknown", "memry: 1g", `:1: memry: unknown key; known are accel, ca, ca_file, logs, memory, proxy, registries`},
		{"unknown below", "registries:\n  docker.io:\n    mirror: [x]", `:3: registries.docker.io.mirror: unknown key; known are ca_file, insecure_skip_verify, mirrors, plain_http`},
		{"twice", "accel: kvm\naccel: tcg", `:2: accel: is set in line 1 already`},
		{"same registry twice", "registries:\n  docker.io: {}\n  index.docker.io: {}", `:3: registries.index.docker.io: is docker.io, which is set above`},
		{"accel", "accel: hvf", `:1: accel: "hvf" is not auto, kvm or tcg`},
		{"memory", "memory: 3g", `:1: memory: 3GiB is not a size machines come in`},
		{"memory text", "memory: lots", `:1: memory: "lots" is not a size`},
		{"negative", "memory: -1", `:1: memory: "-1" is not a size`},
		{"log size", "logs: {max_size: 1k}", `:1: logs.max_size: at least 64k`},
		{"log files", "logs: {max_file: 0}", `:1: logs.max_file: "0" is not a number from 1 to 1000`},
		{"removed logs", "logs: {removed: some}", `:1: logs.removed: "some" is not a size`},
		{"authorities", "ca: mine.pem", `:1: ca: "mine.pem" is not host`},
		{"not a mapping", "- a", `:1: the file: must be a mapping`},
		{"not a mapping below", "logs: [1]", `:1: logs: must be a mapping`},
		{"not a value", "accel: [kvm]", `:1: accel: must be a single value`},
		{"no list", "registries: {docker.io: {mirrors: http://x}}", `mirrors: must be a list of URLs`},
		{"not a bool", "registries: {docker.io: {plain_http: maybe}}", `plain_http: must be true or false`},
		{"host", "registries: {'http://x': {}}", `not a registry's host`},
		{"mirror scheme", "registries: {docker.io: {mirrors: [mirror.example.com]}}", `"mirror.example.com" must begin with https:// or http://`},
		{"mirror credentials", "registries: {docker.io: {mirrors: ['https://u:canary@m']}}", `credentials do not belong into this file`},
		{"mirror query", "registries: {docker.io: {mirrors: ['https://m/?x=1']}}", `must end with its path`},
		{"contradiction", "registries: {m: {plain_http: true, insecure_skip_verify: true}}", `plain_http uses no certificates`},
		{"missing CA", "ca_file: nothing.pem", `nothing.pem: no such file or directory`},
		{"CA of something else", "ca_file: config.yaml", `no PEM certificate in`},
		{"proxy", "proxy: 'ftp://u:canary@x'", `a proxy's URL begins with http`},
		{"no proxy", "proxy: {https: 'http://'}", `not a proxy's URL`},
		{"two documents", "accel: kvm\n---\naccel: tcg", `more than one document`},
		{"not YAML", "accel: [", `config.yaml: line 1: did not find expected node content`},
		{"alias in itself", "logs: &a {max_size: *a}", ``},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := loadText(t, test.text, nil)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "canary") {
				t.Errorf("a secret is in: %v", err)
			}
		})
	}
}

// TestAllFaultsAtOnce: one run tells everything there is to mend, each with its
// line.
func TestAllFaultsAtOnce(t *testing.T) {
	_, dir, err := loadText(t, "accel: x\nmemory: y\nbad: z\nregistries:\n  a.b:\n    worse: 1\n", map[string]string{"STACK_ACCEL": "q", "HTTPS_PROXY": "ftp://x"})
	if err == nil {
		t.Fatal("no error")
	}
	file := filepath.Join(dir, File)
	want := file + `:1: accel: "x" is not auto, kvm or tcg
` + file + `:2: memory: "y" is not a size such as 512m or 2g
` + file + `:3: bad: unknown key; known are accel, ca, ca_file, logs, memory, proxy, registries
` + file + `:6: registries.a.b.worse: unknown key; known are ca_file, insecure_skip_verify, mirrors, plain_http
STACK_ACCEL: "q" is not auto, kvm or tcg
HTTPS_PROXY: a proxy's URL begins with http, https, socks5 or socks5h`
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Error(diff)
	}
}

func TestProxyFunc(t *testing.T) {
	f := Proxy{HTTP: "http://h:1", HTTPS: "s:2", NoProxy: "direct.example.com"}.Func()
	for target, want := range map[string]string{
		"http://a.example.com": "http://h:1", "https://a.example.com": "http://s:2",
		"https://direct.example.com": "<nil>", "http://localhost:5000": "<nil>", "http://127.0.0.1:5000": "<nil>",
	} {
		r, err := http.NewRequest(http.MethodGet, target, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := f(r); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%s through %v, %v; want %s", target, got, err, want)
		}
	}
}

func TestFindDirs(t *testing.T) {
	home := func() (string, error) { return "/home/u", nil }
	none := func() (string, error) { return "", errors.New("$HOME is not defined") }
	for _, test := range []struct {
		name string
		env  map[string]string
		home func() (string, error)
		want Dirs
		err  string
	}{
		{"nothing set", nil, home, Dirs{"/home/u/.config/stack", "/home/u/.local/share/stack", "/home/u/.local/state/stack"}, ""},
		{"STACK_HOME", map[string]string{"STACK_HOME": "/x//y/", "XDG_DATA_HOME": "/no"}, none, Dirs{"/x/y/config", "/x/y/data", "/x/y/state"}, ""},
		{"XDG", map[string]string{"XDG_CONFIG_HOME": "/c", "XDG_DATA_HOME": "/d", "XDG_STATE_HOME": "relative"}, home, Dirs{"/c/stack", "/d/stack", "/home/u/.local/state/stack"}, ""},
		{"no home", nil, none, Dirs{}, "set HOME or STACK_HOME"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := findDirs(func(n string) string { return test.env[n] }, test.home)
			if got != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}

func TestRuntimeDir(t *testing.T) {
	dirs := func(home string) Dirs {
		return Dirs{filepath.Join(home, "config"), filepath.Join(home, "data"), filepath.Join(home, "state")}
	}
	tmp := t.TempDir()
	home := filepath.Join(t.TempDir(), strings.Repeat("long/", 40))
	first, err := runtimeDir(tmp, dirs(home))
	if err != nil {
		t.Fatal(err)
	}
	if short := strings.TrimPrefix(first, tmp); len("/tmp"+short) > 50 {
		t.Errorf("%s is long", short)
	}
	for _, dir := range []string{first, filepath.Dir(first)} {
		if info, err := os.Lstat(dir); err != nil || info.Mode() != fs.ModeDir|0o700 {
			t.Errorf("%s: %v, %v", dir, info.Mode(), err)
		}
	}
	// The same home, now that it exists, and by a link to it.
	if err := os.MkdirAll(home, 0o700); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(home, link); err != nil {
		t.Fatal(err)
	}
	for _, same := range []string{home, link} {
		if again, err := runtimeDir(tmp, dirs(same)); err != nil || again != first {
			t.Errorf("%s gives %s, %v", same, again, err)
		}
	}
	if other, err := runtimeDir(tmp, dirs(t.TempDir())); err != nil || other == first {
		t.Errorf("another home gives %s, %v", other, err)
	}
	// What is open to others is closed; what is not a directory of ours, refused.
	base := filepath.Dir(first)
	if err := os.Chmod(base, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := runtimeDir(tmp, dirs(home)); err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Lstat(base); info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v", info.Mode())
	}
	for name, make := range map[string]func(string) error{
		"a link": func(p string) error { return os.Symlink(t.TempDir(), p) },
		"a file": func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"another's": func(p string) error {
			if os.Getuid() != 0 {
				return os.Symlink("/", p) // only root can make another's
			}
			return errors.Join(os.Mkdir(p, 0o700), os.Chown(p, 12345, 0))
		},
	} {
		tmp := t.TempDir()
		if err := make(filepath.Join(tmp, filepath.Base(base))); err != nil {
			t.Fatal(err)
		}
		if dir, err := runtimeDir(tmp, dirs(home)); err == nil {
			t.Errorf("%s is accepted as %s", name, dir)
		}
	}
}

// FuzzLoad: whatever the file holds, faults name it, and what is accepted keeps
// to the rules of the package.
func FuzzLoad(f *testing.F) {
	f.Add(full)
	f.Add("registries: {docker.io: {mirrors: [&a 'http://x', *a]}}")
	f.Add("proxy: {http: '://'}\nmemory: 9e9")
	f.Add("logs: &a {max_size: *a}")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		c := &Config{Registries: map[string]Registry{}, cas: map[string][]byte{}}
		d := &decoder{path: "F", dir: dir, origins: map[string]string{}}
		d.decode([]byte(text), c)
		if err := d.faults.ErrorOrNil(); err != nil {
			for _, one := range d.faults.Errors {
				if !strings.HasPrefix(one.Error(), "F:") {
					t.Errorf("a fault without its place: %v", one)
				}
			}
			return
		}
		for host, r := range c.Registries {
			if canonicalHost(host) != host || !hostPattern.MatchString(host) {
				t.Errorf("host %q", host)
			}
			for _, m := range r.Mirrors {
				if m.Host == "" || m.User != nil {
					t.Errorf("mirror %v", m)
				}
			}
		}
		c.list(d.origins)
	})
}
