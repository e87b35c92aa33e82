package dockercli

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

func TestParse(t *testing.T) {
	inDocker := map[string]string{envOrigin: "/usr/bin/docker"}
	for _, tc := range []struct {
		name string
		argv []string
		env  map[string]string
		want Call
	}{
		{"nothing at all", nil, nil, Call{}},
		{"stack", []string{"/usr/bin/stack", "up", "-d"}, nil, Call{Args: []string{"up", "-d"}}},
		{"stack below docker", []string{"/proc/self/exe", "system", "keeper"}, inDocker, Call{Args: []string{"system", "keeper"}}},
		{"standalone", []string{"/usr/bin/docker-compose", "-f", "x", "ps"}, nil, Call{As: Name, Args: []string{"-f", "x", "ps"}}},
		{"a service called compose", []string{"docker-compose", "logs", "compose"}, nil, Call{As: Name, Args: []string{"logs", "compose"}}},
		{"metadata", []string{"/x/docker-compose", askMetadata}, nil, Call{As: "docker compose", Metadata: true}},
		{"plugin", []string{"/x/docker-compose", "compose", "up"}, inDocker, Call{As: "docker compose", Args: []string{"up"}}},
		{
			"plugin, docker's options",
			[]string{"docker-compose", "-D", "--context", "compose", "-Htcp://a", "compose", "-p", "compose", "ps"},
			inDocker,
			Call{As: "docker compose", Args: []string{"-D", "--context", "compose", "-Htcp://a", "-p", "compose", "ps"}},
		},
		{"completion", []string{"docker-compose", "__completeNoDesc", "compose", "u"}, nil, Call{As: "docker compose", Args: []string{"__completeNoDesc", "u"}}},
		{"an option docker does not have", []string{"docker-compose", "--nope", "compose"}, inDocker, Call{As: Name, Args: []string{"--nope", "compose"}}},
	} {
		argv := append([]string(nil), tc.argv...)
		got := Parse(tc.argv, func(name string) string { return tc.env[name] })
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
		if diff := cmp.Diff(argv, tc.argv); diff != "" {
			t.Errorf("%s: the caller's arguments were changed: %s", tc.name, diff)
		}
	}
}

func TestMetadata(t *testing.T) {
	var out bytes.Buffer
	if err := WriteMetadata(&out, "1.2"); err != nil {
		t.Fatal(err)
	}
	var m map[string]string
	if err := json.Unmarshal(out.Bytes(), &m); err != nil || m["SchemaVersion"] != "0.1.0" || m["Version"] != "1.2" || m["Vendor"] == "" {
		t.Errorf("docker would refuse %s: %v", out.Bytes(), err)
	}
}

// Docker closes its socket to end a plugin that shares no terminal with it.
func TestAttend(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv(envSocket, path)
	t.Setenv(envOrigin, "docker")
	ended := make(chan struct{})
	if err := Attend(func() { close(ended) }); err != nil {
		t.Fatal(err)
	}
	if os.Getenv(envSocket) != "" || os.Getenv(envOrigin) != "" {
		t.Error("children would take themselves for plugins")
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
		t.Fatal("ended before docker wanted it")
	default:
	}
	conn.Close()
	<-ended
}

func TestApply(t *testing.T) {
	config := func(current, host string) string {
		dir := t.TempDir()
		write := func(path, text string) {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		write(filepath.Join(dir, "config.json"), `{"currentContext":"`+current+`"}`)
		sum := sha256.Sum256([]byte(current))
		write(filepath.Join(dir, "contexts/meta", hex.EncodeToString(sum[:]), "meta.json"), `{"Name":"`+current+`","Endpoints":{"docker":{"Host":"`+host+`"}}}`)
		return dir
	}
	for _, tc := range []struct {
		name string
		args []string
		env  map[string]string
		want string // "" for no error
	}{
		{"nothing", nil, nil, ""},
		{"the default host", []string{"-H", DefaultHost}, nil, ""},
		{"another host", []string{"-H", "tcp://a:1"}, nil, `--host "tcp://a:1": stack runs everything on this machine and talks to no docker engine: leave -H out`},
		{"DOCKER_HOST", nil, map[string]string{"DOCKER_HOST": "ssh://a"}, `DOCKER_HOST "ssh://a": stack runs everything on this machine and talks to no docker engine: unset DOCKER_HOST`},
		{"the default context", []string{"--context=default"}, map[string]string{"DOCKER_CONTEXT": "far"}, ""},
		{"another context", []string{"-c", "far"}, nil, `--context "far": stack runs everything on this machine and talks to no docker engine: leave it out`},
		{"DOCKER_CONTEXT", nil, map[string]string{"DOCKER_CONTEXT": "far"}, `DOCKER_CONTEXT "far": stack runs everything on this machine and talks to no docker engine: unset DOCKER_CONTEXT`},
		{"tls", []string{"--tlskey", "k"}, nil, `--tlskey: stack runs everything on this machine and talks to no docker engine: leave it out`},
		{
			"a current context elsewhere", nil,
			map[string]string{"DOCKER_CONFIG": config("far", "ssh://me@far")},
			`docker's current context "far": stack runs everything on this machine and talks to no docker engine: it leads to ssh://me@far: docker context use default, or DOCKER_CONTEXT=default for this command`,
		},
		{"a current context elsewhere, not for this command", nil, map[string]string{"DOCKER_CONFIG": config("far", "ssh://me@far"), "DOCKER_CONTEXT": "default"}, ""},
		{"a current context here", nil, map[string]string{"DOCKER_CONFIG": config("desktop-linux", "unix:///home/me/.docker/desktop.sock")}, ""},
		{"no such level", []string{"-l", "loud"}, nil, `--log-level "loud": use debug, info, warn, error, fatal`},
	} {
		var o Options
		f := pflag.NewFlagSet("docker", pflag.ContinueOnError)
		o.Register(f)
		if err := f.Parse(tc.args); err != nil {
			t.Fatal(err)
		}
		_, err := o.Apply(func(name string) string { return tc.env[name] })
		if got := errorText(err); got != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", tc.name, got, tc.want)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
