package inspect

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/docker/cli/templates"
	"github.com/google/go-cmp/cmp"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/network/ipam"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/image"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/runtime/volume"
	"github.com/stackvm/stack/spec"
)

var made = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func replica() *state.Replica {
	grace := 30 * time.Second
	return &state.Replica{
		ID: "0123", Name: "shop-web-1", Created: made, Started: made.Add(time.Second), Labels: map[string]string{"com.docker.compose.service": "web"},
		Image: "nginx:1.27", ImageID: "abcd", Command: []string{"nginx", "-g"}, TTY: true, Status: planner.StatusRunning,
		Restart: spec.Restart{Policy: "on-failure", Max: 3}, StopSignal: "SIGQUIT", StopGrace: &grace, Probed: true, Hostname: "web",
		Health:  &state.Health{Status: wire.HealthUnhealthy, FailingStreak: 2, Output: "refused", At: made},
		Exposed: []string{"80/tcp", "443/tcp", "broken"},
		Mounts: []state.MountUse{
			{Type: spec.MountVolume, Volume: "shop_data", Target: "/data"},
			{Type: spec.MountBind, Source: "/srv", Target: "/srv", ReadOnly: true},
			{Type: spec.MountVolume, Volume: "f00d", Anonymous: true, Target: "/cache"},
			{Type: spec.MountTmpfs, Target: "/run"},
		},
		Endpoints: []state.Endpoint{{
			Network: "shop_default", NetworkID: "beef", MAC: "02:00:00:00:00:07", Aliases: []string{"web"},
			Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.7/24"), netip.MustParsePrefix("fd00::7/64")},
		}},
		Ports:     []state.PublishSpec{{Port: spec.Port{HostIP: netip.MustParseAddr("127.0.0.1"), Published: 8080, Target: 80, Protocol: "tcp"}}},
		Published: []state.Published{{HostIP: "127.0.0.1", HostPort: 8080, Target: 80, Protocol: "tcp"}},
	}
}

func resolved() wire.Container {
	return wire.Container{
		Env: []string{"A=b"}, WorkingDir: "/app", User: "nginx", Stdin: true, Init: true, CapAdd: []string{"NET_ADMIN"}, ReadOnlyRoot: true, NoNewPrivs: true,
		Limits: wire.Limits{CPUs: 0.5, MemoryBytes: 64 << 20, PIDs: 9}, Health: &wire.Healthcheck{Test: []string{"true"}, Interval: time.Second, Retries: 2},
		Hosts: []wire.Host{{Addr: "10.1.1.1", Names: []string{"db"}}}, DNS: wire.DNS{Servers: []string{"9.9.9.9"}},
		Files: []wire.File{{Target: "/run/secrets/key", Content: []byte("hunter2")}},
	}
}

// TestContainer holds the paths that scripts take into docker inspect.
func TestContainer(t *testing.T) {
	c := Container(replica(), resolved(), "/log.json", 77)
	for path, want := range map[string]string{
		".Id": `"0123"`, ".Name": `"/shop-web-1"`, ".Created": `"2030-01-02T03:04:05Z"`, ".Image": `"sha256:abcd"`, ".Path": `"nginx"`, ".Args": `["-g"]`,
		".LogPath": `"/log.json"`, ".State.Status": `"running"`, ".State.Running": "true", ".State.Pid": "77", ".State.StartedAt": `"2030-01-02T03:04:06Z"`,
		".State.Health.Status": `"unhealthy"`, ".State.Health.FailingStreak": "2", ".State.Health.Log": `[{"End":"2030-01-02T03:04:05Z","ExitCode":1,"Output":"refused","Start":"2030-01-02T03:04:05Z"}]`,
		".Config.Hostname": `"web"`, ".Config.Env": `["A=b"]`, ".Config.Labels": `{"com.docker.compose.service":"web"}`, ".Config.Tty": "true", ".Config.OpenStdin": "true",
		".Config.User": `"nginx"`, ".Config.WorkingDir": `"/app"`, ".Config.StopSignal": `"SIGQUIT"`, ".Config.StopTimeout": "30", ".Config.ExposedPorts": `{"443/tcp":{},"80/tcp":{}}`,
		".Config.Healthcheck.Test":      `["CMD","true"]`,
		".HostConfig.RestartPolicy":     `{"MaximumRetryCount":3,"Name":"on-failure"}`,
		".HostConfig.LogConfig.Type":    `"json-file"`,
		".HostConfig.NanoCpus":          "500000000",
		".HostConfig.Memory":            "67108864",
		".HostConfig.PidsLimit":         "9",
		".HostConfig.CapAdd":            `["NET_ADMIN"]`,
		".HostConfig.ReadonlyRootfs":    "true",
		".HostConfig.SecurityOpt":       `["no-new-privileges"]`,
		".HostConfig.Init":              "true",
		".HostConfig.Dns":               `["9.9.9.9"]`,
		".HostConfig.ExtraHosts":        `["db:10.1.1.1"]`,
		".HostConfig.NetworkMode":       `"shop_default"`,
		".HostConfig.Binds":             `["shop_data:/data:rw","/srv:/srv:ro"]`,
		".HostConfig.Tmpfs":             `{"/run":""}`,
		".HostConfig.PortBindings":      `{"80/tcp":[{"HostIp":"127.0.0.1","HostPort":"8080"}]}`,
		".NetworkSettings.Ports":        `{"443/tcp":null,"80/tcp":[{"HostIp":"127.0.0.1","HostPort":"8080"}]}`,
		".NetworkSettings.Networks":     `{"shop_default":{"Aliases":["web"],"DNSNames":["web"],"DriverOpts":null,"EndpointID":"","Gateway":"","GlobalIPv6Address":"fd00::7","GlobalIPv6PrefixLen":64,"GwPriority":0,"IPAMConfig":null,"IPAddress":"10.0.0.7","IPPrefixLen":24,"IPv6Gateway":"","Links":null,"MacAddress":"02:00:00:00:00:07","NetworkID":"beef"}}`,
		"(index .Mounts 0).Name":        `"shop_data"`,
		"(index .Mounts 0).Driver":      `"local"`,
		"(index .Mounts 1).RW":          "false",
		"len .Mounts":                   "3",
		".RestartCount":                 "0",
		".HostConfig.AutoRemove":        "false",
		".HostConfig.OomScoreAdj":       "0",
		".HostConfig.Privileged":        "false",
		".HostConfig.ShmSize":           "67108864",
		".HostConfig.LogConfig.Config":  "null",
		".Config.Image":                 `"nginx:1.27"`,
		".Config.Cmd":                   `["nginx","-g"]`,
		".Config.Healthcheck.Interval":  "1000000000",
		".Config.Healthcheck.Retries":   "2",
		".State.OOMKilled":              "false",
		".State.ExitCode":               "0",
		".State.Error":                  `""`,
		".State.FinishedAt":             `"0001-01-01T00:00:00Z"`,
		"(index .Mounts 2).Destination": `"/cache"`,
		"(index .Mounts 1).Propagation": `"rprivate"`,
		".HostConfig.GroupAdd":          "null",
	} {
		if got := look(t, c, path); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	if text, _ := json.Marshal(c); bytes.Contains(text, []byte("hunter2")) || bytes.Contains(text, []byte("aHVudGVyMg")) {
		t.Error("a secret is shown")
	}
	// What is not known yet, or no longer, is no reason to fail.
	bare := Container(&state.Replica{ID: "1", Name: "x", Status: planner.StatusCreated}, wire.Container{}, "", 0)
	if got := look(t, bare, ".State.Status"); got != `"created"` {
		t.Errorf("a bare container is %s", got)
	}
	ended := replica()
	ended.Status, ended.Health = planner.StatusExited, nil
	if got := look(t, Container(ended, resolved(), "", 77), ".NetworkSettings.Ports"); got != "{}" {
		t.Errorf("an ended container publishes %s", got)
	}
}

func TestObjects(t *testing.T) {
	n := Network(&state.Network{
		ID: "beef", Name: "shop_default", Created: made, Internal: true, Labels: map[string]string{"com.docker.compose.network": "default"},
		Addresses: ipam.State{Subnets: []ipam.Subnet{{Prefix: netip.MustParsePrefix("10.0.0.0/24"), Gateway: netip.MustParseAddr("10.0.0.1")}}},
	}, []*state.Replica{replica(), {ID: "9", Status: planner.StatusExited, Endpoints: []state.Endpoint{{NetworkID: "beef"}}}})
	v := Volume(&volume.Volume{Name: "shop_data", Created: made, Disk: "/v/disk.img"})
	i := Image(&image.Image{
		ID: "abcd", Digest: "sha256:1", Tags: []string{"nginx:1.27", "nginx:latest", "host:5000/nginx:1"}, Platform: image.Platform{OS: "linux", Arch: "arm64", Variant: "v8"},
		Created: made, Size: 7, Config: image.Config{Cmd: []string{"nginx"}, ExposedPorts: []string{"80/tcp"}, Labels: map[string]string{"a": "b"}},
		Layers: []image.Layer{{DiffID: "sha256:2"}},
	})
	for _, tc := range []struct {
		object     any
		path, want string
	}{
		{n, ".Id", `"beef"`},
		{n, ".Internal", "true"},
		{n, ".EnableIPv4", "true"},
		{n, ".EnableIPv6", "false"},
		{n, ".IPAM.Config", `[{"Gateway":"10.0.0.1","Subnet":"10.0.0.0/24"}]`},
		{n, ".Containers", `{"0123":{"EndpointID":"","IPv4Address":"10.0.0.7/24","IPv6Address":"fd00::7/64","MacAddress":"02:00:00:00:00:07","Name":"shop-web-1"}}`},
		{n, ".Labels", `{"com.docker.compose.network":"default"}`},
		{v, ".", `{"CreatedAt":"2030-01-02T03:04:05Z","Driver":"local","Labels":{},"Mountpoint":"/v/disk.img","Name":"shop_data","Options":null,"Scope":"local"}`},
		{i, ".Id", `"sha256:abcd"`},
		{i, ".RepoTags", `["nginx:1.27","nginx:latest","host:5000/nginx:1"]`},
		{i, ".RepoDigests", `["nginx@sha256:1","host:5000/nginx@sha256:1"]`},
		{i, ".Architecture", `"arm64"`},
		{i, ".Variant", `"v8"`},
		{i, ".Created", `"2030-01-02T03:04:05Z"`},
		{i, ".Config", `{"Cmd":["nginx"],"ExposedPorts":{"80/tcp":{}},"Labels":{"a":"b"}}`},
		{i, ".RootFS", `{"Layers":["sha256:2"],"Type":"layers"}`},
	} {
		if got := look(t, tc.object, tc.path); got != tc.want {
			t.Errorf("%T: %s (-want +got):\n%s", tc.object, tc.path, cmp.Diff(tc.want, got))
		}
	}
}

// look follows a template's path through the JSON of an object.
func look(t *testing.T, object any, path string) string {
	t.Helper()
	text, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	var raw any
	if err := json.Unmarshal(text, &raw); err != nil {
		t.Fatal(err)
	}
	tmpl, err := templates.Parse("{{json (" + path + ")}}")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := tmpl.Execute(&out, raw); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return out.String()
}
