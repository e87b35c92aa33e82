//go:build linux

package agent_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stackvm/stack/guest/agent/boottest"
	"github.com/stackvm/stack/guest/wire"
)

// What a container may do, and may not, is docker's; and what was asked for on
// top is there.
func TestConfinement(t *testing.T) {
	m := boottest.Boot(t, boottest.Options{Disks: []boottest.Disk{
		{Serial: "img", Path: boottest.Image(t, nil), ReadOnly: true},
	}})
	events := m.Events()
	const wait = "trap exit TERM; while :; do sleep 1000 & wait; done"
	c := shell(idA, wait)
	c.Root.Scratch = ""
	c.CapAdd, c.CapDrop = []string{"NET_ADMIN"}, []string{"MKNOD", "CAP_AUDIT_WRITE"}
	c.NoNewPrivs = true
	c.Rlimits = []wire.Rlimit{{Name: "nproc", Soft: 100, Hard: 200}}
	c.Sysctls = map[string]string{"net.core.somaxconn": "123", "kernel.msgmax": "9999"}
	c.Limits = wire.Limits{CPUs: 0.5, MemoryBytes: 64 << 20, SwapBytes: 64 << 20, PIDs: 50, CPUShares: 512}
	c.OOMScoreAdj = 77
	c.ReadOnlyRoot = true
	c.Hostname, c.Domainname = "box", "example.org"
	c.User, c.Groups = "app", []string{"more"}
	c.Health = &wire.Healthcheck{Test: []string{"sh", "-c", "echo probed"}, Interval: time.Minute, Timeout: time.Minute, Retries: 1}
	m.Call(wire.OpCreate, c, nil)
	m.Call(wire.OpStart, wire.ContainerRef{ID: idA}, nil)
	healthy := m.Await(events, func(e wire.Event) bool { return e.Kind == wire.EventHealth && e.Health == wire.HealthHealthy })
	if healthy.Output != "probed\n" {
		t.Errorf("probe's output %q", healthy.Output)
	}
	check := func(id, script, want string) {
		t.Helper()
		if got := strings.TrimSpace(m.Sh(id, script)); got != want {
			t.Errorf("%s\n got %q\nwant %q", script, got, want)
		}
	}
	check(idA, "id; echo $HOME; hostname; cat /proc/sys/kernel/domainname", "uid=1000(app) gid=1000(app) groups=1000(app),2000(extra),3000(more)\n/home/app\nbox\nexample.org")
	check(idA, "grep -E '^(Cap(Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp):' /proc/self/status | tr '\\n' ' '",
		"CapPrm:\t0000000000000000 CapEff:\t0000000000000000 CapBnd:\t00000000800435fb CapAmb:\t0000000000000000 NoNewPrivs:\t1 Seccomp:\t2")
	check(idA, "ulimit -u; ulimit -n; cat /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax /proc/self/oom_score_adj", "100\n1048576\n123\n9999\n77")
	check(idA, "cd /sys/fs/cgroup; cat cpu.max memory.max memory.swap.max pids.max cpu.weight; (echo 1 > pids.max) 2>/dev/null || echo ro", "50000 100000\n67108864\n0\n50\n20\nro")
	check(idA, "(touch /x) 2>&1 | grep -o 'Read-only'; (touch /proc/sys/kernel/x) 2>/dev/null || echo no; cat /proc/kcore | wc -c; ls /sys/firmware | wc -l", "Read-only\nno\n0\n0")
	check(idA, "ls /dev | tr '\\n' ' '", "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero")
	check(idA, "ls -d /proc/[0-9]* | wc -l | awk '{print ($1 < 8)}'; cat /proc/1/comm", "1\nsh")

	// As root: nodes may be made, and not used; nothing may be mounted.
	d := shell(idB, wait)
	d.Root.Scratch = ""
	m.Call(wire.OpCreate, d, nil)
	m.Call(wire.OpStart, wire.ContainerRef{ID: idB}, nil)
	check(idB, "grep CapEff /proc/self/status", "CapEff:\t00000000a80425fb")
	check(idB, "mknod /tmp/sda b 8 0 && (dd if=/tmp/sda of=/dev/null bs=512 count=1 2>&1 | grep -o 'not permitted')", "not permitted")
	check(idB, "mknod /tmp/null c 1 3 && echo x > /tmp/null && echo ok", "ok")
	check(idB, "mount -t tmpfs x /tmp 2>&1 | grep -o 'denied\\|permitted'; unshare -U true 2>&1 | grep -o 'not permitted'", "denied\nnot permitted")
	check(idB, "touch /x && echo ok; cat /proc/1/environ | tr '\\0' '\\n' | sort", "ok\nHOME=/root\nHOSTNAME=bbbbbbbbbbbb\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	r, err := m.Exec(wire.Exec{ID: idB, Args: []string{"sh", "-c", "mount -t tmpfs none /tmp && grep CapEff /proc/self/status"}, Privileged: true})
	if err != nil || r.Code != 0 {
		t.Errorf("privileged exec: %v, %+v", err, r)
	}

	for _, tt := range []struct {
		exec wire.Exec
		code wire.ErrorCode
		text string
	}{
		{wire.Exec{Args: []string{"nope"}}, wire.CodeNoCommand, `exec: "nope": executable file not found in $PATH`},
		{wire.Exec{Args: []string{"/nope"}}, wire.CodeNoCommand, `exec: "/nope": no such file or directory`},
		{wire.Exec{Args: []string{"/etc/passwd"}}, wire.CodeCannotExec, `exec: "/etc/passwd": permission denied`},
		{wire.Exec{Args: []string{"true"}, User: "nobody-here"}, wire.CodeCannotExec, "unable to find user nobody-here: no matching entries in passwd file"},
		{wire.Exec{Args: []string{"true"}, WorkingDir: "/missing"}, wire.CodeCannotExec, `working directory "/missing": no such file or directory`},
	} {
		tt.exec.ID = idB
		_, err := m.Exec(tt.exec)
		if e, ok := errors.AsType[*wire.Error](err); !ok || e.Code != tt.code || e.Message != tt.text {
			t.Errorf("exec %q: %#v, want %s %q", tt.exec.Args, err, tt.code, tt.text)
		}
	}
}

// What sets a container apart from its machine can be had in parts.
func TestLooseConfinement(t *testing.T) {
	m := boottest.Boot(t, boottest.Options{Disks: []boottest.Disk{
		{Serial: "img", Path: boottest.Image(t, nil), ReadOnly: true},
	}})
	umask := uint32(0o077)
	c := shell(idA, "umask > /tmp/mask; trap exit TERM; while :; do sleep 1000 & wait; done")
	c.Root.Scratch = ""
	c.Umask, c.HostCgroup, c.WritableCgroups, c.Unmasked = &umask, true, true, true
	c.DeviceRules = []string{"c 10:229 rwm", "a *:* r"}
	c.Limits = wire.Limits{CPUs: 0.5, CPUPeriod: 60_000, IO: wire.IORates{ReadBytes: 1 << 20, WriteOps: 50}}
	m.Call(wire.OpCreate, c, nil)
	m.Call(wire.OpStart, wire.ContainerRef{ID: idA}, nil)
	for script, want := range map[string]string{
		"cat /tmp/mask; umask":                                                  "0077\n0077",
		"cat /proc/self/cgroup":                                                 "0::/" + idA,
		"mkdir /sys/fs/cgroup/" + idA + "/sub && echo ok":                       "ok",
		"cat /sys/fs/cgroup/" + idA + "/cpu.max":                                "30000 60000",
		"cat /sys/fs/cgroup/" + idA + "/io.max":                                 "8:0 rbps=1048576 wbps=max riops=max wiops=50",
		"mount | grep -c -E ' on /proc/(kcore|sys|keys) ' || true":              "0",
		"mknod /tmp/fuse c 10 229 && head -c 0 /tmp/fuse && echo ok":            "ok",
		"mknod /tmp/zero2 c 1 5 && head -c 2 /tmp/zero2 | wc -c":                "2",
		"mknod /tmp/tap c 10 200; (echo > /tmp/tap) 2>&1 | grep -o 'permitted'": "permitted",
		"mknod /tmp/disk b 8 0 2>&1 | grep -o 'permitted'":                      "permitted",
	} {
		if got := strings.TrimSpace(m.Sh(idA, script)); got != want {
			t.Errorf("%s\n got %q\nwant %q", script, got, want)
		}
	}
	c.ID, c.DeviceRules = idB, []string{"x 1:3 rwm"}
	if err := m.Try(wire.OpCreate, c, nil); err == nil {
		t.Error("a device rule of no type was accepted")
	}
}

// A privileged container has the machine, but not the agent's way out of it.
func TestPrivileged(t *testing.T) {
	m := boottest.Boot(t, boottest.Options{Disks: []boottest.Disk{
		{Serial: "img", Path: boottest.Image(t, nil), ReadOnly: true},
	}})
	c := shell(idA, "trap exit TERM; while :; do sleep 1000 & wait; done")
	c.Root.Scratch = ""
	c.Privileged = true
	m.Call(wire.OpCreate, c, nil)
	m.Call(wire.OpStart, wire.ContainerRef{ID: idA}, nil)
	for script, want := range map[string]string{
		"mount -t tmpfs x /tmp && echo ok":                              "ok",
		"mkdir /sys/fs/cgroup/sub && echo ok":                           "ok",
		"echo 1 > /proc/sys/net/ipv4/ip_forward && echo ok":             "ok",
		"ls /dev | grep -c -E '^(vport|sd)' || true":                    "0",
		"ls /dev/kmsg /dev/fuse /dev/loop-control /dev/net/tun | wc -l": "4",
		"mknod /d b 8 0 2>&1 | grep -o permitted":                       "permitted",
		"grep CapEff /proc/self/status":                                 "CapEff:\t000001ffffffffff",
	} {
		if got := strings.TrimSpace(m.Sh(idA, script)); got != want {
			t.Errorf("%s\n got %q\nwant %q", script, got, want)
		}
	}
}
