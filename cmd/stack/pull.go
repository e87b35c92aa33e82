package main

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/runtime/api"
)

func (a *app) pull() *cobra.Command {
	var deps bool
	var r api.Pull
	var policy string
	c := &cobra.Command{
		Use:   "pull [SERVICE...]",
		Short: "Pull the images of services",
		RunE: interruptible(func(ctx context.Context, services []string) error {
			p, err := a.project(ctx, services)
			if err != nil {
				return err
			}
			for _, name := range slices.Sorted(maps.Keys(p.Services)) {
				s := p.Services[name]
				if len(services) > 0 && !deps && !slices.Contains(services, name) || s.Build {
					continue
				}
				r.Images = append(r.Images, api.PullImage{Reference: s.Image, Platform: s.Platform, Service: name, Policy: policy, Pos: s.Keys["image"]})
			}
			if r.Registry, err = a.registry(p); err != nil {
				return err
			}
			r.Parallel = a.parallel
			if a.dryRun {
				return a.rehearsePull(r.Images)
			}
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			progress, err := a.newProgress("pull", false)
			if err != nil {
				return err
			}
			defer progress.Close()
			return a.follow(progress, c.Pull(ctx, r), nil)
		}),
	}
	f := c.Flags()
	f.BoolVar(&deps, "include-deps", false, "pull the images of services they depend on too")
	f.BoolVar(&r.IgnoreFailures, "ignore-pull-failures", false, "pull what can be pulled and ignore the rest")
	f.StringVar(&policy, "policy", "always", "`policy`: always, or missing to pull only what is not there")
	c.PreRunE = func(*cobra.Command, []string) error {
		if policy != "always" && policy != "missing" {
			return fmt.Errorf("--policy %q: use always or missing", policy)
		}
		return nil
	}
	return c
}

// rehearsePull shows a pull as it would look if it went well.
func (a *app) rehearsePull(images []api.PullImage) error {
	p, err := a.newProgress("pull", true)
	if err != nil {
		return err
	}
	defer p.Close()
	seen := map[string]bool{}
	for _, i := range images {
		if seen[i.Reference] {
			continue
		}
		seen[i.Reference] = true
		p.On(render.Event{ID: "Image " + i.Reference, Status: render.Working, Text: "Pulling"})
		p.On(render.Event{ID: "Image " + i.Reference, Status: render.Done, Text: "Pulled"})
	}
	return nil
}
