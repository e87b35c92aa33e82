package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/state"
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
	if err := a.printReplicas([]*state.Replica{webReplica()}, "table", now); err != nil {
		t.Fatal(err)
	}
	want := "NAME         IMAGE        COMMAND                  SERVICE   CREATED       STATUS         PORTS\n" +
		"shop-web-1   nginx:1.27   \"/docker-entrypoint.…\"   web       2 hours ago   Up 3 minutes   127.0.0.1:8080->80/tcp, [::1]:8080->80/tcp\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	if err := a.printReplicas(nil, "xml", now); err == nil {
		t.Error("an unknown format was taken")
	}
}

// TestPsJSON holds compose's contract: an object per line, these keys.
func TestPsJSON(t *testing.T) {
	var out bytes.Buffer
	a := &app{out: &out}
	bare := &state.Replica{ID: "1", Name: "shop-db-1", Status: planner.StatusCreated, Created: now}
	if err := a.printReplicas([]*state.Replica{webReplica(), bare}, "json", now); err != nil {
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
			"Command", "CreatedAt", "ExitCode", "Health", "ID", "Image", "Labels", "LocalVolumes", "Mounts", "Name", "Names",
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
	if diff := cmp.Diff(want, web); diff != "" {
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
