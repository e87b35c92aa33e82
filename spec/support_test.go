package spec

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const composeDocHead = `# Compose attributes

What becomes of every attribute of the compose specification. This page is made from the table that the program
uses (` + "`spec.Rules`" + `); what is below an attribute follows it unless it has a row of its own.

- **honoured**: it does what the specification says.
- **ignored**: one warning names the file and line; the service runs.
- **refused**: an error names the file and line, before anything is changed.
- **given**: what it asks for is so anyway.

A key that the table does not know is refused. Keys that start with ` + "`x-`" + ` are free, ` + "`x-stack`" + ` is ours, see below.

The tests in the last column fail when the attribute is dropped: ` + "`make soak`" + ` takes each out of the compose files as they are
loaded, and runs the first; those of ` + "`TestAttributesInside`" + `, which looks into a container, once more all together. What
is below a row is looked at by ` + "`TestEveryLeafShows`" + `, which takes every honoured attribute of the specification out of one file.

| attribute | | why | tests |
|---|---|---|---|
`

// shownBy are the tests that fail when an attribute is dropped, where that is not
// shows alone; the module's root has the run that drops each.
var shownBy = map[string][]string{
	"services.*.attach": {"TestAttached"},
	"services.*.build":  {"TestGolden/pull_options"},
}

// shows has an example of every other honoured attribute; sees looks for those
// that show inside a container.
const (
	shows = "TestDroppedAttributesShow"
	sees  = "TestAttributesInside"
)

// seen are the attributes of e2e's table for sees.
func seen(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile("../e2e/attributes_test.go")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\t\{"([a-z_.*\[\]]+)", "`).FindAllSubmatch(text, -1) {
		out[string(m[1])] = true
	}
	return out
}

const composeDocTail = `
## By value

Some attributes are honoured for some values only; the others are errors at their line:

| attribute | values |
|---|---|
| ` + "`services.*.network_mode`" + ` | ` + "`none`; `bridge`, a network of the project (docker's is one for all); `host`, see below; `service:`, `container:`, in its machine" + ` |
| ` + "`services.*.ipc`, `services.*.pid`" + ` | ` + "`private`, `ipc: none`, `ipc: shareable`; `service:`, `container:`, in its machine; `host`" + ` is ignored with a warning: the host is the machine |
| ` + "`services.*.devices`" + ` | devices that a machine has of its own: ` + "%s" + ` |
| ` + "`services.*.volumes`" + ` | bind, volume, tmpfs, image; a ` + "`docker.sock`" + ` with ` + "`x-stack: {host_docker_socket: true}`" + ` only |
| ` + "`services.*.logging.driver`" + ` | ` + "`json-file`, `local`, `none`" + `; others are ignored with a warning |
| ` + "`services.*.security_opt`" + ` | ` + "`no-new-privileges`, `seccomp`, `systempaths=unconfined`, `writable-cgroups`; `apparmor` and `label`" + ` are ignored with a warning |
| ` + "`services.*.blkio_config`" + ` | the rates: the lowest of each kind holds for every disk of the container, whatever device of the host is named |
| ` + "`services.*.uts`" + ` | ` + "`host`" + `: the service has the host's name |
| ` + "`services.*.cgroup`" + ` | ` + "`private`; `host`" + `: the service sees all groups of its machine |
| ` + "`services.*.userns_mode`, `services.*.isolation`, `services.*.runtime`" + ` | ` + "`host`, `default`, `runc`" + ` ask for what is so; others are ignored with a warning |
| ` + "`services.*.logging.options`" + ` | ` + "`max-size`, `max-file`, `mode`, `max-buffer-size`" + `; others are ignored with a warning |
| ` + "`services.*.volumes.[].bind.propagation`" + ` | what the host mounts is seen, with any; ` + "`shared`, `rshared`" + ` with a warning: what is mounted in a machine stays there |
| ` + "`services.*.volumes.[].volume.labels`" + ` | of an anonymous volume; else ignored with a warning: label the volume itself |
| ` + "`services.*.ports`" + ` | tcp and udp |
| ` + "`networks.*.driver`" + ` | ` + "`bridge`; `overlay`" + ` is a bridge, with a warning |
| ` + "`networks.*.driver_opts`" + ` | ` + "`com.docker.network.driver.mtu`, and of `com.docker.network.bridge` `enable_icc`, `host_binding_ipv4`" + `; others are ignored with a warning |
| ` + "`services.*.networks.*.driver_opts`" + ` | ` + "`com.docker.network.endpoint.ifname`, `com.docker.network.endpoint.sysctls`" + `; others are ignored with a warning |
| ` + "`volumes.*.driver`" + ` | ` + "`local`" + `, with ` + "`driver_opts`" + ` that bind a directory, make a tmpfs, or give a ` + "`size`" + ` |
| ` + "`configs.*`, `secrets.*`" + ` | ` + "`file`, `environment`, `content`; not `external`" + ` |

An external link's container need not be there before the service; its name is looked up when the alias is.

## The host's network

A service with ` + "`" + `network_mode: host` + "`" + ` has a machine of its own like every other, on a network of its own where nothing resolves but the
outside: as with docker it knows no service by name, nor is it known by one. What its container listens on is opened on the host as it
begins to listen, and closed as it ends, TCP and UDP:

| listened on inside | open on the host |
|---|---|
| every address, or one of the machine's own | every address |
| a loopback address | the same loopback address; the service sees its clients come from its own loopback |
| UDP, any free port | nothing: that is a client, as of name servers |

The loopback inside is the machine's own: the host's, with what other services publish there, is ` + "`" + `host.docker.internal` + "`" + `. The host's interfaces,
routes and multicast are not there. A port that the host has no room for (another program's, another container's, below 1024 without the
right) stays closed: the service runs on, and ` + "`" + `stack ps` + "`" + `, ` + "`" + `stack events` + "`" + ` and the next ` + "`" + `up` + "`" + ` say which and who has it. Of one container 256 ports
are open at most, the lowest. ` + "`" + `ports` + "`" + ` beside it are discarded with docker's warning, and ` + "`" + `ps` + "`" + ` and ` + "`" + `port` + "`" + ` list none; ` + "`" + `hostname` + "`" + ` is the host's
unless the service sets one; ` + "`" + `dns` + "`" + `, ` + "`" + `dns_search` + "`" + ` and ` + "`" + `extra_hosts` + "`" + ` are honoured; ` + "`" + `links` + "`" + ` and ` + "`" + `mac_address` + "`" + ` are refused, as docker does.

## One machine for several services

Services that share a namespace (` + "`network_mode`, `ipc`, `pid`" + `) or files (` + "`volumes_from`" + `) live in one machine with the first
replica of the service they name, as do those with the same ` + "`x-stack.machine`" + `; ` + "`stack plan`" + ` says in whose. They may mount one volume.
Beside another's network docker refuses ` + "`ports`, `expose`, `hostname`, `links`, `external_links`, `dns`, `extra_hosts` and `mac_address`" + `,
and so does ` + "`stack`" + `.
The machine ends with the last of them. Without a limit of its own somewhere, it has the default memory beside what the others' limits ask for.

## Providers

A service with a ` + "`provider`" + ` is no container: ` + "`up`" + ` runs a program for it, docker's plugin ` + "`docker-TYPE`" + ` or ` + "`TYPE`" + ` in ` + "`PATH`" + `,
by compose's protocol (` + "`compose --project-name=NAME up|down|stop --OPTION=VALUE SERVICE`" + `, JSON lines back), in the environment and
project directory of the command. One that is not there is refused at its line, before anything is changed. Every ` + "`up`" + ` runs
it, before what depends on it is made, with its variables (` + "`SERVICE_KEY`" + `); what has other ones than it now gives is made again.
` + "`stop`" + ` calls it if it says that it has a stop, ` + "`down`" + ` once what depends on it is gone, also without the file. The variables are
kept in one file that only its owner may read, until ` + "`down`" + `; no plan, event or log has them.

## x-stack

` + "`docs/x-stack.schema.json`" + ` is a JSON schema of these for editors.

| key | of | |
|---|---|---|
| ` + "`machine: NAME`" + ` | a service | all replicas of the services of that name share a machine |
| ` + "`memory`" + ` | a service | memory of its machine, like ` + "`1g`" + ` |
| ` + "`vcpus`" + ` | a service | processors of its machine |
| ` + "`kernel_args`" + ` | a service | words added to its kernel's command line, like ` + "`[mitigations=off]`" + ` |
| ` + "`restart_unhealthy: true`" + ` | a service | a replica that becomes unhealthy is restarted, whatever its restart policy |
| ` + "`host: deny`" + ` | a service | ` + "`host.docker.internal`" + ` leads nowhere |
| ` + "`host_docker_socket: true`" + ` | a service | binding ` + "`docker.sock`" + ` gives it the host's docker engine, and with that the host: a warning says so; ` + "`:ro`" + ` protects nothing |
| ` + "`size`" + ` | a volume | size of its disk, like ` + "`20g`" + ` |
`

// TestComposeDoc keeps docs/compose.md equal to the table.
func TestComposeDoc(t *testing.T) {
	const file = "../docs/compose.md"
	var b strings.Builder
	b.WriteString(composeDocHead)
	inside := seen(t)
	for _, r := range Rules {
		reason := r.Reason
		if r.Path == "version" {
			reason = "docker compose ignores it too"
		}
		tests := ""
		if named, ok := shownBy[r.Path]; r.Verdict == Honoured {
			if !ok {
				named = []string{shows}
			}
			if inside[r.Path] {
				named = append(named, sees)
				delete(inside, r.Path)
			}
			tests = "`" + strings.Join(named, "`, `") + "`"
		} else if ok {
			t.Errorf("%s is not honoured, and has tests", r.Path)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", r.Path, r.Verdict, reason, tests)
	}
	for path := range inside {
		t.Errorf("%s: %s is no honoured attribute", sees, path)
	}
	fmt.Fprintf(&b, composeDocTail, "`"+strings.Join(guestDevices, "`, `")+"`")
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("docs/compose.md is not what the table says; go test ./spec -run ComposeDoc -update (-want +got):\n%s", diff)
	}
}

// TestNetworkOptions: what docker's bridge driver would do, the network does.
func TestNetworkOptions(t *testing.T) {
	p := loadText(t, `
services:
  web: {image: a, networks: [n], ports: ["80", "127.0.0.2:81:81"]}
  db: {image: a, ports: ["80"]}
networks:
  n:
    driver_opts:
      com.docker.network.bridge.enable_icc: "false"
      com.docker.network.bridge.host_binding_ipv4: 127.0.0.1
`)
	if n := p.Networks["n"]; !n.Isolated || n.HostBinding.String() != "127.0.0.1" {
		t.Errorf("%+v", n)
	}
	web := p.Services["web"].Ports
	if web[0].HostIP.String() != "127.0.0.1" || web[1].HostIP.String() != "127.0.0.2" {
		t.Errorf("web publishes at %v and %v", web[0].HostIP, web[1].HostIP)
	}
	if db := p.Services["db"].Ports; db[0].HostIP.IsValid() {
		t.Errorf("db publishes at %v", db[0].HostIP)
	}
}
