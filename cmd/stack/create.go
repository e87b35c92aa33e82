package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/spec"
)

func (a *app) create() *cobra.Command {
	var o planner.Options
	var build, noBuild, force, never, yes, quietPull bool
	var scale []string
	c := &cobra.Command{
		Use:   "create [SERVICE...]",
		Short: "Create containers without starting them",
		RunE: interruptible(func(ctx context.Context, services []string) error {
			switch {
			case build && noBuild:
				return errors.New("--build and --no-build are incompatible")
			case build:
				return needsBuilder("--build")
			case force && never:
				return errors.New("--force-recreate and --no-recreate are incompatible")
			case force:
				o.Recreate = planner.RecreateForce
			case never:
				o.Recreate, o.RecreateDeps = planner.RecreateNever, planner.RecreateNever
			}
			if err := checkPull(o.Pull); err != nil {
				return err
			}
			var err error
			if o.Scale, err = parseScale(scale); err != nil {
				return err
			}
			o.Services = services
			_, c, change, err := a.upChange(ctx, o, func(load spec.Options, p *spec.Project) error {
				return a.confirmRemote(ctx, a.out, load, p, yes, nil)
			})
			if err != nil {
				return err
			}
			change.Command = api.Create
			if yes {
				change.Confirm = api.ConfirmAll
			}
			return a.apply(ctx, c, change, quietly(quietPull))
		}),
	}
	f := c.Flags()
	f.BoolVar(&build, "build", false, "build images first (not supported yet)")
	f.BoolVar(&noBuild, "no-build", false, "build no image, even one that is missing")
	f.BoolVar(&force, "force-recreate", false, "recreate containers even if their configuration and image have not changed")
	f.BoolVar(&never, "no-recreate", false, "keep containers that exist, whatever changed")
	f.StringVar(&o.Pull, "pull", "policy", "pull images first: always, missing, never, or each service's own `policy`")
	f.BoolVar(&quietPull, "quiet-pull", false, "pull without progress of the layers")
	f.BoolVar(&o.RemoveOrphans, "remove-orphans", false, "remove containers of services that are not in the compose file")
	f.StringArrayVar(&scale, "scale", nil, "scale SERVICE to NUM replicas (`SERVICE=NUM`), overrides the scale setting in the compose file")
	f.BoolVarP(&yes, "yes", "y", false, "answer yes to every question")
	return c
}

// quietly leaves the progress of layers out of what is shown.
func quietly(quiet bool) func(api.Event) bool {
	if !quiet {
		return nil
	}
	return func(e api.Event) bool { return e.Kind != api.EventProgress }
}
