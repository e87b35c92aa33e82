package supervisor

import (
	"cmp"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/spec"
)

// attributes are the honoured rows of spec.Rules, each with what is written to
// make it show: below service web, or, after "---", at the top level.
var attributes = []struct{ path, example string }{
	{"name", "---\nname: other"},
	{"include", "---\ninclude: [more.yaml]"},
	{"services", "---\nservices: {more: {image: 'app:1'}}"},
	{"networks", "networks: [n]\n---\nnetworks: {n: {internal: true}}"},
	{"volumes", "volumes: ['vol:/v']\n---\nvolumes: {vol: {x-stack: {size: 1g}}}"},
	{"configs", "configs: [c]\n---\nconfigs: {c: {content: text}}"},
	{"secrets", "secrets: [s]\n---\nsecrets: {s: {file: more.yaml}}"},
	{"services.*.deploy", "deploy: {resources: {limits: {pids: 7}}}"},
	{"services.*.deploy.restart_policy", "deploy:\n  replicas: 1\n  restart_policy: {condition: any, max_attempts: 3, delay: 7s, window: 9s}"},
	{"services.*.container_name", "container_name: mine"},
	{"services.*.depends_on", "depends_on: [db]"},
	{"services.*.expose", "expose: ['7000']"},
	{"services.*.external_links", "external_links: ['other-db-1:base']"},
	{"services.*.extends", "extends: {service: db}"},
	{"services.*.healthcheck", "healthcheck: {test: [CMD, 'true']}"},
	{"services.*.links", "links: ['db:base']"},
	{"services.*.ports", "ports: ['80']"},
	{"services.*.pre_start", "pre_start: [{command: ['true'], user: '7', per_replica: true}]"},
	{"services.*.post_start", "post_start: [{command: ['true']}]"},
	{"services.*.pre_stop", "pre_stop: [{command: ['true']}]"},
	{"services.*.profiles", "profiles: [off]"},
	{"services.*.provider", "provider: {type: aws}"},
	{"services.*.restart", "restart: always"},
	{"services.*.scale", "scale: 2"},
	{"services.*.stdin_open", "stdin_open: true"},
	{"services.*.tty", "tty: true"},
	{"services.*.annotations", "annotations: {a: b}"},
	{"services.*.blkio_config", "blkio_config: {device_read_bps: [{path: /dev/sda, rate: 1m}], device_write_iops: [{path: /dev/sda, rate: 9}]}"},
	{"services.*.cap_add", "cap_add: [NET_ADMIN]"},
	{"services.*.cap_drop", "cap_drop: [ALL]"},
	{"services.*.cgroup", "cgroup: host"},
	{"services.*.command", "command: [other]"},
	{"services.*.configs", "configs: [{source: top, target: /t, uid: '3', gid: '4', mode: 0400}]"},
	{"services.*.cpu_count", "cpu_count: 1"},
	{"services.*.cpu_period", "cpu_quota: 30000\ncpu_period: 60000"},
	{"services.*.cpu_quota", "cpu_quota: 30000"},
	{"services.*.cpu_shares", "cpu_shares: 99"},
	{"services.*.cpus", "cpus: 0.5"},
	{"services.*.cpuset", "cpuset: '0'"},
	{"services.*.device_cgroup_rules", "device_cgroup_rules: ['c 10:229 rwm']"},
	{"services.*.devices", "devices: [/dev/fuse]"},
	{"services.*.dns", "dns: [192.0.2.1]"},
	{"services.*.dns_opt", "dns_opt: ['ndots:3']"},
	{"services.*.dns_search", "dns_search: [example.org]"},
	{"services.*.domainname", "domainname: example.org"},
	{"services.*.entrypoint", "entrypoint: [other]"},
	{"services.*.env_file", "env_file: [more.env]"},
	{"services.*.environment", "environment: {A: b}"},
	{"services.*.extra_hosts", "extra_hosts: ['a:192.0.2.1', 'b=host-gateway']"},
	{"services.*.group_add", "group_add: [staff]"},
	{"services.*.hostname", "hostname: here"},
	{"services.*.image", "image: 'other:1'"},
	{"services.*.init", "init: true"},
	{"services.*.ipc", "ipc: 'service:db'"},
	{"services.*.label_file", "label_file: [more.env]"},
	{"services.*.labels", "labels: {a: b}"},
	{"services.*.logging", "logging: {driver: none}"},
	{"services.*.mac_address", "mac_address: '02:00:00:00:00:01'"},
	{"services.*.mem_limit", "mem_limit: 64m"},
	{"services.*.mem_reservation", "mem_reservation: 64m"},
	{"services.*.memswap_limit", "mem_limit: 64m\nmemswap_limit: 128m"},
	{"services.*.network_mode", "network_mode: none"},
	{"services.*.networks", "networks: {default: {aliases: [other], priority: 3, interface_name: net0}}"},
	{"services.*.networks.*.driver_opts", "networks:\n  default:\n    priority: 1\n    driver_opts: {com.docker.network.endpoint.ifname: net0, com.docker.network.endpoint.sysctls: net.ipv6.conf.IFNAME.accept_ra=2}"},
	{"services.*.networks.*.link_local_ips", "networks:\n  default:\n    priority: 1\n    link_local_ips: [169.254.7.7]"},
	{"services.*.oom_score_adj", "oom_score_adj: 7"},
	{"services.*.pid", "pid: 'service:db'"},
	{"services.*.pids_limit", "pids_limit: 7"},
	{"services.*.platform", "platform: linux/amd64"},
	{"services.*.privileged", "privileged: true"},
	{"services.*.pull_policy", "pull_policy: always"},
	{"services.*.read_only", "read_only: true"},
	{"services.*.secrets", "secrets: [{source: token, uid: '3', gid: '4', mode: 0400}]"},
	{"services.*.security_opt", "security_opt: ['no-new-privileges:true']"},
	{"services.*.shm_size", "shm_size: 16m"},
	{"services.*.stop_grace_period", "stop_grace_period: 3s"},
	{"services.*.stop_signal", "stop_signal: SIGUSR1"},
	{"services.*.storage_opt", "storage_opt: {size: 3g}"},
	{"services.*.sysctls", "sysctls: {net.core.somaxconn: 7}"},
	{"services.*.tmpfs", "tmpfs: ['/t:size=1m,mode=700,uid=3']"},
	{"services.*.ulimits", "ulimits: {nofile: {soft: 7, hard: 9}}"},
	{"services.*.umask", "umask: 0077"},
	{"services.*.uts", "uts: host"},
	{"services.*.user", "user: '7'"},
	{"services.*.volumes", "volumes: ['/anonymous']"},
	{"services.*.volumes.[].volume.labels", "volumes:\n- type: volume\n  target: /v\n  volume:\n    nocopy: true\n    labels: {a: b}"},
	{"services.*.volumes_from", "volumes_from: [db]"},
	{"services.*.working_dir", "working_dir: /w"},
}

// elsewhere are honoured rows that show in no plan and no container; docs/compose.md
// names the tests that show them.
var elsewhere = map[string]bool{"services.*.attach": true, "services.*.build": true}

// TestDroppedAttributesShow makes each project with and without an attribute:
// what is planned, and what its containers are made from, must differ. It fails
// for an honoured attribute that is in neither table.
func TestDroppedAttributesShow(t *testing.T) {
	plain := map[string]string{} // shapes without
	if one, again := shape(t, "---\n"), shape(t, "---\n"); one != again {
		t.Fatal("one project has two shapes: no comparison means anything")
	}
	examples := map[string]string{}
	for _, a := range attributes {
		examples[a.path] = a.example
	}
	for _, rule := range spec.Rules {
		if rule.Verdict != spec.Honoured || elsewhere[rule.Path] {
			continue
		}
		t.Run(rule.Path, func(t *testing.T) {
			extra, ok := examples[rule.Path]
			if !ok {
				t.Fatal("honoured, and no example shows what it does")
			}
			rest := without(rule.Path, extra)
			if plain[rest] == "" {
				plain[rest] = shape(t, rest)
			}
			if with := shape(t, extra); with == plain[rest] {
				t.Errorf("nothing differs without it:\n%s", with)
			}
		})
	}
	for path := range examples {
		if r := spec.RuleFor(strings.Split(path, ".")...); r == nil || r.Path != path || r.Verdict != spec.Honoured {
			t.Errorf("%s is no honoured attribute", path)
		}
	}
}

// without is an example without the line of its attribute.
func without(path, extra string) string {
	key := path[strings.LastIndex(path, ".")+1:] + ":"
	service, top, _ := strings.Cut(extra, "---\n")
	if strings.Contains(path, ".") {
		service = regexp.MustCompile(`(?m)^ *`+key+`.*\n?`).ReplaceAllString(service, "")
	} else {
		top = ""
		if key != "include:" && key != "name:" && key != "services:" {
			service = ""
		}
	}
	return service + "---\n" + top
}

// shape is what comes of a project: its plan, networks, volumes and containers,
// without what differs each time.
func shape(t *testing.T, extra string) string {
	t.Helper()
	service, top, _ := strings.Cut(extra, "---\n")
	text := "services:\n  db: {image: 'app:1', hostname: base, volumes: [/data]}\n  web:\n"
	if !strings.Contains(service, "image:") {
		text += "    image: 'app:1'\n"
	}
	for line := range strings.Lines(service) {
		text += "    " + strings.TrimRight(line, "\n") + "\n"
	}
	text += "configs: {top: {content: text}}\nsecrets: {token: {file: more.yaml}}\n"
	out, err := made(t, text, cmp.Or(top, "{}"))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// made is what comes of two compose files.
func made(t *testing.T, text, top string) (string, error) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "shop") // of one name, whatever the test's
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"compose.yaml": text, "top.yaml": top, "more.yaml": "services: {included: {image: 'app:1'}}", "more.env": "FROM_FILE=1\nQUOTED=\"q\"\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files := []string{filepath.Join(dir, "compose.yaml"), filepath.Join(dir, "top.yaml")}
	p, _, err := spec.Load(context.Background(), spec.Options{Files: files, Dir: dir, Environ: []string{}, HashKey: []byte("key")})
	if err != nil {
		return "", err
	}
	w := newWorld(t)
	w.images.add("other:1", w.images.images["app:1"].Config)
	st, err := w.s.Observe(p.Name, p)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := planner.Diff(p, st, planner.Options{Now: time.Unix(1e9, 0)})
	if err != nil {
		return "", err
	}
	all := []any{plan.String()}
	c := &change{s: w.s, project: p, name: p.Name}
	for _, step := range plan.Steps {
		if step.Verb != planner.Create {
			continue
		}
		step.Boot = false
		if err := c.do(t.Context(), step); err != nil {
			return "", err
		}
		switch step.Noun {
		case planner.NetworkNoun:
			all = append(all, w.s.network(step.Name).rec)
		case planner.VolumeNoun:
			v, err := w.volumes.Get(step.Name)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, v)
		case planner.ReplicaNoun:
			rec := w.rec(step.Name)
			rec.Hash, rec.Aspects = "", nil // they tell any difference
			delete(rec.Labels, "com.docker.compose.config-hash")
			resolved, err := w.s.opt.State.Resolved(rec.ID)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, rec, resolved)
			for _, name := range anonymous(rec) {
				v, err := w.volumes.Get(name)
				if err != nil {
					t.Fatal(err)
				}
				v.Disk = ""
				all = append(all, v)
			}
		}
	}
	out, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	clean := strings.ReplaceAll(string(out), w.dir, "DIR")
	clean = strings.ReplaceAll(clean, dir, "PROJECT")
	clean = strings.ReplaceAll(clean, "02:00:00:00:00:01", "the address asked for")
	for _, random := range []string{`[0-9a-f]{64}`, `[cvs][0-9a-f]{16}`, `"[0-9a-f]{12}"`, `\d{4}-\d\d-\d\dT[^"]*`, `([0-9a-f]{2}:){5}[0-9a-f]{2}`} {
		clean = regexp.MustCompile(random).ReplaceAllString(clean, "RANDOM")
	}
	// Where things stand moves with what is taken out before them.
	clean = regexp.MustCompile(`"pos": \{[^}]*\},?|\.yaml:\d+`).ReplaceAllString(clean, "")
	return regexp.MustCompile(` +`).ReplaceAllString(clean, " "), nil
}
