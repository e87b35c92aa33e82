package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/stackvm/stack/planner"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func plan(steps ...planner.Step) planner.Plan {
	for i := range steps {
		steps[i].ID = i + 1
	}
	return planner.Plan{Steps: steps}
}

// A slow step holds up only what needs it.
func TestNoBarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := plan(
			planner.Step{Verb: planner.Pull, Name: "slow"},
			planner.Step{Verb: planner.Pull, Name: "fast"},
			planner.Step{Verb: planner.Create, Name: "of-fast", After: []int{2}},
			planner.Step{Verb: planner.Create, Name: "of-slow", After: []int{1}},
		)
		start := time.Now()
		at := map[string]time.Duration{}
		err := Run(t.Context(), p, func(_ context.Context, s planner.Step) error {
			if s.Name == "slow" {
				time.Sleep(time.Hour)
			}
			return nil
		}, func(r Report) {
			if r.State == Done {
				at[r.Step.Name] = time.Since(start)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if at["of-fast"] != 0 || at["of-slow"] != time.Hour {
			t.Errorf("done at %v", at)
		}
	})
}

// At most so many steps are under way, in the plan's order, and a wait that needs
// one of them takes no room.
func TestRunAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := plan(
			planner.Step{Verb: planner.Wait, Name: "w"},
			planner.Step{Verb: planner.Create, Name: "a"},
			planner.Step{Verb: planner.Create, Name: "b"},
			planner.Step{Verb: planner.Create, Name: "c"},
			planner.Step{Verb: planner.Start, Name: "d", After: []int{2}},
			planner.Step{Verb: planner.Start, Name: "e", After: []int{4}},
		)
		var mu sync.Mutex
		busy, most := 0, 0
		var began []string
		released := make(chan struct{})
		err := RunAtMost(t.Context(), 2, p, func(_ context.Context, s planner.Step) error {
			if s.Name == "w" {
				<-released
				return nil
			}
			mu.Lock()
			busy++
			most = max(most, busy)
			began = append(began, s.Name)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			busy--
			mu.Unlock()
			if s.Name == "e" {
				close(released)
			}
			return nil
		}, func(Report) {})
		if err != nil || most != 2 || len(began) != 5 {
			t.Errorf("%v; %d at once; began %v", err, most, began)
		}
		if last := began[4]; last != "e" {
			t.Errorf("began %v", began)
		}

		fails := errors.New("no")
		done := 0
		err = RunAtMost(t.Context(), 1, p, func(ctx context.Context, s planner.Step) error {
			if s.Name == "w" {
				<-ctx.Done()
				return ctx.Err()
			}
			done++
			return fails
		}, func(Report) {})
		if !errors.Is(err, fails) || done != 1 {
			t.Errorf("%v after %d steps: what had no room began although a step failed", err, done)
		}
	})
}

func TestFirstErrorCancelsWhatHasNotBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := plan(
			planner.Step{Verb: planner.Create, Name: "fails"},
			planner.Step{Verb: planner.Start, Name: "never", After: []int{1}},
			planner.Step{Verb: planner.Create, Name: "under way"},
			planner.Step{Verb: planner.Start, Name: "too late", After: []int{3}},
			planner.Step{Verb: planner.Wait, Name: "waiting"},
		)
		boom := errors.New("boom")
		var got []string
		err := Run(t.Context(), p, func(ctx context.Context, s planner.Step) error {
			switch s.Name {
			case "fails":
				time.Sleep(time.Second)
				return boom
			case "under way":
				time.Sleep(time.Minute)
				return ctx.Err()
			case "waiting":
				<-ctx.Done()
				return ctx.Err()
			}
			t.Errorf("%s was started", s.Name)
			return nil
		}, func(r Report) {
			if r.State != Started {
				got = append(got, r.Step.Name+" "+string(r.State))
			}
		})
		if !errors.Is(err, boom) {
			t.Errorf("error %v", err)
		}
		slices.Sort(got)
		if s := strings.Join(got, ", "); s != "fails failed, never skipped, too late skipped, under way done, waiting skipped" {
			t.Errorf("reported %s", s)
		}
	})
}

func TestAnOptionalFailureIsTolerated(t *testing.T) {
	p := plan(
		planner.Step{Verb: planner.Wait, Name: "cache", Optional: true},
		planner.Step{Verb: planner.Start, Name: "web", After: []int{1}},
	)
	started := false
	err := Run(t.Context(), p, func(_ context.Context, s planner.Step) error {
		if s.Name == "cache" {
			return errors.New("unhealthy")
		}
		started = true
		return nil
	}, func(r Report) {
		if r.State == Failed && !r.Tolerated {
			t.Errorf("%v", r)
		}
	})
	if err != nil || !started {
		t.Errorf("err %v, started %v", err, started)
	}
}

func TestCancelledBeforeAndDuring(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := Run(ctx, plan(planner.Step{Verb: planner.Create, Name: "a"}), func(context.Context, planner.Step) error {
		t.Error("started")
		return nil
	}, func(Report) {})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	err = Run(ctx, plan(planner.Step{Verb: planner.Create, Name: "a"}, planner.Step{Verb: planner.Start, Name: "b", After: []int{1}}),
		func(ctx context.Context, s planner.Step) error {
			if s.Name == "b" {
				t.Error("b was started")
			}
			cancel()
			return ctx.Err() // a create is finished whatever happens
		}, func(Report) {})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// Whatever the plan, the failures and the moment of a cancel: no step begins
// before its needs are done, each is reported once, and an error is returned
// exactly when something that is not optional failed or was skipped.
func TestProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 20).Draw(rt, "steps")
		steps := make([]planner.Step, n)
		fails := make([]bool, n)
		for i := range steps {
			steps[i].Name = fmt.Sprint(i + 1)
			steps[i].Verb = rapid.SampledFrom([]planner.Verb{planner.Create, planner.Wait, planner.Start}).Draw(rt, "verb")
			steps[i].Optional = steps[i].Verb == planner.Wait && rapid.Bool().Draw(rt, "optional")
			fails[i] = rapid.IntRange(0, 9).Draw(rt, "fails") == 0
			for need := 1; need <= i; need++ {
				if rapid.IntRange(0, 3).Draw(rt, "needs") == 0 {
					steps[i].After = append(steps[i].After, need)
				}
			}
		}
		cancelAt := rapid.IntRange(1, 2*n).Draw(rt, "cancelAt")
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		var mu sync.Mutex
		done := map[int]bool{}
		count := 0
		final := map[int]State{}
		bad := false
		err := Run(ctx, plan(steps...), func(_ context.Context, s planner.Step) error {
			mu.Lock()
			defer mu.Unlock()
			for _, need := range s.After {
				if !done[need] {
					rt.Errorf("step %d began before %d was done", s.ID, need)
				}
			}
			if count++; count == cancelAt {
				cancel()
			}
			if fails[s.ID-1] {
				done[s.ID] = s.Optional
				return errors.New("failed")
			}
			done[s.ID] = true
			return nil
		}, func(r Report) {
			if r.State == Started {
				return
			}
			if was, twice := final[r.Step.ID]; twice {
				rt.Errorf("step %d is %s and %s", r.Step.ID, was, r.State)
			}
			final[r.Step.ID] = r.State
			bad = bad || r.State == Skipped || r.State == Failed && !r.Tolerated
		})
		if len(final) != n {
			rt.Errorf("%d of %d steps reported", len(final), n)
		}
		if bad && err == nil {
			rt.Error("no error although not everything was done")
		}
		if !bad && err != nil && ctx.Err() == nil {
			rt.Errorf("error %v although everything was done", err)
		}
	})
}

func BenchmarkRun(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprintf("steps=%d", n), func(b *testing.B) {
			steps := make([]planner.Step, n)
			for i := range steps {
				if i > 2 {
					steps[i].After = []int{i, i - 1, i - 2}
				}
			}
			p := plan(steps...)
			b.ReportAllocs()
			for b.Loop() {
				if err := Run(b.Context(), p, func(context.Context, planner.Step) error { return nil }, func(Report) {}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A run goes on when another step fails, and ends when the user does not want the
// plan any more.
func TestRunsEndWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	plan := planner.Plan{Steps: []planner.Step{{ID: 1, Verb: planner.Run, Name: "hook"}, {ID: 2, Verb: planner.Start, Name: "web"}}}
	failed := errors.New("no such machine")
	states := map[string]State{}
	err := Run(ctx, plan, func(ctx context.Context, s planner.Step) error {
		if s.Verb == planner.Start {
			return failed
		}
		<-ctx.Done()
		return context.Cause(ctx)
	}, func(r Report) {
		states[r.Step.Name] = r.State
		if r.Step.Name == "web" && r.State == Failed {
			cancel()
		}
	})
	if !errors.Is(err, failed) || states["hook"] != Skipped {
		t.Errorf("%v, %v", err, states)
	}
}
