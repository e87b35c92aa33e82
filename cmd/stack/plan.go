package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/planner"
)

// Exit statuses of plan --exit-code, beside 0 and 1.
const statusChanges exitStatus = 2

func (a *app) plan() *cobra.Command {
	var asJSON, asDOT, exitCode bool
	u := upFlags{timeout: newTimeout()}
	c := &cobra.Command{
		Use:   "plan [SERVICE...]",
		Short: "Show what up would do, and why",
		RunE: interruptible(func(ctx context.Context, services []string) error {
			if err := u.settle(); err != nil {
				return err
			}
			u.opt.Services = services
			plan, err := a.plannedUp(ctx, u.opt)
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
	u.addPlanned(c)
	return c
}

// plannedUp asks for up's plan.
func (a *app) plannedUp(ctx context.Context, o planner.Options) (planner.Plan, error) {
	a.dryRun = true
	_, c, change, err := a.upChange(ctx, o, nil)
	if err != nil {
		return planner.Plan{}, err
	}
	change.Options.RecreateVolumes = true // what up would do if the user agreed
	change.Options.Now = time.Now()
	return a.preview(ctx, c, change)
}
