package e2e

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// seen is an attribute as it shows inside a container.
type seen struct {
	path    string // its row in docs/compose.md
	service string
	yaml    string // below the service; a line each
	script  string // for a shell in the container, as the container's user
	want    string // a regular expression
}

// asRoot begins scripts that run as root.
const asRoot = "# as root\n"

// inside are attributes and what shows them. Services share one machine.
var inside = []seen{
	{"services.*.blkio_config", "shaped", "blkio_config: {device_read_bps: [{path: /dev/sda, rate: 1m}]}", "cat /sys/fs/cgroup/io.max", `rbps=1048576`},
	{"services.*.cap_add", "shaped", "cap_add: [SYS_TIME]", "grep CapBnd /proc/1/status", `\s00000000aa`},
	{"services.*.cap_drop", "shaped", "cap_drop: [CHOWN]", "grep CapBnd /proc/1/status", `0425fa$`},
	{"services.*.configs", "shaped", "configs: [{source: conf, target: /etc/conf, uid: '3', gid: '33', mode: 0440}]", "stat -c '%a %u:%g' /etc/conf; cat /etc/conf", `^440 3:33\nof the config$`},
	{"services.*.cpu_shares", "shaped", "cpu_shares: 512", "cat /sys/fs/cgroup/cpu.weight", `^20$`},
	{"services.*.cpus", "shaped", "cpus: 0.5", "cat /sys/fs/cgroup/cpu.max", `^50000 100000$`},
	{"services.*.cpuset", "shaped", "cpuset: '0'", "cat /sys/fs/cgroup/cpuset.cpus", `^0$`},
	{"services.*.dns_opt", "shaped", "dns_opt: ['ndots:3']", "cat /etc/resolv.conf", `ndots:3`},
	{"services.*.dns_search", "shaped", "dns_search: [example.org]", "cat /etc/resolv.conf", `search example.org`},
	{"services.*.domainname", "shaped", "domainname: example.org", "cat /proc/sys/kernel/domainname", `^example.org$`},
	{"services.*.env_file", "shaped", "env_file: [vars.env]", "echo $FROM_FILE", `^file$`},
	{"services.*.environment", "shaped", "environment: {FROM_HERE: here}", "echo $FROM_HERE", `^here$`},
	{"services.*.extra_hosts", "shaped", "extra_hosts: ['far:192.0.2.1']", "cat /etc/hosts", `192\.0\.2\.1\s+far`},
	{"services.*.group_add", "shaped", "group_add: ['50']", "id -G", `\b50\b`},
	{"services.*.hostname", "shaped", "hostname: shaped-host", "hostname", `^shaped-host$`},
	{"services.*.mac_address", "shaped", "mac_address: '02:42:ac:11:00:77'", "cat /sys/class/net/*/address", `(?m)^02:42:ac:11:00:77$`},
	{"services.*.mem_limit", "shaped", "mem_limit: 64m", "cat /sys/fs/cgroup/memory.max", `^67108864$`},
	{"services.*.mem_reservation", "shaped", "mem_reservation: 32m", "cat /sys/fs/cgroup/memory.low", `^33554432$`},
	{"services.*.memswap_limit", "shaped", "memswap_limit: 96m", "cat /sys/fs/cgroup/memory.swap.max", `^33554432$`},
	{"services.*.networks", "shaped", "networks:\n      default:\n        interface_name: net7", "ls /sys/class/net", `net7`},
	{"services.*.networks.*.driver_opts", "shaped", "    driver_opts: {com.docker.network.endpoint.sysctls: net.ipv4.conf.IFNAME.log_martians=1}", "cat /proc/sys/net/ipv4/conf/[en]*/log_martians", `^1$`},
	{"services.*.networks.*.link_local_ips", "shaped", "    link_local_ips: [169.254.7.7]", "ip addr", `inet 169\.254\.7\.7/16`},
	{"services.*.oom_score_adj", "shaped", "oom_score_adj: 77", "cat /proc/1/oom_score_adj", `^77$`},
	{"services.*.pids_limit", "shaped", "pids_limit: 99", "cat /sys/fs/cgroup/pids.max", `^99$`},
	{"services.*.read_only", "shaped", "read_only: true", asRoot + "touch /x", `Read-only file system`},
	{"services.*.secrets", "shaped", "secrets: [{source: token, uid: '33', mode: 0400}]", "stat -c '%a %u:%g' /run/secrets/token; cat /run/secrets/token", `^400 33:0\nFROM_FILE=file$`},
	{"services.*.security_opt", "shaped", "security_opt: ['no-new-privileges:true']", "grep NoNewPrivs /proc/1/status", `1$`},
	{"services.*.shm_size", "shaped", "shm_size: 16m", "df -k /dev/shm", `\s16384\s`},
	{"services.*.sysctls", "shaped", "sysctls: {net.core.somaxconn: 1234}", "cat /proc/sys/net/core/somaxconn", `^1234$`},
	{"services.*.tmpfs", "shaped", "tmpfs: ['/scratch:size=1m,uid=33,mode=700']", "stat -c %a:%u /scratch; df -k /scratch", `^700:33\n(.*\n)*.*\s1024\s`},
	{"services.*.ulimits", "shaped", "ulimits: {nofile: {soft: 1000, hard: 2000}}", "ulimit -n; ulimit -Hn", `^1000\n2000$`},
	{"services.*.umask", "shaped", "umask: 0027", "umask", `^0027$`},
	{"services.*.user", "shaped", "user: '33:33'", "id -u; grep Uid /proc/1/status", `^33\nUid:\s33\s33`},
	{"services.*.working_dir", "shaped", "working_dir: /var/made", "pwd", `^/var/made$`},

	{"services.*.cgroup", "loose", "cgroup: host", "cat /proc/self/cgroup", `^0::/[0-9a-f]{64}$`},
	{"services.*.cpu_period", "loose", "cpu_period: 60000", "cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/$(cat /proc/self/cgroup | cut -d/ -f2)/cpu.max 2>/dev/null", `\b60000$`},
	{"services.*.cpu_quota", "loose", "cpu_quota: 30000", "cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/$(cat /proc/self/cgroup | cut -d/ -f2)/cpu.max 2>/dev/null", `\b30000\b`},
	{"services.*.device_cgroup_rules", "loose", "device_cgroup_rules: ['c 10:229 rwm']", "mknod /tmp/fuse c 10 229; head -c 0 /tmp/fuse && echo opened", `^opened$`},
	{"services.*.devices", "loose", "devices: ['/dev/net/tun:/dev/tunnel']", "ls -l /dev/tunnel", `^c.*10, +200`},
	{"services.*.init", "loose", "init: true", "cat /proc/1/comm", `^stack-init$`},
	{"services.*.network_mode", "loose", "network_mode: none", "ls /sys/class/net", `^lo$`},
	{"services.*.storage_opt", "loose", "storage_opt: {size: 300m}", "df -m / | awk 'END {print ($2 < 400)}'", `^1$`},
	{"services.*.tty", "loose", "tty: true", "readlink /proc/1/fd/0", `^/dev/(pts|console)`},
	{"services.*.uts", "loose", "uts: host", "hostname", ""}, // the host's name
	{"services.*.volumes", "loose", "volumes: ['data:/data']", "mount", `(?m)^\S+ on /data type ext4`},

	{"services.*.deploy", "guest", "deploy: {resources: {limits: {pids: 55}}}", "cat /sys/fs/cgroup/pids.max", `^55$`},
	{"services.*.ipc", "guest", "ipc: 'service:shaped'", "ls /dev/shm", `^mark$`},
	{"services.*.external_links", "guest", "external_links: ['inside-shaped-1:far']", "nslookup far 127.0.0.11", `Address.*172\.`},
	{"services.*.links", "guest", "links: ['shaped:base']", "nslookup base 127.0.0.11", `Address.*172\.`},
	{"services.*.pid", "guest", "pid: 'service:shaped'", "ps", `sleep 77777`},
	{"services.*.privileged", "guest", "privileged: true", "grep CapEff /proc/self/status", `000001ffffffffff$`},
	{"services.*.volumes_from", "other", "volumes_from: [loose]", "mount", `(?m)^\S+ on /data type ext4`},
}

// TestAttributesInside brings up services that have every attribute which shows
// inside a container, and looks for each.
func TestAttributesInside(t *testing.T) {
	h := newHome(t)
	h.write("vars.env", "FROM_FILE=file\n")
	commands := map[string]string{"shaped": "touch /dev/shm/mark; exec sleep 77777"}
	bodies, scripts := map[string]string{}, map[string]string{}
	for i, a := range inside {
		bodies[a.service] += "    " + a.yaml + "\n"
		run := a.service
		if strings.HasPrefix(a.script, asRoot) {
			run = "-u 0 " + run
		}
		scripts[run] += fmt.Sprintf("echo; echo @@%d\n(%s) 2>&1\n", i, a.script)
	}
	text := "configs: {conf: {content: of the config}}\nsecrets: {token: {file: vars.env}}\nvolumes: {data: {}}\nservices:\n"
	for _, name := range slices.Sorted(maps.Keys(bodies)) {
		command := commands[name]
		if command == "" {
			command = "exec sleep 88888"
		}
		text += fmt.Sprintf("  %s:\n    image: busybox\n    command: [sh, -c, %q]\n    x-stack: {machine: one}\n%s", name, command, bodies[name])
	}
	h.write("compose.yaml", text)
	h.stack("-p", "inside", "up", "-d")
	out := map[int]string{}
	for run, script := range scripts {
		args := append([]string{"-p", "inside", "exec", "-T"}, strings.Fields(run)...)
		for _, part := range strings.Split(h.stack(append(args, "sh", "-c", script+"true")...), "\n@@")[1:] {
			var i int
			head, rest, _ := strings.Cut(part, "\n")
			if _, err := fmt.Sscan(head, &i); err != nil {
				t.Fatalf("%s: %v in %q", run, err, part)
			}
			out[i] = strings.TrimSpace(rest)
		}
	}
	t.Run("boots", func(*testing.T) {}) // for who drops attributes: what follows tells something
	for i, a := range inside {
		t.Run(a.path, func(t *testing.T) {
			want := a.want
			if want == "" {
				name, err := os.Hostname()
				if err != nil {
					t.Fatal(err)
				}
				want = "^" + regexp.QuoteMeta(name) + "$"
			}
			if !regexp.MustCompile(want).MatchString(out[i]) {
				t.Errorf("%s\n got %q\nwant %q", strings.TrimPrefix(a.script, asRoot), out[i], want)
			}
		})
	}
}
