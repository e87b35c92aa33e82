package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/stackvm/stack/planner"
)

// State is how far a step has come.
type State string

// States.
const (
	Started State = "started"
	Done    State = "done"
	Failed  State = "failed"
	Skipped State = "skipped" // it has not begun: a step it needs failed, or the run was cancelled
)

// Report tells of one step's change of state.
type Report struct {
	Step  planner.Step
	State State
	Err   error // with Failed
	// Tolerated, with Failed: the step is optional, the run goes on.
	Tolerated bool
}

// Run carries the plan out with do and returns the first error, or ctx's when
// that was first. After the first error, or the end of ctx, no step begins.
// Steps under way are finished, so that what was begun is recorded and whole;
// only those that change nothing, waits and pulls, see their context end, and runs,
// which may last as long as they like, the end of ctx.
//
// report is called from one goroutine at a time, before a step begins and after
// it has ended; every step is reported as done, failed or skipped exactly once.
func Run(ctx context.Context, plan planner.Plan, do func(context.Context, planner.Step) error, report func(Report)) error {
	return RunAtMost(ctx, 0, plan, do, report)
}

// RunAtMost is Run with at most limit steps under way at a time; below 1: no
// limit. A wait does not count: what it waits for may need the room.
func RunAtMost(ctx context.Context, limit int, plan planner.Plan, do func(context.Context, planner.Step) error, report func(Report)) error {
	r := run{
		limit:   limit,
		steps:   plan.Steps,
		missing: make([]int, len(plan.Steps)),
		next:    make([][]int, len(plan.Steps)),
		results: make(chan result),
		report:  report,
	}
	for i, s := range plan.Steps {
		if s.ID != i+1 {
			return fmt.Errorf("plan: step %d has the number %d", i+1, s.ID)
		}
		for _, need := range s.After {
			if need < 1 || need > i {
				return fmt.Errorf("plan: step %d comes after step %d", s.ID, need)
			}
			r.missing[i]++
			r.next[need-1] = append(r.next[need-1], i)
		}
	}
	return r.all(ctx, do)
}

type run struct {
	limit   int
	steps   []planner.Step
	missing []int   // needs that are not done, by step
	next    [][]int // steps that need it, by step
	results chan result
	report  func(Report)
}

type result struct {
	step int
	err  error
}

func (r *run) all(ctx context.Context, do func(context.Context, planner.Step) error) error {
	interruptible, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	lasting := context.WithoutCancel(ctx)

	begun := make([]bool, len(r.steps))
	running, busy := 0, 0 // busy: those that count
	var held []int        // ready, but there is no room
	var first error
	begin := func(i int) {
		counts := r.steps[i].Verb != planner.Wait
		if counts && r.limit > 0 && busy >= r.limit {
			held = append(held, i)
			return
		}
		if first == nil && ctx.Err() != nil {
			first = context.Cause(ctx)
		}
		if first != nil {
			return // reported as skipped at the end
		}
		begun[i] = true
		running++
		if counts {
			busy++
		}
		step, stepCtx := r.steps[i], lasting
		switch step.Verb {
		case planner.Wait, planner.Pull:
			stepCtx = interruptible
		case planner.Run: // somebody's program: what fails beside it is no reason to break it off
			stepCtx = ctx
		}
		r.report(Report{Step: step, State: Started})
		go func() { r.results <- result{i, do(stepCtx, step)} }()
	}
	for i := range r.steps {
		if r.missing[i] == 0 {
			begin(i)
		}
	}
	ended := ctx.Done()
	for running > 0 {
		var res result
		select {
		case res = <-r.results:
		case <-ended:
			ended = nil
			if first == nil {
				first = context.Cause(ctx)
			}
			continue
		}
		running--
		step := r.steps[res.step]
		if step.Verb != planner.Wait {
			busy--
		}
		failed := false
		switch {
		case res.err == nil:
			r.report(Report{Step: step, State: Done})
		case first != nil && errors.Is(res.err, context.Canceled):
			r.report(Report{Step: step, State: Skipped}) // a wait or pull cut short
			failed = true
		default:
			r.report(Report{Step: step, State: Failed, Err: res.err, Tolerated: step.Optional})
			if failed = !step.Optional; failed {
				if first == nil {
					first = res.err
				}
				cancel(context.Canceled)
			}
		}
		ready := held
		held = nil
		if !failed {
			for _, n := range r.next[res.step] {
				if r.missing[n]--; r.missing[n] == 0 {
					ready = append(ready, n)
				}
			}
		}
		for _, n := range ready {
			begin(n)
		}
	}
	for i, b := range begun {
		if !b {
			r.report(Report{Step: r.steps[i], State: Skipped})
		}
	}
	return first
}
