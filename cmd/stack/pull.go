package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
)

func (a *app) pull() *cobra.Command {
	var quiet bool
	var o planner.Options
	var r api.Pull
	c := &cobra.Command{
		Use:   "pull [SERVICE...]",
		Short: "Pull the images of services",
		PreRunE: func(c *cobra.Command, _ []string) error {
			for _, name := range []string{"parallel", "no-parallel"} {
				if c.Flags().Changed(name) {
					fmt.Fprintf(a.err, "option '--%s' is DEPRECATED and will be ignored.\n", name)
				}
			}
			if o.Pull != "" && o.Pull != "always" && o.Pull != "missing" {
				return fmt.Errorf("--policy %q: use always or missing", o.Pull)
			}
			return nil
		},
		RunE: interruptible(func(ctx context.Context, services []string) error {
			p, err := a.project(ctx, services)
			if err != nil {
				return err
			}
			o.Services, o.Now = services, time.Now()
			st, err := a.observe(p.Name, p)
			if err != nil {
				return err
			}
			plan, skipped, err := planner.PullAll(st, p, o)
			if err != nil {
				return err
			}
			if quiet {
				a.progress = string(render.ModeQuiet)
			}
			progress, err := a.newProgress("pull", a.dryRun)
			if err != nil {
				return err
			}
			defer progress.Close()
			for _, s := range skipped {
				progress.On(render.Event{ID: s.Service, Status: render.Done, Text: "Skipped", Details: s.Why})
			}
			for _, s := range plan.Steps {
				if a.dryRun { // as it would look if it went well
					progress.On(render.Event{ID: "Image " + s.Name, Status: render.Working, Text: "Pulling"})
					progress.On(render.Event{ID: "Image " + s.Name, Status: render.Done, Text: "Pulled"})
				}
				svc := p.Services[s.Service]
				r.Images = append(r.Images, api.PullImage{Reference: svc.Image, Platform: svc.Platform, Service: s.Service, Pos: svc.Keys["image"]})
			}
			if a.dryRun || len(r.Images) == 0 {
				return nil
			}
			if r.Registry, err = a.registry(p); err != nil {
				return err
			}
			r.Parallel = a.parallel
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			return a.follow(progress, c.Pull(ctx, r), nil)
		}),
	}
	f := c.Flags()
	f.BoolVar(&o.NoBuildable, "ignore-buildable", false, "leave out images that can be built")
	f.BoolVar(&r.IgnoreFailures, "ignore-pull-failures", false, "pull what can be pulled and ignore the rest")
	f.BoolVar(&o.WithDeps, "include-deps", false, "pull the images of services they depend on too")
	f.StringVar(&o.Pull, "policy", "", "`policy` instead of the services' own: always, or missing to pull only what is not there")
	f.BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	for _, name := range []string{"parallel", "no-parallel"} { // of compose v1, which scripts still use
		f.Bool(name, true, "has had no effect since compose v2")
		_ = f.MarkHidden(name) // it was just added
	}
	return c
}
