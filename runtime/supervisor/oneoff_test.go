package supervisor

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/image"
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

// TestCopiesShareAMachine: who is done first does not end the machine that another
// still copies in; the last one does.
func TestCopiesShareAMachine(t *testing.T) {
	w := newWorld(t)
	p := project("shop", service("web", "server"))
	if _, err := w.apply(api.Apply{Command: api.Create, Project: p}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	at := api.Archive{Select: api.Select{Replica: w.rec("shop-web-1").ID}, Path: "/tmp"}
	first, _, leaveFirst, err := w.s.archive(ctx, at)
	if err != nil {
		t.Fatal(err)
	}
	second, _, leaveSecond, err := w.s.archive(ctx, at)
	if err != nil || second != first {
		t.Fatalf("%v, another machine: %t", err, second != first)
	}
	leaveFirst()
	r, err := w.s.find(at.Replica)
	if err != nil {
		t.Fatal(err)
	}
	w.s.endBooted(r) // as leaving has had done, or is about to
	if _, err := second.client.Load().Stats(ctx); err != nil {
		t.Errorf("the second visitor: %v", err)
	}
	leaveSecond()
	w.until("shop-web-1", func(r *state.Replica) bool { return r.Machine == "" })
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
		var said []string
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
			if e.Kind == api.EventStep {
				said = append(said, e.Step.Text+" "+e.Step.Name)
			}
			if e.Kind == api.EventCreated {
				if want := []string{"Creating " + e.Replica.Name, "Created " + e.Replica.Name}; !slices.Equal(said[len(said)-2:], want) {
					t.Errorf("it reports %q, want %q last", said, want)
				}
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

// TestRunPulls: a one-off's image is looked up again as its service's pull policy
// wants, for its age too, unless run says otherwise.
func TestRunPulls(t *testing.T) {
	w := newWorld(t)
	c := w.serve()
	p := project("shop", service("web", "server"))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, tt := range []struct {
		policy, flag string
		age          time.Duration
		want         bool
	}{
		{"", "policy", 24 * 365 * time.Hour, false},
		{"missing", "policy", 24 * 365 * time.Hour, false},
		{"always", "policy", time.Second, true},
		{"daily", "policy", 23 * time.Hour, false},
		{"daily", "policy", 25 * time.Hour, true},
		{"daily", "", 25 * time.Hour, true},
		{"weekly", "policy", 6 * 24 * time.Hour, false},
		{"weekly", "policy", 8 * 24 * time.Hour, true},
		{"every_1w2d", "policy", 8 * 24 * time.Hour, false},
		{"every_1w2d", "policy", 10 * 24 * time.Hour, true},
		{"daily", "missing", 25 * time.Hour, false},
		{"daily", "always", time.Hour, true},
	} {
		img := w.images.make("app:1", image.Config{Cmd: []string{"server"}})
		img.Pulled = time.Now().Add(-tt.age)
		w.images.mu.Lock()
		w.images.images["app:1"], w.images.remote = img, map[string]*image.Image{"app:1": w.images.make("app:1", img.Config)}
		w.images.mu.Unlock()
		p.Services["web"].PullPolicy = tt.policy
		_, set, err := p.OneOff("web", spec.OneOff{})
		if err != nil {
			t.Fatal(err)
		}
		pulled := false
		for e, err := range c.Run(ctx, api.Run{Project: p, Service: "web", Set: set, Pull: tt.flag}) {
			if err != nil {
				t.Fatal(err)
			}
			pulled = pulled || e.Kind == api.EventProgress
			if e.Kind == api.EventCreated {
				if err := c.DeleteReplica(ctx, api.Select{Replica: e.Replica.ID}); err != nil {
					t.Error(err)
				}
			}
		}
		if pulled != tt.want {
			t.Errorf("policy %q, --pull %q, an image of %v: pulled %v, want %v", tt.policy, tt.flag, tt.age, pulled, tt.want)
		}
	}
	w.down(p, true)
}
