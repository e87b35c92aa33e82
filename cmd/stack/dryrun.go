package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
)

// dryRuns are the commands that take --dry-run: those that only look, and those
// that can say what they would do.
var dryRuns = map[string]bool{
	"up": true, "create": true, "scale": true, "down": true, "start": true, "stop": true, "restart": true, "rm": true, "pull": true,
	"config": true, "events": true, "images": true, "logs": true, "ls": true, "plan": true, "port": true, "ps": true, "stats": true,
	"top": true, "version": true, "volumes": true, "wait": true, "inspect": true, "doctor": true, "help": true,
	"kill": true, "pause": true, "unpause": true, "run": true, "exec": true, "volume ls": true, "volume inspect": true, "forward ls": true, "network ls": true, "network inspect": true,
}

// toChange connects to the supervisor for a change. A dry run starts none: it
// gets nil where none runs.
func (a *app) toChange(ctx context.Context) (*api.Client, error) {
	if !a.dryRun {
		return a.connect(ctx)
	}
	c, err := a.dial(ctx)
	if errors.Is(err, api.ErrNoSupervisor) {
		return nil, nil //nolint:nilnil // there is none, and that is all right
	}
	return c, err
}

// preview returns the plan of a change, which is not carried out. It starts no
// supervisor: without one, what is recorded is what there is.
func (a *app) preview(ctx context.Context, c *api.Client, change api.Apply) (planner.Plan, error) {
	change.DryRun, change.Adopt = true, a.adopt
	if c == nil {
		return a.planOffline(change)
	}
	for e, err := range c.Apply(ctx, change) {
		if err != nil {
			return planner.Plan{}, err
		}
		switch e.Kind {
		case api.EventWarning:
			fmt.Fprintln(a.err, "warning:", e.Text)
		case api.EventPlan:
			return *e.Plan, nil
		}
	}
	return planner.Plan{}, errors.New("the supervisor made no plan")
}

// rehearse shows a change as it would look if it went well.
func (a *app) rehearse(ctx context.Context, c *api.Client, change api.Apply) error {
	plan, err := a.preview(ctx, c, change)
	if err != nil {
		return err
	}
	p, err := a.newProgress(string(change.Command), true)
	if err != nil {
		return err
	}
	defer p.Close()
	for _, name := range plan.Kept {
		p.On(render.Event{ID: "Container " + name, Status: render.Done, Text: "Running"})
	}
	for _, s := range plan.Steps {
		e := render.Event{ID: nouns[s.Noun] + " " + s.Name, Status: render.Working}
		if s.Destructive {
			e.Details = "destroys data"
		}
		var done string
		e.Text, done = s.Words()
		p.On(e)
		e.Status, e.Text = render.Done, done
		p.On(e)
	}
	return nil
}

// rehearseOne shows what would be done to one container.
func (a *app) rehearseOne(command, container, doing, done string) error {
	p, err := a.newProgress(command, true)
	if err != nil {
		return err
	}
	defer p.Close()
	p.On(render.Event{ID: "Container " + container, Status: render.Working, Text: doing})
	p.On(render.Event{ID: "Container " + container, Status: render.Done, Text: done})
	return nil
}

// standing are the replicas that a command would act on, by their status.
func standing(ctx context.Context, c *api.Client, sel api.Select, acts func(planner.Status) bool) (refs []api.ReplicaRef, err error) {
	if c == nil {
		return nil, nil
	}
	replicas, err := c.Replicas(ctx, sel)
	for _, r := range replicas {
		if acts(r.Status) {
			refs = append(refs, api.ReplicaRef{ID: r.ID, Name: r.Name})
		}
	}
	return refs, err
}
