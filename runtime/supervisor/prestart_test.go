package supervisor

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/image"
	"github.com/stackvm/stack/runtime/machine/fake"
	"github.com/stackvm/stack/spec"
)

func hook(command ...string) spec.PreStart {
	return spec.PreStart{Container: &spec.Service{Name: "web", Image: "tool:1", Command: command}}
}

// created notes every container that a machine's agent is asked for.
func (w *world) created() func() []wire.Container {
	var mu sync.Mutex
	var all []wire.Container
	w.driver.BeforeCreate = func(c wire.Container) error {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, c)
		return nil
	}
	return func() []wire.Container {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

func outputs(events []api.Event) (lines []string) {
	for _, e := range events {
		if e.Kind == api.EventOutput {
			lines = append(lines, e.Output.Source+" "+e.Output.Line)
		}
	}
	return lines
}

// Hooks run in the machine of the replica, with its mounts and their own, before
// it starts, each time that is asked for; nothing of them is left.
func TestPreStart(t *testing.T) {
	w := newWorld(t)
	w.images.add("tool:1", image.Config{Env: []string{"TOOL=1"}, Volumes: []string{"/scratch"}, Healthcheck: &image.Healthcheck{Test: []string{"CMD", "true"}}})
	web := service("web", "server")
	web.Mounts = []spec.Mount{{Type: spec.MountVolume, Source: "data", Target: "/data"}, {Type: spec.MountTmpfs, Target: "/run"}}
	first := hook("sh", "-c", "echo one;echo two")
	first.Container.Environment = map[string]string{"SECRET": "xyzzy"}
	first.Container.Mounts = []spec.Mount{{Type: spec.MountVolume, Source: "cache", Target: "/cache"}, {Type: spec.MountVolume, Target: "/anonymous"}}
	each := hook("echo", "each")
	each.PerReplica = true
	web.PreStart = []spec.PreStart{first, each}
	p := project("shop", web)
	created := w.created()
	events := w.up(p)
	if got, want := outputs(events), []string{"web pre_start[0] -> one", "web pre_start[0] -> two", "web pre_start[1] -> each"}; !slices.Equal(got, want) {
		t.Errorf("output: %q, want %q", got, want)
	}
	var names []string
	for _, c := range created() {
		names = append(names, c.Name)
	}
	if want := []string{"shop-web-1", "shop-web-pre_start-0", "shop-web-1-pre_start-1"}; !slices.Equal(names, want) {
		t.Fatalf("containers: %v, want %v", names, want)
	}
	server, ran := created()[0], created()[1]
	var targets []string
	for _, m := range ran.Mounts {
		targets = append(targets, string(m.Kind)+" "+m.Target)
	}
	slices.Sort(targets)
	if want := []string{"volume /cache", "volume /data"}; !slices.Equal(targets, want) {
		t.Errorf("the hook mounts %v, want %v", targets, want)
	}
	for _, m := range server.Mounts {
		if m.Target == "/cache" {
			t.Error("what only a hook mounts is mounted for the service")
		}
	}
	if !slices.Equal(ran.Env, []string{"TOOL=1", "SECRET=xyzzy"}) || ran.JoinNetwork != server.ID || ran.Health != nil || ran.Log || ran.Root.Image == server.Root.Image {
		t.Errorf("the hook is made as %+v", ran)
	}
	if ids := w.guest("shop-web-1").Containers(); !slices.Equal(ids, []string{server.ID}) {
		t.Errorf("the machine has the containers %v, want %v alone", ids, server.ID)
	}
	if left, _ := filepath.Glob(filepath.Join(w.dir, "state", "replicas", "*", "pre_start*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	for _, e := range events {
		if strings.Contains(fmt.Sprintf("%+v", e), "xyzzy") {
			t.Errorf("an event tells the environment: %+v", e)
		}
	}
	if again := w.up(p); len(outputs(again)) > 0 {
		t.Errorf("hooks of what runs: %q", outputs(again))
	}
	if _, err := w.removeImage("tool:1"); err == nil {
		t.Error("the image of a hook was removed")
	}
	// Started again, without the file: the hooks as it was made with them.
	if _, err := w.apply(api.Apply{Command: api.Stop, Name: "shop"}); err != nil {
		t.Fatal(err)
	}
	events, err := w.apply(api.Apply{Command: api.Start, Name: "shop"})
	if err != nil || len(outputs(events)) != 3 {
		t.Errorf("start: %v, %q", err, outputs(events))
	}
	events, err = w.apply(api.Apply{Command: api.Restart, Name: "shop"})
	if err != nil || len(outputs(events)) != 0 {
		t.Errorf("restart: %v, %q", err, outputs(events))
	}
	w.down(p, true)
	w.nothingLeft()
}

func (w *world) removeImage(ref string) (image.Removed, error) {
	return w.s.removeImage(api.RemoveImage{Image: ref})
}

// A hook that fails keeps its service, and what depends on it, from starting.
func TestPreStartFails(t *testing.T) {
	for _, tt := range []struct {
		name string
		hook spec.PreStart
		want string
	}{
		{"status", hook("sh", "-c", "echo no such table;exit 3"), `service "web" pre_start[1] exited with code 3: no such table`},
		{"silent", hook("false"), `service "web" pre_start[1] exited with code 1`},
		{"no command", hook("no-such-command"), `service "web" pre_start[1]: machine: container.start: exec: "no-such-command": executable file not found in $PATH`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.images.add("tool:1", image.Config{})
			p := project("shop", service("web", "server"), dependsOn(service("app", "server"), "web", spec.ConditionStarted))
			p.Services["web"].PreStart = []spec.PreStart{hook("true"), tt.hook, hook("echo", "not reached")}
			events, err := w.apply(api.Apply{Command: api.Up, Name: "shop", Project: p})
			if err == nil || !strings.HasSuffix(err.Error(), tt.want) {
				t.Errorf("up: %v, want %s", err, tt.want)
			}
			if slices.ContainsFunc(outputs(events), func(l string) bool { return strings.Contains(l, "not reached") }) {
				t.Error("a hook ran after one that had failed")
			}
			for _, name := range []string{"shop-web-1", "shop-app-1"} {
				if r := w.rec(name); r.Status != planner.StatusCreated {
					t.Errorf("%s is %s", name, r.Status)
				}
			}
			if r := w.rec("shop-web-1"); !strings.Contains(r.Error, "pre_start[1]") {
				t.Errorf("it says %q", r.Error)
			}
			w.down(p, false)
			w.nothingLeft()
		})
	}
}

// Once a supervisor has died, a hook that it waited for is not left to run: it
// may be run again.
func TestPreStartAdopted(t *testing.T) {
	w := newWorld(t)
	w.images.add("tool:1", image.Config{})
	p := project("shop", service("web", "server"), service("app", "server"))
	p.Services["web"].PreStart = []spec.PreStart{hook("forever")}
	m := &spec.Machine{Host: "app", Services: []string{"app", "web"}, All: true}
	p.Services["web"].Machine, p.Services["app"].Machine = m, m
	p.Services["app"].Aspects, p.Services["web"].Aspects = map[string]string{}, map[string]string{}
	dependsOn(p.Services["web"], "app", spec.ConditionStarted)
	began, ended := make(chan struct{}), make(chan struct{})
	w.driver.Program = func(ctx context.Context, p *fake.Process) int {
		if p.Args[0] != "forever" {
			return fake.Shell(ctx, p)
		}
		close(began)
		defer close(ended)
		<-ctx.Done()
		return 137
	}
	done := make(chan error, 1)
	go func() {
		_, err := w.apply(api.Apply{Command: api.Up, Name: "shop", Project: p})
		done <- err
	}()
	<-began
	w.restart()
	if err := <-done; err == nil {
		t.Error("up succeeded")
	}
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("the hook runs on")
	}
	if r := w.rec("shop-app-1"); r.Status != planner.StatusRunning {
		t.Errorf("its machine's service is %s", r.Status)
	}
	w.down(p, false)
	w.nothingLeft()
}

// Whatever the pieces in which output comes, its lines are passed on whole.
func TestOutputLines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`([a-z]{0,5}\n?){0,40}`).Draw(t, "text")
		var got []string
		o := &outputLines{write: func(line string) { got = append(got, line) }}
		for rest := text; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			if written, err := o.Write([]byte(rest[:n])); err != nil || written != n {
				t.Fatal(written, err)
			}
			rest = rest[n:]
		}
		o.end()
		want := strings.Split(text, "\n")
		if last := len(want) - 1; want[last] == "" {
			want = want[:last]
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%q gives %q", text, got)
		}
	})
	var got []int
	o := &outputLines{write: func(line string) { got = append(got, len(line)) }}
	_, _ = o.Write([]byte(strings.Repeat("x", 2*maxOutputLine+3) + "\ny"))
	o.end()
	if want := []int{maxOutputLine, maxOutputLine, 3, 1}; !slices.Equal(got, want) {
		t.Errorf("a line without end comes in pieces of %v, want %v", got, want)
	}
}
