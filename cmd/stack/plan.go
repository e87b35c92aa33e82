package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
)

// Exit statuses of plan --exit-code, beside 0 and 1.
const statusChanges exitStatus = 2

func (a *app) plan() *cobra.Command {
	var asJSON, asDOT, exitCode bool
	var o planner.Options
	c := &cobra.Command{
		Use:   "plan [SERVICE...]",
		Short: "Show what up would do, and why",
		RunE: interruptible(func(ctx context.Context, services []string) error {
			o.Services = services
			plan, err := a.plannedUp(ctx, o)
			if err != nil {
				return err
			}
			switch {
			case asJSON:
				text, err := plan.JSON()
				if err != nil {
					return err
				}
				fmt.Fprintf(a.out, "%s\n", text)
			case asDOT:
				fmt.Fprint(a.out, plan.DOT())
			default:
				fmt.Fprint(a.out, plan.String())
			}
			if exitCode && !plan.Empty() {
				return statusChanges
			}
			return nil
		}),
	}
	f := c.Flags()
	f.BoolVar(&asJSON, "json", false, "print the plan as JSON (docs/plan.md)")
	f.BoolVar(&asDOT, "dot", false, "print the plan as a graph for Graphviz")
	f.BoolVar(&exitCode, "exit-code", false, "exit with 0 if there is nothing to do, 2 if there are changes, 1 after an error")
	f.BoolVar(&o.RemoveOrphans, "remove-orphans", false, "plan the removal of containers of services that are not in the compose file")
	return c
}

// plannedUp asks for up's plan.
func (a *app) plannedUp(ctx context.Context, o planner.Options) (planner.Plan, error) {
	a.dryRun = true
	p, err := a.project(ctx, o.Services)
	if err != nil {
		return planner.Plan{}, err
	}
	c, err := a.toChange(ctx)
	if err != nil {
		return planner.Plan{}, err
	}
	o.Now, o.IgnoreOrphans = time.Now(), a.envBool("COMPOSE_IGNORE_ORPHANS")
	return a.preview(ctx, c, api.Apply{Command: api.Up, Name: p.Name, Project: p, Options: o})
}
