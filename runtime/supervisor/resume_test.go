package supervisor

import (
	"testing"
	"time"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/spec"
)

// reboot is what a host does: every process is gone, and what was recorded of
// them is another boot's.
func (w *world) reboot() {
	w.t.Helper()
	w.close()
	w.keeper.close()
	w.driver.Close()
	store := state.Open(w.dir + "/state")
	machines, err := store.Machines()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, m := range machines {
		m.Record.HostBoot = "another"
		if err := store.PutMachine(m); err != nil {
			w.t.Fatal(err)
		}
	}
	w.open()
}

// After a reboot comes back what its policy says, each after what it depends on.
func TestAutostart(t *testing.T) {
	for _, how := range []struct {
		name string
		lose func(*world)
	}{
		{"power cut", (*world).reboot},
		{"orderly shutdown", func(w *world) {
			if err := w.serve().End(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.reboot()
		}},
	} {
		t.Run(how.name, func(t *testing.T) {
			w := newWorld(t)
			policy := func(name, policy string, deps ...string) *spec.Service {
				s := service(name, "server")
				s.Restart.Policy = policy
				for _, on := range deps {
					dependsOn(s, on, spec.ConditionStarted)
				}
				return s
			}
			p := project("shop",
				policy("a-last", "always", "b-middle"), policy("b-middle", "unless-stopped", "c-first"), policy("c-first", "always"),
				policy("stopped", "unless-stopped"), policy("stopped-always", "always"), policy("never", "no"),
				policy("z-on-never", "always", "never"),
			)
			w.up(p)
			if _, err := w.apply(api.Apply{Command: api.Stop, Name: "shop", Project: p, Selection: planner.Selection{Services: []string{"stopped", "stopped-always"}}}); err != nil {
				t.Fatal(err)
			}
			how.lose(w)
			done, err := w.serve().Autostart(t.Context())
			if err != nil || len(done.Failed) > 0 || len(done.Running) != 5 {
				t.Errorf("autostart: %+v, %v", done, err)
			}
			started := map[string]time.Time{}
			for _, name := range []string{"a-last", "b-middle", "c-first", "stopped-always", "z-on-never"} {
				rec := w.rec("shop-" + name + "-1")
				if !running(rec) {
					t.Errorf("%s is %s: %s", name, rec.Status, rec.Error)
				}
				started[name] = rec.Started
			}
			if !started["c-first"].Before(started["b-middle"]) || !started["b-middle"].Before(started["a-last"]) {
				t.Errorf("started in another order: %v", started)
			}
			for _, name := range []string{"stopped", "never"} {
				if rec := w.rec("shop-" + name + "-1"); running(rec) {
					t.Errorf("%s runs", name)
				}
			}
			w.down(p, true)
			w.nothingLeft()
		})
	}
}

func TestWantsBoot(t *testing.T) {
	rec := func(policy string, change func(*state.Replica)) *state.Replica {
		r := &state.Replica{Phase: state.Made, Status: planner.StatusExited, Started: time.Unix(1, 0), Restart: spec.Restart{Policy: policy}}
		if change != nil {
			change(r)
		}
		return r
	}
	stopped := func(r *state.Replica) { r.Stopped = true }
	for _, tc := range []struct {
		name string
		rec  *state.Replica
		want bool
	}{
		{"always", rec("always", nil), true},
		{"always, stopped", rec("always", stopped), true},
		{"unless-stopped", rec("unless-stopped", nil), true},
		{"unless-stopped, stopped", rec("unless-stopped", stopped), false},
		{"no", rec("no", nil), false},
		{"on-failure, ended well", rec("on-failure", nil), false},
		{"on-failure, killed", rec("on-failure", func(r *state.Replica) { r.ExitCode = 137 }), true},
		{"on-failure, stopped", rec("on-failure", func(r *state.Replica) { r.ExitCode, r.Stopped = 137, true }), false},
		{"never started", rec("always", func(r *state.Replica) { r.Started = time.Time{} }), false},
		{"a one-off", rec("always", func(r *state.Replica) { r.OneOff = true }), false},
		{"running", rec("always", func(r *state.Replica) { r.Status = planner.StatusRunning }), false},
		{"half made", rec("always", func(r *state.Replica) { r.Phase = state.Making }), false},
	} {
		if got := wantsBoot(tc.rec); got != tc.want {
			t.Errorf("%s: %t", tc.name, got)
		}
	}
}
