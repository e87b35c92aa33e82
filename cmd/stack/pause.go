package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/render"
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
	replicas, failed := c.Pause(ctx, api.Pause{Select: api.Select{Project: name, Services: services}, Resume: resume})
	p, err := a.newProgress("pause", false)
	if err != nil {
		return err
	}
	for _, r := range replicas {
		p.On(render.Event{ID: "Container " + r.Name, Status: render.Done, Text: done})
	}
	p.Close()
	return failed
}
