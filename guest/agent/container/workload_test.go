//go:build linux

package container

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stackvm/stack/guest/agent/launch"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

func TestBounding(t *testing.T) {
	for _, tt := range []struct {
		add, drop []string
		want      uint64
	}{
		{nil, nil, 0xa80425fb}, // what `docker run` shows
		{[]string{"NET_ADMIN"}, nil, 0xa80425fb | 1<<12},
		{[]string{"cap_sys_time"}, []string{"CAP_MKNOD"}, 0xa80425fb&^(1<<27) | 1<<25},
		{nil, []string{"ALL"}, 0},
		{[]string{"CHOWN"}, []string{"all"}, 1},
		{[]string{"ALL"}, nil, allCapabilities},
		{[]string{"ALL"}, []string{"SYS_ADMIN"}, allCapabilities &^ (1 << 21)},
	} {
		if got, err := bounding(tt.add, tt.drop); err != nil || got != tt.want {
			t.Errorf("add %v, drop %v: %#x, %v; want %#x", tt.add, tt.drop, got, err, tt.want)
		}
	}
	for _, bad := range []string{"", "NOPE", "CAP_"} {
		if _, err := bounding([]string{bad}, nil); err == nil {
			t.Errorf("capability %q was taken", bad)
		}
	}
}

func TestMergeEnv(t *testing.T) {
	got := mergeEnv([]string{"PATH=/bin", "A=1"}, []string{"B=2", "A=3", "EMPTY=", "novalue", "=x", "NUL=\x00"}, []string{"B=x=y"})
	if diff := cmp.Diff([]string{"PATH=/bin", "A=3", "B=x=y", "EMPTY="}, got); diff != "" {
		t.Error(diff)
	}
}

func TestParseSignal(t *testing.T) {
	for name, want := range map[string]unix.Signal{
		"SIGTERM": 15, "term": 15, "9": 9, "SIGRTMIN": 34, "RTMIN+3": 37, "SIGRTMAX": 64, "SIGRTMAX-1": 63, "64": 64,
	} {
		if got, err := parseSignal(name); err != nil || got != want {
			t.Errorf("parseSignal(%q) = %d, %v; want %d", name, got, err, want)
		}
	}
	for _, bad := range []string{"", "SIG", "0", "65", "-1", "SIGNOPE", "RTMIN+31", "RTMIN-1", "RTMAX+1"} {
		if got, err := parseSignal(bad); err == nil {
			t.Errorf("parseSignal(%q) = %d", bad, got)
		}
	}
}

func TestRlimits(t *testing.T) {
	got, err := rlimits([]wire.Rlimit{{Name: "nofile", Soft: 10, Hard: 20}, {Name: "memlock", Soft: -1, Hard: -1}})
	if err != nil {
		t.Fatal(err)
	}
	const unlimited = ^uint64(0)
	want := []launch.Rlimit{
		{Resource: unix.RLIMIT_NOFILE, Soft: 10, Hard: 20},
		{Resource: unix.RLIMIT_NPROC, Soft: unlimited, Hard: unlimited},
		{Resource: unix.RLIMIT_CORE, Soft: 0, Hard: unlimited},
		{Resource: unix.RLIMIT_MEMLOCK, Soft: unlimited, Hard: unlimited},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := rlimits([]wire.Rlimit{{Name: "nope"}}); err == nil {
		t.Error("an unknown limit was taken")
	}
}

func TestResolvConf(t *testing.T) {
	plugs := []plug{{}}
	for _, tt := range []struct {
		dns   wire.DNS
		plugs []plug
		want  string
	}{
		{wire.DNS{}, plugs, "nameserver 127.0.0.11\noptions ndots:0\n"},
		{wire.DNS{}, nil, "options ndots:0\n"},
		{wire.DNS{Search: []string{"a.b", "c"}, Options: []string{"ndots:5", "rotate"}}, plugs, "nameserver 127.0.0.11\nsearch a.b c\noptions ndots:5 rotate\n"},
		{wire.DNS{Search: []string{"."}}, plugs, "nameserver 127.0.0.11\noptions ndots:0\n"},
	} {
		c := &Container{spec: wire.Container{DNS: tt.dns}, plugs: tt.plugs}
		if got := c.resolvConf(); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.dns, got, tt.want)
		}
	}
}

func TestValidate(t *testing.T) {
	good := wire.Container{ID: "abc123", Args: []string{"sh"}}
	if err := validate(&good); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*wire.Container){
		"id leads elsewhere": func(c *wire.Container) { c.ID = "../x" },
		"no id":              func(c *wire.Container) { c.ID = "" },
		"no command":         func(c *wire.Container) { c.Args = nil },
		"relative mount":     func(c *wire.Container) { c.Mounts = []wire.Mount{{Target: "x"}} },
		"sysctl with dots":   func(c *wire.Container) { c.Sysctls = map[string]string{"../../etc/x": "1"} },
	} {
		c := good
		change(&c)
		if err := validate(&c); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestOfKernel(t *testing.T) {
	for path, want := range map[string]bool{
		"/dev": true, "/dev/shm/x": true, "/sys/../proc/x": true, "/proc": true, "/device": false, "/a/dev": false, "/": false,
	} {
		if got := ofKernel(path); got != want {
			t.Errorf("ofKernel(%q) = %v", path, got)
		}
	}
}
