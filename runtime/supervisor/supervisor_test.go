package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/spec"
)

func running(rec *state.Replica) bool { return rec.Status == planner.StatusRunning }

func TestUpAndDown(t *testing.T) {
	w := newWorld(t)
	p := project("shop", service("web", "server"), service("db", "server"))
	p.Services["db"].Mounts = []spec.Mount{{Type: spec.MountVolume, Source: "data", Target: "/data"}, {Type: spec.MountVolume, Target: "/tmp/anon"}}
	dependsOn(p.Services["web"], "db", spec.ConditionStarted)
	w.up(p)
	for _, name := range []string{"shop-web-1", "shop-db-1"} {
		if rec := w.rec(name); !running(rec) || len(rec.Endpoints) != 1 {
			t.Errorf("%s is %+v", name, rec)
		}
		if got := w.fabric.resolve(name); len(got) != 1 {
			t.Errorf("%s resolves to %v", name, got)
		}
	}
	if got := w.fabric.resolve("db"); len(got) != 1 {
		t.Errorf("db resolves to %v", got)
	}
	events := w.up(p)
	for _, e := range events {
		if e.Kind == api.EventPlan && !e.Plan.Empty() {
			t.Errorf("a second up plans\n%s", e.Plan)
		}
	}
	w.down(p, false)
	if _, err := w.volumes.Get("shop_data"); err != nil {
		t.Error(err)
	}
	if all, _ := w.volumes.List(); len(all) != 2 { // the anonymous one too, as docker leaves it
		t.Errorf("%d volumes are left, want 2", len(all))
	}
	w.nothingLeft()
	w.up(p)
	w.down(p, true)
	if all, _ := w.volumes.List(); len(all) != 0 {
		t.Errorf("%d volumes are left", len(all))
	}
	w.nothingLeft()
}

func TestDependenciesAreWaitedForByEvents(t *testing.T) {
	w := newWorld(t)
	healthy := make(chan struct{})
	w.driver.Probe = func(c wire.Container) (wire.Health, string) { return wire.HealthStarting, "" }
	p := project("shop",
		service("db", "server"),
		dependsOn(service("migrate", "true"), "db", spec.ConditionHealthy),
		dependsOn(service("web", "server"), "migrate", spec.ConditionCompleted))
	p.Services["db"].Healthcheck = &spec.Healthcheck{Test: []string{"CMD", "true"}}
	done := make(chan error, 1)
	go func() {
		_, err := w.apply(api.Apply{Command: api.Up, Name: "shop", Project: p})
		done <- err
		close(healthy)
	}()
	// The machine of web boots although nothing it waits for has happened.
	for {
		w.s.mu.Lock()
		changed := w.s.changed
		ready := 0
		for _, r := range w.s.replicas {
			if r.host != nil && r.host.client.Load() != nil {
				ready++
			}
		}
		w.s.mu.Unlock()
		if ready == 3 {
			break
		}
		<-changed
	}
	w.until("shop-db-1", running)
	if rec := w.rec("shop-web-1"); rec.Status != planner.StatusCreated {
		t.Errorf("web is %s before db is healthy", rec.Status)
	}
	w.guest("shop-db-1").SetHealth(w.rec("shop-db-1").ID, wire.HealthHealthy, "")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	<-healthy
	if rec := w.rec("shop-migrate-1"); rec.Status != planner.StatusExited || rec.ExitCode != 0 {
		t.Errorf("migrate is %s (%d)", rec.Status, rec.ExitCode)
	}
	if !running(w.rec("shop-web-1")) {
		t.Error("web does not run")
	}
	w.down(p, true)
	w.nothingLeft()
}

func TestFailedDependencies(t *testing.T) {
	for _, tt := range []struct {
		name, condition string
		command         []string
		probe           wire.Health
		want            string
	}{
		{"exited", spec.ConditionHealthy, []string{"exit", "3"}, wire.HealthStarting, "dependency failed to start: container shop-db-1 exited (3)"},
		{"unhealthy", spec.ConditionHealthy, []string{"server"}, wire.HealthUnhealthy, "dependency failed to start: container shop-db-1 is unhealthy"},
		{"did not complete", spec.ConditionCompleted, []string{"exit", "2"}, "", `service "db" didn't complete successfully: exit 2`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.driver.Probe = func(wire.Container) (wire.Health, string) { return tt.probe, "" }
			p := project("shop", service("db", tt.command...), dependsOn(service("web", "server"), "db", tt.condition))
			if tt.probe != "" {
				p.Services["db"].Healthcheck = &spec.Healthcheck{Test: []string{"CMD", "true"}}
			}
			_, err := w.apply(api.Apply{Command: api.Up, Name: "shop", Project: p})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v", err)
			}
			if rec := w.rec("shop-web-1"); rec.Status != planner.StatusCreated {
				t.Errorf("web is %s", rec.Status)
			}
			w.down(p, true)
			w.nothingLeft()
		})
	}
}

// A supervisor that dies and comes back changes nothing for what runs.
func TestAdoption(t *testing.T) {
	w := newWorld(t)
	p := project("shop", service("web", "server"), service("db", "server"))
	p.Services["web"].Ports = []spec.Port{{Target: 80, Protocol: "tcp"}}
	w.up(p)
	before := map[string]string{}
	for _, g := range w.driver.Guests() {
		before[g.Record().Name] = g.BootID()
	}
	port := w.rec("shop-web-1").Published
	w.restart()
	for _, g := range w.driver.Guests() {
		if before[g.Record().Name] != g.BootID() {
			t.Errorf("%s was restarted", g.Record().Name)
		}
	}
	if after := w.rec("shop-web-1").Published; !slices.Equal(port, after) || len(port) == 0 {
		t.Errorf("published %v, then %v", port, after)
	}
	if got := w.fabric.resolve("web"); len(got) != 1 {
		t.Errorf("web resolves to %v", got)
	}
	// What happens meanwhile is seen afterwards.
	id := w.rec("shop-db-1").ID
	w.close()
	w.guest("shop-db-1").Exit(id, wire.ExitStatus{Code: 7})
	w.open()
	if rec := w.until("shop-db-1", func(rec *state.Replica) bool { return rec.Status == planner.StatusExited }); rec.ExitCode != 7 {
		t.Errorf("db exited with %d", rec.ExitCode)
	}
	w.up(p)
	if !running(w.rec("shop-db-1")) {
		t.Error("db does not run")
	}
	w.down(p, true)
	w.nothingLeft()
}

// When the keeper dies as well, machines cannot be reached: the next up starts
// what no policy has started.
func TestLostMachines(t *testing.T) {
	w := newWorld(t)
	p := project("shop", service("web", "server"), service("db", "server"))
	p.Services["web"].Restart.Policy = "always"
	w.up(p)
	w.close()
	w.keeper.close()
	w.driver.Close() // as the host's kernel ends a machine whose files are gone
	w.open()
	w.until("shop-web-1", running)
	if rec := w.rec("shop-db-1"); rec.Status != planner.StatusExited || rec.Error != state.LostError {
		t.Errorf("db is %s: %s", rec.Status, rec.Error)
	}
	id := w.rec("shop-db-1").ID
	w.up(p)
	if rec := w.rec("shop-db-1"); !running(rec) || rec.ID != id {
		t.Errorf("db is %s, its id was %s and is %s", rec.Status, id, rec.ID)
	}
	w.down(p, true)
	w.nothingLeft()
}

// The event of an end that a stop's answer told of may come when the next run
// is under way in the same machine: it is not the end of that one.
func TestLateExit(t *testing.T) {
	w := newWorld(t)
	p := project("shop", service("web", "server"))
	w.up(p)
	w.s.mu.Lock()
	var r *replica
	for _, r = range w.s.replicas {
	}
	h := r.host
	w.s.mu.Unlock()
	if _, err := w.apply(api.Apply{Command: api.Restart, Name: p.Name, Project: p}); err != nil {
		t.Fatal(err)
	}
	w.s.mu.Lock()
	at := r.ended
	w.s.mu.Unlock()
	if at.IsZero() {
		t.Fatal("no end was noted: it was not restarted inside its machine")
	}
	late := wire.Event{Kind: wire.EventState, Container: r.rec.ID, State: wire.StateExited, At: at, Exit: &wire.ExitStatus{Code: 137, At: at}}
	w.s.event(h, late)
	w.s.mu.Lock()
	r.starting = true
	w.s.mu.Unlock()
	w.s.event(h, late)
	w.s.mu.Lock()
	r.starting = false
	early := r.early
	w.s.mu.Unlock()
	if rec := w.rec("shop-web-1"); !running(rec) || early != nil {
		t.Errorf("it is %s, kept %v", rec.Status, early)
	}
	w.down(p, true)
	w.nothingLeft()
}

func TestHostDiskFull(t *testing.T) {
	w := newWorld(t)
	p := project("shop", service("web", "server"))
	p.Services["web"].Mounts = []spec.Mount{{Type: spec.MountVolume, Source: "data", Target: "/data"}}
	w.free.Store(3 << 30)
	if warned := warnings(w.up(p)); len(warned) != 0 {
		t.Errorf("warnings with 3 GiB free: %q", warned)
	}
	w.free.Store(resumeBytes - 1)
	w.guest("shop-web-1").DiskFull(volumeSerial("shop_data"))
	rec := w.until("shop-web-1", func(rec *state.Replica) bool { return rec.Notice != "" })
	if rec.Notice != "paused: no space left on the host for volume shop_data" || !running(rec) {
		t.Errorf("it is %s: %q", rec.Status, rec.Notice)
	}
	p.Services["more"] = service("more", "server")
	if warned := warnings(w.up(p)); len(warned) != 2 ||
		warned[0] != "container shop-web-1: paused: no space left on the host for volume shop_data" || !strings.HasPrefix(warned[1], "only 64MiB are free on the host") {
		t.Errorf("warnings with little space: %q", warned)
	}

	// Another supervisor cannot speak to it, and says why; the other machine goes on.
	w.restart()
	rec = w.until("shop-web-1", func(rec *state.Replica) bool { return rec.Notice != "" })
	if !running(rec) || !running(w.rec("shop-more-1")) {
		t.Errorf("after adoption web is %s, more is %s", rec.Status, w.rec("shop-more-1").Status)
	}
	_, err := w.s.exec(t.Context(), api.Exec{Select: api.Select{Project: "shop", Services: []string{"web"}}})
	if err == nil || !strings.Contains(err.Error(), "paused: no space left on the host") {
		t.Errorf("exec in a machine that is paused: %v", err)
	}

	// There is space: it goes on by itself, and is the same.
	w.free.Store(resumeBytes)
	w.until("shop-web-1", func(rec *state.Replica) bool { return rec.Notice == "" })
	r, err := w.s.find("shop-web-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.s.await(t.Context(), r, func() (bool, error) { return r.host.client.Load() != nil, nil }); err != nil {
		t.Fatal(err)
	}
	if rec := w.rec("shop-web-1"); !running(rec) || rec.Restarts != 0 {
		t.Errorf("after the pause it is %s, restarted %d times", rec.Status, rec.Restarts)
	}
	w.down(p, true)
	w.nothingLeft()
}

// A paused replica stays so under another supervisor, is not spoken to, and can
// be stopped, started and killed.
func TestPause(t *testing.T) {
	w := newWorld(t)
	p := project("shop", service("web", "server"), service("db", "server"))
	w.up(p)
	began := time.Now()
	pause := func(resume bool, services ...string) string {
		t.Helper()
		done, err := w.s.pauseReplicas(t.Context(), api.Pause{Select: api.Select{Project: "shop", Services: services}, Resume: resume})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, r := range done.Replicas {
			names = append(names, r.Name)
		}
		if done.Error != nil {
			names = append(names, "error: "+strings.ReplaceAll(done.Error.Message, "\n", "; "))
		}
		return strings.Join(names, ", ")
	}
	status := func(want planner.Status) {
		t.Helper()
		if rec := w.rec("shop-web-1"); rec.Status != want {
			t.Fatalf("it is %s, want %s", rec.Status, want)
		}
	}
	if got := pause(false, "web"); got != "shop-web-1" {
		t.Errorf("pausing web: %s", got)
	}
	if got := pause(false); got != "shop-db-1, error: container shop-web-1 is already paused" {
		t.Errorf("pausing all: %s", got)
	}
	status(planner.StatusPaused)
	_, err := w.s.exec(t.Context(), api.Exec{Select: api.Select{Project: "shop", Services: []string{"web"}}})
	if err == nil || err.Error() != "container shop-web-1 is paused, unpause the container before exec" {
		t.Errorf("exec: %v", err)
	}
	w.restart()
	status(planner.StatusPaused)
	if got := pause(true, "web"); got != "shop-web-1" {
		t.Errorf("unpausing web: %s", got)
	}
	if got := pause(true, "web"); got != "error: container shop-web-1 is not paused" {
		t.Errorf("unpausing it again: %s", got)
	}
	status(planner.StatusRunning)
	past, sub := w.s.events.subscribe(began)
	w.s.events.unsubscribe(sub)
	var seen []string
	for _, e := range past {
		seen = append(seen, e.Action+" "+e.Name)
	}
	if !slices.Contains(seen, "unpause shop-web-1") {
		t.Errorf("events: %q", seen)
	}

	// up lets it go on; stop and kill end it.
	pause(false, "web")
	w.up(p)
	status(planner.StatusRunning)
	pause(false, "web")
	if _, err := w.apply(api.Apply{Command: api.Stop, Name: "shop", Project: p, Selection: planner.Selection{Services: []string{"web"}}}); err != nil {
		t.Fatal(err)
	}
	if rec := w.rec("shop-web-1"); rec.Status != planner.StatusExited || rec.ExitCode != 143 {
		t.Errorf("stopped, it is %s (%d)", rec.Status, rec.ExitCode)
	}
	w.up(p)
	pause(false, "web")
	if _, err := w.s.killReplicas(t.Context(), api.Kill{Select: api.Select{Project: "shop", Services: []string{"web"}}}); err != nil {
		t.Fatal(err)
	}
	if rec := w.rec("shop-web-1"); rec.Status != planner.StatusExited || rec.ExitCode != 137 {
		t.Errorf("killed, it is %s (%d)", rec.Status, rec.ExitCode)
	}
	w.down(p, true)
	w.nothingLeft()
}

// A replica that becomes unhealthy is restarted where its service asks for it.
func TestRestartUnhealthy(t *testing.T) {
	w := newWorld(t)
	verdicts := make(chan wire.Health, 3)
	w.driver.Probe = func(wire.Container) (wire.Health, string) { return <-verdicts, "" }
	p := project("shop", service("web", "server"))
	p.Services["web"].Healthcheck = &spec.Healthcheck{Test: []string{"CMD", "probe"}}
	verdicts <- wire.HealthUnhealthy
	if _, err := w.apply(api.Apply{Command: api.Up, Name: "shop", Project: p}); err != nil {
		t.Fatal(err)
	}
	healthy := func(rec *state.Replica) bool { return rec.Health != nil && rec.Health.Status == wire.HealthHealthy }
	sick := w.until("shop-web-1", func(rec *state.Replica) bool {
		return rec.Health != nil && rec.Health.Status == wire.HealthUnhealthy
	})
	w.down(p, true)

	p.Services["web"].Extension.RestartUnhealthy = true
	verdicts <- wire.HealthUnhealthy
	verdicts <- wire.HealthUnhealthy
	verdicts <- wire.HealthHealthy
	if _, err := w.apply(api.Apply{Command: api.Up, Name: "shop", Project: p}); err != nil {
		t.Fatal(err)
	}
	// Its verdict may come before the answer to its start.
	rec := w.until("shop-web-1", func(rec *state.Replica) bool { return healthy(rec) && running(rec) })
	if !running(rec) || !running(sick) || len(verdicts) != 0 {
		t.Errorf("it is %s, not asked for it is %s, %d verdicts are left", rec.Status, sick.Status, len(verdicts))
	}
	w.down(p, true)
	w.nothingLeft()
}

// A host that shuts down stops everything; nothing counts as stopped by its
// user.
func TestEndAll(t *testing.T) {
	w := newWorld(t)
	p := project("shop", service("web", "server"), service("db", "server"))
	w.up(p)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	w.s.EndAll(ctx)
	<-w.s.Done()
	if n := len(w.driver.Guests()); n != 0 {
		t.Errorf("%d machines run", n)
	}
	for _, name := range []string{"shop-web-1", "shop-db-1"} {
		if rec := w.rec(name); rec.Status != planner.StatusExited || rec.Stopped || rec.ExitCode != 143 {
			t.Errorf("%s is %s (%d), stopped %v", name, rec.Status, rec.ExitCode, rec.Stopped)
		}
	}
	w.restart()
	w.down(p, true)
	w.nothingLeft()
}

// A supervisor without machines ends by itself, and one with machines does not.
func TestIdle(t *testing.T) {
	w := newWorld(t)
	w.close()
	w.idle = time.Millisecond
	w.open()
	<-w.s.Done()
	w.idle = time.Hour
	w.restart()
	p := project("shop", service("web", "server"))
	w.up(p)
	w.close()
	w.idle = time.Millisecond
	w.open()
	select {
	case <-w.s.Done():
		t.Error("it ended although a machine runs")
	case <-time.After(50 * time.Millisecond):
	}
	w.down(p, true)
	<-w.s.Done()
	w.nothingLeft()
}

func TestCrash(t *testing.T) {
	w := newWorld(t)
	p := project("shop", service("web", "server"))
	w.up(p)
	w.guest("shop-web-1").Crash("Kernel panic - not syncing: test")
	rec := w.until("shop-web-1", func(rec *state.Replica) bool { return rec.Status == planner.StatusExited && rec.Machine == "" })
	if rec.ExitCode != 255 || !strings.Contains(rec.Error, "Kernel panic") {
		t.Errorf("it exited with %d: %s", rec.ExitCode, rec.Error)
	}
	w.down(p, true)
	w.nothingLeft()
}

func TestRestartPolicies(t *testing.T) {
	w := newWorld(t)
	p := project("shop", service("web", "server"), service("job", "exit", "1"))
	p.Services["web"].Restart.Policy = "unless-stopped"
	p.Services["job"].Restart = spec.Restart{Policy: "on-failure", Max: 2}
	if _, err := w.apply(api.Apply{Command: api.Up, Name: "shop", Project: p}); err != nil {
		t.Fatal(err)
	}
	rec := w.until("shop-job-1", func(rec *state.Replica) bool {
		return rec.Status == planner.StatusExited && rec.Restarts == 2 && rec.Machine == ""
	})
	if rec.ExitCode != 1 {
		t.Errorf("job exited with %d", rec.ExitCode)
	}
	// The workload ends: it runs again in the same machine.
	boot := w.guest("shop-web-1").BootID()
	w.guest("shop-web-1").Exit(w.rec("shop-web-1").ID, wire.ExitStatus{Code: 0})
	w.until("shop-web-1", func(rec *state.Replica) bool { return rec.Restarts == 1 && running(rec) })
	if w.guest("shop-web-1").BootID() != boot {
		t.Error("the machine was made anew")
	}
	// The machine ends: in another one.
	w.guest("shop-web-1").Crash("oops")
	w.until("shop-web-1", func(rec *state.Replica) bool { return rec.Restarts == 2 && running(rec) })
	// A user's stop ends it.
	if _, err := w.apply(api.Apply{Command: api.Stop, Name: "shop", Project: p}); err != nil {
		t.Fatal(err)
	}
	if rec := w.rec("shop-web-1"); rec.Status != planner.StatusExited || !rec.Stopped {
		t.Errorf("web is %s", rec.Status)
	}
	if n := len(w.driver.Guests()); n != 0 {
		t.Errorf("%d machines run", n)
	}
	w.down(p, true)
	w.nothingLeft()
}

// A delay is waited for, and a run that outlasts the window counts no restart
// before it.
func TestRestartDelayAndWindow(t *testing.T) {
	w := newWorld(t)
	p := project("shop", service("slow", "server"), service("lasting", "server"))
	p.Services["slow"].Restart = spec.Restart{Policy: "always", Delay: time.Hour}
	p.Services["lasting"].Restart = spec.Restart{Policy: "on-failure", Max: 1, Window: time.Nanosecond}
	w.up(p)
	w.guest("shop-slow-1").Exit(w.rec("shop-slow-1").ID, wire.ExitStatus{Code: 1})
	w.until("shop-slow-1", func(rec *state.Replica) bool { return rec.Status == planner.StatusRestarting })
	for range 3 {
		began := w.rec("shop-lasting-1").Started
		w.guest("shop-lasting-1").Exit(w.rec("shop-lasting-1").ID, wire.ExitStatus{Code: 1})
		w.until("shop-lasting-1", func(rec *state.Replica) bool { return running(rec) && rec.Started.After(began) })
	}
	// Meanwhile the usual delays, which are shorter, have passed.
	if rec := w.rec("shop-slow-1"); rec.Status != planner.StatusRestarting {
		t.Errorf("slow is %s, an hour too early", rec.Status)
	}
	w.down(p, true)
	w.nothingLeft()
}

func TestRecreateKeepsAnonymousVolumesAndAddress(t *testing.T) {
	w := newWorld(t)
	p := project("shop", service("web", "server"))
	p.Services["web"].Mounts = []spec.Mount{{Type: spec.MountVolume, Target: "/anon"}}
	w.up(p)
	before := w.rec("shop-web-1")
	p.Services["web"].Hash = "other"
	w.up(p)
	after := w.rec("shop-web-1")
	if before.ID == after.ID {
		t.Error("it was not recreated")
	}
	if before.Mounts[0].Volume != after.Mounts[0].Volume {
		t.Error("its volume is another")
	}
	if before.Endpoints[0].Addrs[0] != after.Endpoints[0].Addrs[0] {
		t.Errorf("its address was %v and is %v", before.Endpoints[0].Addrs, after.Endpoints[0].Addrs)
	}
	if n := len(w.driver.Guests()); n != 1 {
		t.Errorf("%d machines run", n)
	}
	w.down(p, true)
	w.nothingLeft()
}

func TestPortsAreCheckedBeforeAnythingChanges(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := uint16(l.Addr().(*net.TCPAddr).Port)
	p := project("shop", service("web", "server"))
	p.Services["web"].Ports = []spec.Port{{Published: taken, Target: 80, Protocol: "tcp", Pos: spec.Pos{File: "compose.yaml", Line: 7}}}
	_, err = w.apply(api.Apply{Command: api.Up, Name: "shop", Project: p})
	want := fmt.Sprintf("compose.yaml:7: service \"web\": publishing port %d: address already in use", taken)
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v", err)
	}
	if refused, ok := errors.AsType[*api.Error](err); !ok || !slices.Equal(refused.InUse, []string{fmt.Sprintf("%d/tcp", taken)}) {
		t.Errorf("the error names no port: %+v", err)
	}
	if owner := fmt.Sprintf("process %d (", os.Getpid()); goruntime.GOOS == "linux" && !strings.Contains(err.Error(), owner) {
		t.Errorf("the error does not name %s…) : %v", owner, err)
	}
	w.nothingLeft()
}

// TestTooFewPorts: replicas that cannot all be published are refused before the
// first is made, those that run already counted too.
func TestTooFewPorts(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := uint16(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	p := project("shop", service("web", "server"))
	p.Services["web"].Ports = []spec.Port{{Published: free, HostIP: netip.MustParseAddr("127.0.0.1"), Target: 80, Protocol: "tcp", Pos: spec.Pos{File: "compose.yaml", Line: 7}}}
	up := func(scale int) error {
		_, err := w.apply(api.Apply{Command: api.Up, Name: "shop", Project: p, Options: planner.Options{Scale: map[string]int{"web": scale}}})
		return err
	}
	want := fmt.Sprintf("compose.yaml:7: service \"web\": publishing port %d: 2 containers want one each", free)
	if err := up(2); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v", err)
	}
	w.nothingLeft()
	if err := up(1); err != nil {
		t.Fatal(err)
	}
	if err := up(2); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("beside one that runs: %v", err)
	}
	w.down(p, false)
	w.nothingLeft()
}

// TestRunningIsSaid: an up names what runs and stays as it is.
func TestRunningIsSaid(t *testing.T) {
	w := newWorld(t)
	p := project("shop", service("web", "server"))
	said := func() (running []string) {
		t.Helper()
		events, err := w.apply(api.Apply{Command: api.Up, Name: "shop", Project: p})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e.Kind == api.EventStep && e.Step.Text == "Running" {
				running = append(running, e.Step.Name)
			}
		}
		return running
	}
	if first := said(); len(first) > 0 {
		t.Errorf("the first up says that %q run", first)
	}
	if second := said(); !slices.Equal(second, []string{"shop-web-1"}) {
		t.Errorf("the second up says that %q run", second)
	}
	w.down(p, false)
	w.nothingLeft()
}

func TestTwoUpsQueue(t *testing.T) {
	w := newWorld(t)
	p := project("shop", service("web", "server"))
	hold := make(chan struct{})
	w.driver.BeforeCreate = func(wire.Container) error { <-hold; return nil }
	first := make(chan error, 1)
	go func() {
		_, err := w.apply(api.Apply{Command: api.Up, Name: "shop", Project: p})
		first <- err
	}()
	for { // the first has its turn
		busy, changed := w.s.turns.busy()
		if len(busy) == 1 {
			break
		}
		select {
		case <-changed:
		default:
		}
	}
	queued := make(chan string, 1)
	second := make(chan []api.Event, 1)
	go func() {
		var events []api.Event
		w.s.Apply(context.Background(), api.Apply{Command: api.Up, Name: "shop", Project: p}, 2, func(e api.Event) {
			if e.Kind == api.EventQueued {
				queued <- e.Text
			}
			events = append(events, e)
		})
		second <- events
	}()
	if got := <-queued; got != "waiting for up (pid 1)" {
		t.Errorf("it says %q", got)
	}
	close(hold)
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	for _, e := range <-second {
		if e.Kind == api.EventPlan && !e.Plan.Empty() {
			t.Errorf("the second up plans\n%s", e.Plan)
		}
		if e.Kind == api.EventDone && e.Error != nil {
			t.Error(e.Error)
		}
	}
	w.down(p, true)
	w.nothingLeft()
}
