package supervisor

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/spec"
)

// TestCopyIntoAStoppedContainer: a container that does not run has a machine for
// as long as files go in or out, and is as it was then.
func TestCopyIntoAStoppedContainer(t *testing.T) {
	w := newWorld(t)
	c := w.serve()
	p := project("shop", service("web", "server"))
	if _, err := w.apply(api.Apply{Command: api.Create, Project: p}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var in bytes.Buffer
	tw := tar.NewWriter(&in)
	if err := errors.Join(tw.WriteHeader(&tar.Header{Name: "a", Mode: 0o600, Typeflag: tar.TypeReg}), tw.Close()); err != nil {
		t.Fatal(err)
	}
	at := api.Archive{Select: api.Select{Replica: w.rec("shop-web-1").ID}, Path: "/tmp"}
	if err := c.Put(ctx, at, &in); err != nil {
		t.Fatal(err)
	}
	if r := w.until("shop-web-1", func(r *state.Replica) bool { return r.Machine == "" }); r.Status != planner.StatusCreated {
		t.Errorf("it is %s", r.Status)
	}
	at.Path = "/none"
	if _, err := c.Stat(ctx, at); err == nil {
		t.Error("a file that is not there was found")
	}
	w.up(p)
	if !running(w.rec("shop-web-1")) || len(w.driver.Guests()) != 1 {
		t.Errorf("%d machines run", len(w.driver.Guests()))
	}
	w.down(p, true)
	w.nothingLeft()
}

// TestRunWaitsForConditions: a one-off is made once what it depends on is as its
// conditions say; an optional dependency that fails is a warning.
func TestRunWaitsForConditions(t *testing.T) {
	w := newWorld(t)
	c := w.serve()
	job, tool := service("job", "sh", "-c", "exit 4"), service("tool", "server")
	dependsOn(tool, "job", spec.ConditionCompleted)
	p := project("shop", job, tool)
	if _, err := w.apply(api.Apply{Command: api.Up, Project: p, Options: planner.Options{Services: []string{"job"}}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	run := func(required, noDeps bool) (warned bool, err error) {
		how := p.Services["tool"].DependsOn["job"]
		how.Required = required
		p.Services["tool"].DependsOn["job"] = how
		_, set, err := p.OneOff("tool", spec.OneOff{})
		if err != nil {
			t.Fatal(err)
		}
		for e, err := range c.Run(ctx, api.Run{Project: p, Service: "tool", Set: set, NoDeps: noDeps}) {
			if err != nil {
				return warned, err
			}
			warned = warned || e.Kind == api.EventWarning
			if e.Kind == api.EventCreated {
				if err := c.DeleteReplica(ctx, api.Select{Replica: e.Replica.ID}); err != nil {
					t.Error(err)
				}
			}
		}
		return warned, nil
	}
	if _, err := run(true, false); err == nil {
		t.Error("it was made although what it depends on had failed")
	}
	if warned, err := run(false, false); err != nil || !warned {
		t.Errorf("an optional dependency: warned %v, %v", warned, err)
	}
	if warned, err := run(true, true); err != nil || warned {
		t.Errorf("without dependencies: warned %v, %v", warned, err)
	}
	w.down(p, true)
	w.nothingLeft()
}
