package supervisor

import (
	"errors"
	"strings"
	"testing"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/spec"
)

// planOf is the plan that events tell of.
func planOf(events []api.Event) *planner.Plan {
	for _, e := range events {
		if e.Kind == api.EventPlan {
			return e.Plan
		}
	}
	return nil
}

// TestChangedVolume: a volume whose definition changed is made anew only by who
// has agreed to that very plan; a stored plan that holds it is carried out once.
func TestChangedVolume(t *testing.T) {
	w := newWorld(t)
	p := project("shop", service("db", "server"))
	p.Volumes = map[string]*spec.Volume{"data": {Key: "data", Name: "shop_data", Hash: "plain"}}
	p.Services["db"].Mounts = []spec.Mount{{Type: spec.MountVolume, Source: "data", Target: "/data"}}
	w.up(p)
	first := w.rec("shop-db-1").ID
	p.Volumes["data"].Hash = "gold"

	up := api.Apply{Command: api.Up, Name: "shop", Project: p}
	events, err := w.apply(up)
	if err != nil || !strings.Contains(strings.Join(warnings(events), ""), "it is kept as it is") {
		t.Errorf("nobody agreed: %v, warnings %q", err, warnings(events))
	}

	asked := up
	asked.Options.RecreateVolumes = true
	var refused *api.Error
	if _, err = w.apply(asked); !errors.As(err, &refused) || refused.Code != api.CodeConfirm {
		t.Errorf("without an answer: %v", err)
	}
	no := asked
	no.Options.KeepVolumes = []string{"shop_data"}
	if _, err = w.apply(no); err != nil {
		t.Errorf("the answer was no: %v", err)
	}
	if now := w.rec("shop-db-1").ID; now != first {
		t.Error("something was made anew although nobody agreed")
	}

	dry := asked
	dry.DryRun = true
	if events, err = w.apply(dry); err != nil {
		t.Fatal(err)
	}
	text, err := planOf(events).JSON()
	if err != nil {
		t.Fatal(err)
	}
	stored, err := planner.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	carry := up
	carry.Options, carry.Stored, carry.Confirm = *stored.Options, &stored, api.ConfirmAll
	if _, err = w.apply(carry); err != nil {
		t.Fatal(err)
	}
	second := w.rec("shop-db-1").ID
	if v, err := w.volumes.Get("shop_data"); err != nil || v.Hash != "gold" || second == first {
		t.Errorf("the volume is %+v (%v), the replica %s, was %s", v, err, second, first)
	}
	if _, err = w.apply(carry); err == nil || !strings.Contains(err.Error(), "the plan is stale: step gone: stop replica shop-db-1") {
		t.Errorf("a second time: %v", err)
	}
	if now := w.rec("shop-db-1").ID; now != second {
		t.Error("a stale plan changed something")
	}
	w.down(p, true)
	w.nothingLeft()
}

// TestParallel: with --parallel 1 no step begins while another is under way, but
// for waits.
func TestParallel(t *testing.T) {
	w := newWorld(t)
	p := project("shop", service("a", "server"), service("b", "server"), service("c", "server"))
	events, err := w.apply(api.Apply{Command: api.Up, Name: "shop", Project: p, Options: planner.Options{Wait: true}, Parallel: 1})
	if err != nil {
		t.Fatal(err)
	}
	busy, steps := 0, 0
	for _, e := range events {
		if e.Kind != api.EventStep || e.Step.Verb == planner.Wait {
			continue
		}
		if e.Step.State == api.StepStarted {
			busy++
			steps++
		} else {
			busy--
		}
		if busy > 1 {
			t.Fatalf("%d steps at once", busy)
		}
	}
	if steps < 6 {
		t.Errorf("only %d steps", steps)
	}
	w.down(p, false)
	w.nothingLeft()
}
