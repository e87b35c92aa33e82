package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
)

func (a *app) pause() *cobra.Command {
	return &cobra.Command{
		Use:   "pause [SERVICE...]",
		Short: "Pause services: their processes stand still",
		RunE: interruptible(func(ctx context.Context, services []string) error {
			return a.setPaused(ctx, services, false, "Paused")
		}),
	}
}

func (a *app) unpause() *cobra.Command {
	return &cobra.Command{
		Use:   "unpause [SERVICE...]",
		Short: "Unpause services",
		RunE: interruptible(func(ctx context.Context, services []string) error {
			return a.setPaused(ctx, services, true, "Unpaused")
		}),
	}
}

func (a *app) setPaused(ctx context.Context, services []string, resume bool, done string) error {
	_, name, c, err := a.reach(ctx, services)
	if err != nil {
		return err
	}
	sel := api.Select{Project: name, Services: services}
	var replicas []api.ReplicaRef
	var failed error
	if a.dryRun {
		replicas, failed = standing(ctx, c, sel, func(s planner.Status) bool {
			return resume && s == planner.StatusPaused || !resume && s == planner.StatusRunning
		})
	} else {
		replicas, failed = c.Pause(ctx, api.Pause{Select: sel, Resume: resume})
	}
	p, err := a.newProgress("pause", a.dryRun)
	if err != nil {
		return err
	}
	for _, r := range replicas {
		p.On(render.Event{ID: "Container " + r.Name, Status: render.Done, Text: done})
	}
	p.Close()
	return failed
}
