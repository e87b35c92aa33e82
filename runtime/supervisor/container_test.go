package supervisor

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/image"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/spec"
)

func TestArguments(t *testing.T) {
	img := image.Config{Entrypoint: []string{"/entry"}, Cmd: []string{"serve"}}
	for _, tt := range []struct {
		name                string
		entrypoint, command []string
		want                string
	}{
		{"the image's", nil, nil, "/entry serve"},
		{"command", nil, []string{"other"}, "/entry other"},
		{"command cleared", nil, []string{}, "/entry"},
		{"entrypoint drops the image's command", []string{"/mine"}, nil, "/mine"},
		{"both", []string{"/mine"}, []string{"x", "y"}, "/mine x y"},
		{"entrypoint cleared", []string{}, []string{"x"}, "x"},
		{"nothing", []string{}, nil, ""},
	} {
		got := strings.Join(arguments(&spec.Service{Entrypoint: tt.entrypoint, Command: tt.command}, img), " ")
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	img := image.Config{Env: []string{"PATH=/bin", "A=image", "B=image", "http_proxy=image"}}
	proxies := api.Proxies{"HTTP_PROXY": "http://p:1", "http_proxy": "http://p:1", "NO_PROXY": "p", "no_proxy": "p"}
	got := environment(&spec.Service{Environment: map[string]string{"B": "service", "C": "", "D": "x=y", "NO_PROXY": "", "no_proxy": "mine"}}, img, proxies)
	want := []string{"PATH=/bin", "A=image", "B=service", "C=", "D=x=y", "HTTP_PROXY=http://p:1", "NO_PROXY=", "http_proxy=http://p:1", "no_proxy=mine"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestHealthcheck(t *testing.T) {
	img := image.Config{Healthcheck: &image.Healthcheck{Test: []string{"CMD-SHELL", "curl localhost"}, Interval: time.Second, Retries: 9}}
	for _, tt := range []struct {
		name string
		svc  *spec.Healthcheck
		img  image.Config
		want *wire.Healthcheck
	}{
		{"none", nil, image.Config{}, nil},
		{"the image's", nil, img, &wire.Healthcheck{
			Test: []string{"/bin/sh", "-c", "curl localhost"}, Interval: time.Second, Timeout: 30 * time.Second, StartInterval: 5 * time.Second, Retries: 9,
		}},
		{"disabled", &spec.Healthcheck{Disable: true}, img, nil},
		{"NONE", &spec.Healthcheck{Test: []string{"NONE"}}, img, nil},
		{"field by field", &spec.Healthcheck{Interval: time.Minute, StartPeriod: time.Hour}, img, &wire.Healthcheck{
			Test: []string{"/bin/sh", "-c", "curl localhost"}, Interval: time.Minute, Timeout: 30 * time.Second, StartPeriod: time.Hour, StartInterval: 5 * time.Second, Retries: 9,
		}},
		{"CMD", &spec.Healthcheck{Test: []string{"CMD", "true", "x"}}, image.Config{}, &wire.Healthcheck{
			Test: []string{"true", "x"}, Interval: 30 * time.Second, Timeout: 30 * time.Second, StartInterval: 5 * time.Second, Retries: 3,
		}},
		{"the image's shell", &spec.Healthcheck{Test: []string{"CMD-SHELL", "a b"}}, image.Config{Shell: []string{"/bin/bash", "-ec"}}, &wire.Healthcheck{
			Test: []string{"/bin/bash", "-ec", "a b"}, Interval: 30 * time.Second, Timeout: 30 * time.Second, StartInterval: 5 * time.Second, Retries: 3,
		}},
	} {
		got, err := healthcheck(&spec.Service{Healthcheck: tt.svc}, tt.img)
		if d := cmp.Diff(tt.want, got); d != "" || err != nil {
			t.Errorf("%s: %v\n%s", tt.name, err, d)
		}
	}
	for _, test := range [][]string{{"curl"}, {"CMD"}} {
		if _, err := healthcheck(&spec.Service{Healthcheck: &spec.Healthcheck{Test: test}}, image.Config{}); err == nil {
			t.Errorf("%v was accepted", test)
		}
	}
}

func TestStartRetries(t *testing.T) {
	for _, tt := range []struct {
		interval      time.Duration
		retries, want int
	}{
		{5 * time.Second, 3, 15},
		{30 * time.Second, 3, 7},
		{time.Hour, 1, 2},
		{time.Millisecond, 1, 5},
	} {
		if got := startRetries(&wire.Healthcheck{Interval: tt.interval, Retries: tt.retries}); got != tt.want {
			t.Errorf("%d retries every %s: %d, want %d", tt.retries, tt.interval, got, tt.want)
		}
	}
}

func TestMountsOf(t *testing.T) {
	p := &spec.Project{Volumes: map[string]*spec.Volume{"data": {Key: "data", Name: "shop_data"}}}
	svc := &spec.Service{Mounts: []spec.Mount{
		{Type: spec.MountVolume, Source: "data", Target: "/var/lib/"},
		{Type: spec.MountBind, Source: "/src", Target: "/app", ReadOnly: true},
		{Type: spec.MountVolume, Target: "/anon"},
	}}
	img := image.Config{Volumes: []string{"/var/lib", "/cache"}}
	got, err := mountsOf(p, svc, img, map[string]string{"/cache": "old"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 4 || len(got[2].Volume) != 64 {
		t.Fatalf("got %+v", got)
	}
	got[2].Volume = "new"
	want := []state.MountUse{
		{Type: spec.MountVolume, Volume: "shop_data", Target: "/var/lib"},
		{Type: spec.MountBind, Source: "/src", Target: "/app", ReadOnly: true},
		{Type: spec.MountVolume, Volume: "new", Anonymous: true, Target: "/anon"},
		{Type: spec.MountVolume, Volume: "old", Anonymous: true, Target: "/cache"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestBackoffAndPolicies(t *testing.T) {
	for _, tt := range []struct {
		policy string
		max    int
		rec    state.Replica
		want   bool
	}{
		{"no", 0, state.Replica{ExitCode: 1}, false},
		{"", 0, state.Replica{ExitCode: 1}, false},
		{"always", 0, state.Replica{}, true},
		{"always", 0, state.Replica{Stopped: true}, false},
		{"unless-stopped", 0, state.Replica{}, true},
		{"on-failure", 0, state.Replica{}, false},
		{"on-failure", 0, state.Replica{ExitCode: 1, Restarts: 99}, true},
		{"on-failure", 3, state.Replica{ExitCode: 1, Restarts: 2}, true},
		{"on-failure", 3, state.Replica{ExitCode: 1, Restarts: 3}, false},
		{"always", 3, state.Replica{Restarts: 2}, true}, // deploy.restart_policy
		{"always", 3, state.Replica{Restarts: 3}, false},
	} {
		tt.rec.Restart = spec.Restart{Policy: tt.policy, Max: tt.max}
		if got := wantsRestart(&tt.rec); got != tt.want {
			t.Errorf("%s:%d of %+v: %v", tt.policy, tt.max, tt.rec, got)
		}
	}
}

func TestSecurityOptions(t *testing.T) {
	for option, want := range map[string]wire.Container{
		"no-new-privileges":       {NoNewPrivs: true},
		"no-new-privileges:true":  {NoNewPrivs: true},
		"no-new-privileges=false": {},
		"seccomp:unconfined":      {Seccomp: "unconfined"},
		"seccomp=unconfined":      {Seccomp: "unconfined"},
		"seccomp={\"a\":1}":       {Seccomp: `{"a":1}`},
		"seccomp=builtin":         {},
		"systempaths=unconfined":  {Unmasked: true},
		"writable-cgroups=true":   {WritableCgroups: true},
		"writable-cgroups=false":  {},
		"apparmor:unconfined":     {},
	} {
		var c wire.Container
		securityOption(&c, option)
		if d := cmp.Diff(want, c); d != "" {
			t.Errorf("%s: %s", option, d)
		}
	}
}
