package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/spec"
)

func webReplica() *state.Replica {
	return &state.Replica{
		ID: "0123456789abcdef0123", Name: "shop-web-1", Project: "shop", Service: "web", Number: 1,
		Image: "nginx:1.27", Command: []string{"/docker-entrypoint.sh", "nginx", "-g"},
		Created: now.Add(-2 * time.Hour), Started: now.Add(-3 * time.Minute), Finished: now.Add(-time.Minute),
		Labels:    map[string]string{"b": "2", "a": "1"},
		Published: []state.Published{{HostIP: "127.0.0.1", HostPort: 8080, Target: 80, Protocol: "tcp"}, {HostIP: "::1", HostPort: 8080, Target: 80, Protocol: "tcp"}},
		Mounts:    []state.MountUse{{Volume: "shop_data"}, {Source: "/srv"}},
		Endpoints: []state.Endpoint{{Network: "shop_default"}},
		Status:    planner.StatusRunning,
	}
}

func TestPsTable(t *testing.T) {
	var out bytes.Buffer
	a := &app{out: &out}
	if err := a.printReplicas([]*state.Replica{webReplica()}, psOptions{format: "table"}, now); err != nil {
		t.Fatal(err)
	}
	want := "NAME         IMAGE        COMMAND                  SERVICE   CREATED       STATUS         PORTS\n" +
		"shop-web-1   nginx:1.27   \"/docker-entrypoint.…\"   web       2 hours ago   Up 3 minutes   127.0.0.1:8080->80/tcp, [::1]:8080->80/tcp\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	if err := a.printReplicas(nil, psOptions{format: "{{"}, now); err == nil {
		t.Error("a broken template was taken")
	}
}

// TestPsJSON holds compose's contract: an object per line, these keys.
func TestPsJSON(t *testing.T) {
	var out bytes.Buffer
	a := &app{out: &out}
	bare := &state.Replica{ID: "1", Name: "shop-db-1", Status: planner.StatusCreated, Created: now}
	if err := a.printReplicas([]*state.Replica{webReplica(), bare}, psOptions{format: "json"}, now); err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace(out.Bytes()), []byte("\n"))
	if len(lines) != 2 {
		t.Fatalf("%d lines for two replicas", len(lines))
	}
	for _, line := range lines {
		var got map[string]any
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatal(err)
		}
		want := []string{
			"Command", "CreatedAt", "Engine", "ExitCode", "Health", "ID", "Image", "Labels", "LocalVolumes", "Mounts", "Name", "Names",
			"Networks", "Ports", "Project", "Publishers", "RunningFor", "Service", "Size", "State", "Status",
		}
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(got))); diff != "" {
			t.Errorf("keys (-want +got):\n%s", diff)
		}
		if _, ok := got["Publishers"].([]any); !ok {
			t.Errorf("Publishers is %v, want an array", got["Publishers"])
		}
	}
	var web replicaLine
	if err := json.Unmarshal(lines[0], &web); err != nil {
		t.Fatal(err)
	}
	want := replicaLine{
		Command: `"/docker-entrypoint.…"`, CreatedAt: now.Add(-2 * time.Hour).Local().Format("2006-01-02 15:04:05 -0700 MST"),
		ID: "0123456789ab", Image: "nginx:1.27", Labels: "a=1,b=2", LocalVolumes: "1", Mounts: "shop_data,/srv",
		Name: "shop-web-1", Names: "shop-web-1", Networks: "shop_default", Project: "shop", Service: "web", Size: "0B",
		Ports:      "127.0.0.1:8080->80/tcp, [::1]:8080->80/tcp",
		Publishers: []publisher{{"127.0.0.1", 80, 8080, "tcp"}, {"::1", 80, 8080, "tcp"}},
		RunningFor: "2 hours ago", State: "running", Status: "Up 3 minutes",
	}
	if diff := cmp.Diff(want, web, cmpopts.IgnoreUnexported(replicaLine{})); diff != "" {
		t.Errorf("line (-want +got):\n%s", diff)
	}
}

func TestStatusText(t *testing.T) {
	for _, tc := range []struct {
		want   string
		change func(*state.Replica)
	}{
		{"Up 3 minutes", func(*state.Replica) {}},
		{"Up 3 minutes (Paused)", func(r *state.Replica) { r.Status = planner.StatusPaused }},
		{"Restarting (3) About a minute ago", func(r *state.Replica) { r.Status, r.ExitCode = planner.StatusRestarting, 3 }},
		{"Exited (137) About a minute ago (out of memory)", func(r *state.Replica) { r.Status, r.ExitCode, r.OOM = planner.StatusExited, 137, true }},
		{"Created", func(r *state.Replica) { r.Status = planner.StatusCreated }},
		{"Dead", func(r *state.Replica) { r.Status = planner.StatusDead }},
		{"Created (image changed)", func(r *state.Replica) { r.Status, r.Notice = planner.StatusCreated, "image changed" }},
	} {
		r := webReplica()
		tc.change(r)
		if got := statusText(r, now); got != tc.want {
			t.Errorf("%q, want %q", got, tc.want)
		}
	}
}

// TestPsFormats holds the templates that scripts use, and docker's words in them.
func TestPsFormats(t *testing.T) {
	r := webReplica()
	r.Health = &state.Health{Status: "healthy"}
	r.Command = []string{"sh", "-c", "exec sleep 9"}
	r.Exposed = []string{"80/tcp", "443/tcp", "9000/udp"}
	r.Mounts = append(r.Mounts, state.MountUse{Volume: "0123456789abcdef0123"}, state.MountUse{Target: "/tmp"})
	ended := webReplica()
	ended.Name, ended.Service, ended.Status, ended.ExitCode = "shop-db-1", "db", planner.StatusExited, 3
	for _, tc := range []struct {
		o    psOptions
		want string
	}{
		{psOptions{format: "{{.Name}} {{.State}} {{.Health}} {{.ExitCode}}"}, "shop-web-1 running healthy 0\nshop-db-1 exited  3\n"},
		{psOptions{format: `{{.Label "a"}} {{json .Service}} {{upper .Project}}`}, "1 \"web\" SHOP\n1 \"db\" SHOP\n"},
		{psOptions{format: `table {{.ID}}\t{{.Label "com.example.my-part"}}`}, "CONTAINER ID   my part\n0123456789ab   \n0123456789ab   \n"},
		{psOptions{format: "{{.ID}} {{.Command}} {{.Mounts}}", noTrunc: true}, "0123456789abcdef0123 \"sh -c 'exec sleep 9'\" shop_data,/srv,0123456789abcdef0123\n0123456789abcdef0123 \"/docker-entrypoint.sh nginx -g\" shop_data,/srv\n"},
		{psOptions{format: "{{.Command}} {{.Mounts}}"}, "\"sh -c 'exec sleep 9'\" shop_data,/srv,0123456789abcd…\n\"/docker-entrypoint.…\" shop_data,/srv\n"},
		{psOptions{format: "{{.Ports}}"}, "127.0.0.1:8080->80/tcp, [::1]:8080->80/tcp\n\n"},
		{psOptions{quiet: true}, "0123456789abcdef0123\n0123456789abcdef0123\n"},
		{psOptions{services: true}, "web\ndb\n"},
	} {
		var out bytes.Buffer
		a := &app{out: &out}
		if tc.o.format == "{{.Ports}}" {
			r.Exposed = nil
		}
		if err := a.printReplicas([]*state.Replica{r, ended}, tc.o, now); err != nil {
			t.Errorf("%+v: %v", tc.o, err)
		}
		if diff := cmp.Diff(tc.want, out.String()); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", tc.o, diff)
		}
	}
}

func TestPsChoice(t *testing.T) {
	replica := func(name, service string, status planner.Status, oneOff bool) *state.Replica {
		return &state.Replica{Name: name, Service: service, Status: status, OneOff: oneOff}
	}
	all := []*state.Replica{
		replica("up", "web", planner.StatusRunning, false), replica("ended", "web", planner.StatusExited, false),
		replica("paused", "db", planner.StatusPaused, false), replica("made", "db", planner.StatusCreated, false),
		replica("oneoff", "web", planner.StatusRunning, true), replica("orphan", "old", planner.StatusRunning, false),
	}
	p := &spec.Project{Services: map[string]*spec.Service{"web": {}, "db": {}}}
	for _, tc := range []struct {
		o    psOptions
		want []string
	}{
		{psOptions{orphans: true}, []string{"up", "paused", "orphan"}},
		{psOptions{}, []string{"up", "paused"}},
		{psOptions{all: true, orphans: true}, []string{"up", "ended", "paused", "made", "oneoff", "orphan"}},
		{psOptions{statuses: []string{"exited", "created"}, orphans: true}, []string{"ended", "made"}},
	} {
		var got []string
		for _, r := range tc.o.choose(p, slices.Clone(all)) {
			got = append(got, r.Name)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", tc.o, diff)
		}
	}
}

// TestPortsText holds docker's way to shorten a list of ports.
func TestPortsText(t *testing.T) {
	at := func(ip string, target, published uint16, protocol string) publisher {
		return publisher{ip, target, published, protocol}
	}
	for _, tc := range []struct {
		in   []publisher
		want string
	}{
		{nil, ""},
		{[]publisher{at("", 80, 0, "tcp"), at("", 443, 0, "tcp")}, "80/tcp, 443/tcp"},
		{[]publisher{at("", 80, 0, "tcp"), at("", 81, 0, "tcp"), at("", 81, 0, "udp")}, "80-81/tcp, 81/udp"},
		{[]publisher{at("0.0.0.0", 80, 80, "tcp"), at("0.0.0.0", 81, 81, "tcp"), at("::", 80, 80, "tcp")}, "0.0.0.0:80-81->80-81/tcp, [::]:80->80/tcp"},
		{[]publisher{at("0.0.0.0", 80, 8080, "tcp"), at("", 443, 0, "tcp")}, "443/tcp, 0.0.0.0:8080->80/tcp"},
	} {
		if got := portsText(tc.in); got != tc.want {
			t.Errorf("%v: %q, want %q", tc.in, got, tc.want)
		}
	}
}
