package spec

import (
	"fmt"
	"slices"
	"strings"
)

// Verdict says what becomes of an attribute.
type Verdict string

// Verdicts.
const (
	Honoured Verdict = "honoured"
	Ignored  Verdict = "ignored" // with one warning where it is written
	Refused  Verdict = "refused" // an error where it is written
	Given    Verdict = "given"   // it is so anyway, without it too
)

// Rule is what happens to an attribute and to all below it that have no rule of
// their own.
type Rule struct {
	Path    string // "*" is any name, "[]" any list item
	Verdict Verdict
	Reason  string // why it is not honoured
}

func (r *Rule) depth() int { return strings.Count(r.Path, ".") + 1 }

// Reasons that several attributes share.
const (
	notYet     = "not supported yet"
	noSwarm    = "there is one host, as with docker compose"
	noWindows  = "it is for Windows containers"
	aNote      = "a note for people and tools, which config prints"
	noSwap     = "a machine has no swap"
	noRealtime = "let the service set its own priorities: cap_add: [SYS_NICE]"
	noBuilding = "its image must be there already: nothing is built yet" // the planner refuses what is not
)

// Rules is the whole table: every attribute of the compose specification has a
// row here or inherits one, and a key that has none is refused, so that
// nothing is dropped in silence. docs/compose.md is made from it.
var Rules = slices.Concat(projectRules, under("services.*.", containerRules), hookRules())

// projectRules are those about what is no container, and about what only services
// have.
var projectRules = []Rule{
	{"name", Honoured, ""},
	{"version", Ignored, ""}, // with docker compose's own words
	{"include", Honoured, ""},
	{"services", Honoured, ""},
	{"jobs", Ignored, "nothing runs jobs yet"},
	{"models", Ignored, "there is no model runner"},

	{"networks", Honoured, ""},
	{"networks.*.attachable", Given, "containers of any project may be on it"},
	{"networks.*.ipam.driver", Ignored, "addresses are given by the network itself"},
	{"networks.*.ipam.options", Ignored, "addresses are given by the network itself"},
	{"volumes", Honoured, ""},
	{"configs", Honoured, ""},
	{"configs.*.labels", Given, aNote},
	{"configs.*.name", Given, aNote},
	{"secrets", Honoured, ""},
	{"secrets.*.labels", Given, aNote},
	{"secrets.*.name", Given, aNote},

	{"services.*.deploy", Honoured, ""},
	{"services.*.deploy.mode", Ignored, noSwarm},
	{"services.*.deploy.endpoint_mode", Ignored, noSwarm},
	{"services.*.deploy.labels", Ignored, noSwarm},
	{"services.*.deploy.placement", Ignored, noSwarm},
	{"services.*.deploy.update_config", Ignored, noSwarm},
	{"services.*.deploy.rollback_config", Ignored, noSwarm},
	{"services.*.deploy.restart_policy", Honoured, ""},
	{"services.*.deploy.resources.reservations.cpus", Ignored, "machines share the host's processors"},
	{"services.*.deploy.resources.reservations.generic_resources", Ignored, noSwarm},
	{"services.*.deploy.resources.reservations.devices", Refused, "GPUs are not passed into machines"},

	{"services.*.attach", Honoured, ""},
	{"services.*.build", Honoured, noBuilding},
	{"services.*.container_name", Honoured, ""},
	{"services.*.depends_on", Honoured, ""},
	{"services.*.develop", Ignored, "there is no watch command yet"},
	{"services.*.expose", Honoured, ""},
	{"services.*.extends", Honoured, ""},
	{"services.*.external_links", Honoured, ""},
	{"services.*.healthcheck", Honoured, ""},
	{"services.*.links", Honoured, ""},
	{"services.*.ports", Honoured, ""},
	{"services.*.ports.[].app_protocol", Given, aNote},
	{"services.*.ports.[].mode", Given, "there is one host, so that both are the same"},
	{"services.*.pre_start", Honoured, ""},
	{"services.*.post_start", Honoured, ""},
	{"services.*.pre_stop", Honoured, ""},
	{"services.*.profiles", Honoured, ""},
	{"services.*.provider", Honoured, ""},
	{"services.*.restart", Honoured, ""},
	{"services.*.scale", Honoured, ""},
	{"services.*.stdin_open", Honoured, ""},
	{"services.*.tty", Honoured, ""},
}

// containerRules are those about what every container has, that of a pre_start
// hook too, below whatever it is written for.
var containerRules = []Rule{
	{"annotations", Honoured, ""},
	{"blkio_config", Honoured, ""}, // by value
	{"blkio_config.weight", Ignored, "nobody else is on the machine's disks"},
	{"blkio_config.weight_device", Ignored, "nobody else is on the machine's disks"},
	{"cap_add", Honoured, ""},
	{"cap_drop", Honoured, ""},
	{"cgroup", Honoured, ""},
	{"cgroup_parent", Ignored, "a machine has groups for its containers only"},
	{"command", Honoured, ""},
	{"configs", Honoured, ""},
	{"cpu_count", Honoured, ""},
	{"cpu_percent", Ignored, noWindows},
	{"cpu_period", Honoured, ""},
	{"cpu_quota", Honoured, ""},
	{"cpu_rt_period", Ignored, noRealtime},
	{"cpu_rt_runtime", Ignored, noRealtime},
	{"cpu_shares", Honoured, ""},
	{"cpus", Honoured, ""},
	{"cpuset", Honoured, ""},
	{"credential_spec", Refused, noWindows},
	{"device_cgroup_rules", Honoured, ""},
	{"devices", Honoured, ""}, // the machine's own; others are refused by value
	{"dns", Honoured, ""},
	{"dns_opt", Honoured, ""},
	{"dns_search", Honoured, ""},
	{"domainname", Honoured, ""},
	{"entrypoint", Honoured, ""},
	{"env_file", Honoured, ""},
	{"environment", Honoured, ""},
	{"extra_hosts", Honoured, ""},
	{"gpus", Refused, "GPUs are not passed into machines"},
	{"group_add", Honoured, ""},
	{"hostname", Honoured, ""},
	{"image", Honoured, ""},
	{"init", Honoured, ""},
	{"ipc", Honoured, ""}, // by value
	{"isolation", Ignored, noWindows},
	{"label_file", Honoured, ""},
	{"labels", Honoured, ""},
	{"logging", Honoured, ""},
	{"mac_address", Honoured, ""},
	{"mem_limit", Honoured, ""},
	{"mem_reservation", Honoured, ""},
	{"mem_swappiness", Ignored, noSwap},
	{"memswap_limit", Honoured, ""},
	{"models", Refused, "there is no model runner"},
	{"network_mode", Honoured, ""}, // by value
	{"networks", Honoured, ""},
	{"networks.*.driver_opts", Honoured, ""}, // by value
	{"networks.*.link_local_ips", Honoured, ""},
	{"oom_kill_disable", Ignored, "cgroup v2 has no such thing, with docker neither"},
	{"oom_score_adj", Honoured, ""},
	{"pid", Honoured, ""}, // by value
	{"pids_limit", Honoured, ""},
	{"platform", Honoured, ""},
	{"privileged", Honoured, ""},
	{"pull_policy", Honoured, ""},
	{"pull_refresh_after", Ignored, "write pull_policy: every_DURATION"},
	{"read_only", Honoured, ""},
	{"runtime", Ignored, "the runtime is a machine"},
	{"secrets", Honoured, ""},
	{"security_opt", Honoured, ""}, // by value
	{"shm_size", Honoured, ""},
	{"stop_grace_period", Honoured, ""},
	{"stop_signal", Honoured, ""},
	{"storage_opt", Honoured, ""},
	{"sysctls", Honoured, ""},
	{"tmpfs", Honoured, ""},
	{"ulimits", Honoured, ""},
	{"umask", Honoured, ""},
	{"use_api_socket", Refused, "a machine has no docker engine to talk to"},
	{"user", Honoured, ""},
	{"userns_mode", Ignored, "users are not mapped: the kernel is the service's own"},
	{"uts", Honoured, ""}, // by value
	{"volumes", Honoured, ""},
	{"volumes.[].consistency", Given, "host and machine always see the same files"},
	{"volumes.[].bind.selinux", Given, "a machine sees files through a process of its user's"},
	{"volumes.[].bind.recursive", Ignored, "a bind shows what is mounted below it, read-only if it is"},
	{"volumes.[].volume.labels", Honoured, ""}, // by value
	{"volumes_from", Honoured, ""},
	{"working_dir", Honoured, ""},
}

// hookRules are those of what a pre_start hook says, as far as it is not simply
// honoured: a hook shares much with its service, and leaves no container behind.
func hookRules() []Rule {
	const (
		network = "a hook has the network of its service"
		shared  = "a hook has the namespaces and mounts of its service"
		gone    = "a hook leaves no container behind"
		killed  = "a hook is not stopped: one that is cancelled is killed"
	)
	own := map[string]Rule{}
	for _, r := range []Rule{
		{"annotations", Ignored, gone},
		{"dns", Refused, network},
		{"dns_opt", Refused, network},
		{"dns_search", Refused, network},
		{"domainname", Refused, network},
		{"extra_hosts", Refused, network},
		{"hostname", Refused, network},
		{"ipc", Refused, shared},
		{"label_file", Ignored, gone},
		{"labels", Ignored, gone},
		{"logging", Ignored, gone},
		{"mac_address", Refused, network},
		{"network_mode", Refused, network},
		{"networks", Refused, network},
		{"pid", Refused, shared},
		{"stop_grace_period", Ignored, killed},
		{"stop_signal", Ignored, killed},
		{"volumes.[].volume.labels", Ignored, gone},
		{"volumes_from", Refused, shared},
	} {
		own[r.Path] = r
	}
	var rules []Rule
	for _, r := range containerRules {
		top, _, _ := strings.Cut(r.Path, ".")
		if o, ok := own[r.Path]; ok {
			r = o
		} else if _, ok := own[top]; ok {
			continue
		}
		if r.Verdict != Honoured {
			rules = append(rules, r)
		}
	}
	return under("services.*.pre_start.[].", rules)
}

func under(prefix string, rules []Rule) []Rule {
	out := slices.Clone(rules)
	for i := range out {
		out[i].Path = prefix + out[i].Path
	}
	return out
}

// ruleNode is the table as a tree.
type ruleNode struct {
	rule *Rule
	sub  map[string]*ruleNode
}

var ruleTree = func() *ruleNode {
	root := &ruleNode{}
	for i := range Rules {
		n := root
		for _, part := range strings.Split(Rules[i].Path, ".") {
			if n.sub == nil {
				n.sub = map[string]*ruleNode{}
			}
			if n.sub[part] == nil {
				n.sub[part] = &ruleNode{}
			}
			n = n.sub[part]
		}
		n.rule = &Rules[i]
	}
	return root
}()

// RuleFor returns the rule that holds for a path of the schema, or nil.
func RuleFor(path ...string) *Rule {
	n, rule := ruleTree, (*Rule)(nil)
	for _, part := range path {
		next := n.sub[part]
		if next == nil {
			next = n.sub["*"]
		}
		if next == nil {
			break
		}
		if n = next; n.rule != nil {
			rule = n.rule
		}
	}
	return rule
}

// knownServiceKey tells whether a service's attribute has a rule of its own: if
// not it is unknown, whatever the rule of the service says.
func knownServiceKey(key string) bool {
	return ruleTree.sub["services"].sub["*"].sub[key] != nil
}

// checkSupport walks every key that is written for what this run uses, and
// reports what is not honoured: each key once, where it stands.
func (c *converter) checkSupport() {
	for _, p := range sortedKeys(c.x.at) {
		e := c.x.at[p]
		if !e.key {
			continue
		}
		path, pattern := strings.Split(p, pathSep), strings.Split(e.pattern, pathSep)
		if n := len(path); path[n-1] == extensionKey && !(n == 3 && (path[0] == "services" || path[0] == "volumes")) && !c.namesFree(pattern) {
			c.faults = append(c.faults, &Error{Pos: e.pos, Err: fmt.Errorf("%s means nothing here", strings.Join(path, ".")), Hint: "it is an attribute of services and volumes"})
			continue
		}
		if !c.inUse(path) || slices.ContainsFunc(pattern[min(len(pattern), 1):], isExtension(pattern)) || strings.HasPrefix(path[0], "x-") {
			continue
		}
		rule := RuleFor(pattern...)
		at := strings.Join(path, ".")
		if len(path) == 3 && path[0] == "services" && !knownServiceKey(path[2]) {
			rule = nil
		}
		switch {
		case rule == nil && c.wrong:
		case rule == nil:
			c.faults.add(e.pos, fmt.Errorf("%s is not known to this version", at))
		case rule.depth() != len(path): // below the key that the rule is about
		case rule.Verdict == Refused:
			c.faults.add(e.pos, fmt.Errorf("%s is not supported: %s", at, rule.Reason))
		case rule.Path == "version":
			c.warn(Warning{Pos: e.pos, Key: at, Text: "the attribute `version` is obsolete, it will be ignored, please remove it to avoid potential confusion"})
		case rule.Verdict == Ignored && !harmless(path, e.text):
			c.warn(Warning{Pos: e.pos, Key: at, Text: strings.Join(path[min(2, len(path)-1):], ".") + " is ignored: " + rule.Reason})
		}
	}
}

// namesFree tells whether a path ends in a name that the user chose, or is below
// a key that nobody reads.
func (c *converter) namesFree(pattern []string) bool {
	n := len(pattern)
	return n == 2 && slices.Contains(userNamed, pattern[0]) ||
		isFree(pattern[:n-1]) ||
		slices.ContainsFunc(pattern[:n-1], isExtension(pattern)) || strings.HasPrefix(pattern[0], "x-") && n > 1
}

// userNamed are sections whose keys are the user's.
var userNamed = []string{"services", "networks", "volumes", "configs", "secrets", "models", "jobs"}

// harmless are values that ask for what is anyway the case.
func harmless(path []string, value string) bool {
	return slices.Contains(harmlessValues[path[len(path)-1]], value)
}

var harmlessValues = map[string][]string{
	"endpoint_mode":    {"dnsrr"}, // a service's name has the addresses of all its replicas
	"isolation":        {"default"},
	"mode":             {"replicated"},
	"oom_kill_disable": {"false"},
	"recursive":        {"enabled", "readonly"},
	"runtime":          {"runc", "io.containerd.runc.v2"},
	"userns_mode":      {"host"},
}

// inUse tells whether a path belongs to something this run makes: a service
// that no profile selects is not looked at.
func (c *converter) inUse(path []string) bool {
	if len(path) < 2 {
		return true
	}
	switch path[0] {
	case "services":
		_, ok := c.src.Services[path[1]]
		return ok
	case "networks":
		_, ok := c.src.Networks[path[1]]
		return ok
	case "volumes":
		_, ok := c.src.Volumes[path[1]]
		return ok
	case "configs":
		_, ok := c.src.Configs[path[1]]
		return ok
	case "secrets":
		_, ok := c.src.Secrets[path[1]]
		return ok
	}
	return len(path) == 1
}

// isExtension finds x- keys below names that the user chose.
func isExtension(pattern []string) func(string) bool {
	return func(part string) bool {
		if !strings.HasPrefix(part, "x-") {
			return false
		}
		i := slices.Index(pattern, part)
		named := i == 1 && slices.Contains(userNamed, pattern[0])
		return !named && !isFree(pattern[:i])
	}
}

// isFree tells whether the keys below a path are the user's.
func isFree(pattern []string) bool {
	if len(pattern) < 3 || pattern[0] != "services" {
		return false
	}
	return freeMaps[strings.TrimPrefix(strings.Join(pattern[2:], "."), "pre_start.[].")]
}

// freeMaps are maps of services and hooks whose keys are the user's.
var freeMaps = map[string]bool{
	"environment": true, "labels": true, "annotations": true, "depends_on": true, "sysctls": true, "networks": true,
	"extra_hosts": true, "build.args": true, "post_start.[].environment": true, "pre_stop.[].environment": true, "logging.options": true, "ulimits": true,
}
