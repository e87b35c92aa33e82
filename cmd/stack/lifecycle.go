package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
)

// change carries out a command on a project that may have no file: the
// supervisor then goes by what it recorded.
func (a *app) change(ctx context.Context, services []string, change api.Apply) error {
	p, name, c, err := a.reach(ctx, services)
	if err != nil {
		return err
	}
	change.Name, change.Project = name, p
	if change.Command == api.Stop {
		change.Providers = providersOf(p)
	}
	return a.apply(ctx, c, change, nil)
}

func (a *app) down() *cobra.Command {
	var o planner.DownOptions
	timeout := newTimeout()
	c := &cobra.Command{
		Use:   "down [SERVICE...]",
		Short: "Stop and remove containers and networks",
		PreRunE: func(*cobra.Command, []string) error {
			if o.Images != "" && o.Images != "local" && o.Images != "all" {
				return fmt.Errorf("invalid value for --rmi: %q", o.Images)
			}
			return nil
		},
		RunE: interruptible(func(ctx context.Context, services []string) error {
			o.Services, o.Timeout = services, timeout.value()
			// -v is the user's word that the volumes go.
			p, name, c, err := a.reach(ctx, nil)
			if err != nil {
				return err
			}
			change := api.Apply{Command: api.Down, Name: name, Project: p, Down: o, Confirm: api.ConfirmAll, Providers: providersOf(p)}
			return a.apply(ctx, c, change, func(e api.Event) bool {
				if e.Kind == api.EventPlan && e.Plan.Empty() {
					fmt.Fprintf(a.err, "Warning: No resource found to remove for project %q.\n", name)
				}
				return true
			})
		}),
	}
	f := c.Flags()
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "volume" { // compose's older name
			name = "volumes"
		}
		return pflag.NormalizedName(name)
	})
	f.BoolVarP(&o.Volumes, "volumes", "v", false, "remove the volumes that the compose file declares, and anonymous ones")
	f.StringVar(&o.Images, "rmi", "", "remove the images of services too: all, or local for those without a tag of their own (`type`)")
	f.BoolVar(&o.RemoveOrphans, "remove-orphans", false, "remove containers of services that are not in the compose file")
	timeout.add(c)
	return c
}

func (a *app) stop() *cobra.Command {
	timeout := newTimeout()
	c := &cobra.Command{
		Use:   "stop [SERVICE...]",
		Short: "Stop services",
		RunE: interruptible(func(ctx context.Context, services []string) error {
			return a.change(ctx, services, api.Apply{Command: api.Stop, Selection: planner.Selection{Services: services, Timeout: timeout.value()}})
		}),
	}
	timeout.add(c)
	return c
}

func (a *app) start() *cobra.Command {
	var sel planner.Selection
	var timeout int
	c := &cobra.Command{
		Use:   "start [SERVICE...]",
		Short: "Start services",
		RunE: interruptible(func(ctx context.Context, services []string) error {
			sel.Services = services
			return a.change(ctx, services, api.Apply{Command: api.Start, Selection: sel, WaitTimeout: time.Duration(timeout) * time.Second})
		}),
	}
	c.Flags().BoolVar(&sel.Wait, "wait", false, "wait until the services are running or healthy")
	c.Flags().IntVar(&timeout, "wait-timeout", 0, "`seconds` to wait at most; 0: without end")
	return c
}

func (a *app) restart() *cobra.Command {
	timeout := newTimeout()
	var sel planner.Selection
	c := &cobra.Command{
		Use:   "restart [SERVICE...]",
		Short: "Restart services",
		RunE: interruptible(func(ctx context.Context, services []string) error {
			sel.Services, sel.Timeout = services, timeout.value()
			return a.change(ctx, services, api.Apply{Command: api.Restart, Selection: sel})
		}),
	}
	c.Flags().BoolVar(&sel.NoDeps, "no-deps", false, "do not restart services that depend on these")
	timeout.add(c)
	return c
}

func (a *app) rm() *cobra.Command {
	var sel planner.Selection
	var force bool
	c := &cobra.Command{
		Use:   "rm [SERVICE...]",
		Short: "Remove stopped containers",
		RunE: interruptible(func(ctx context.Context, services []string) error {
			p, name, c, err := a.reach(ctx, services)
			if err != nil {
				return err
			}
			sel.Services = services
			change := api.Apply{Command: api.Remove, Name: name, Project: p, Selection: sel, Confirm: api.ConfirmAll}
			if !a.dryRun {
				names, err := a.removals(ctx, c, change)
				if err != nil {
					return err
				}
				if len(names) == 0 {
					fmt.Fprintln(a.err, "No stopped containers")
					return nil
				}
				going := "Going to remove " + strings.Join(names, ", ")
				if force {
					fmt.Fprintln(a.out, going)
				} else {
					fmt.Fprintln(a.err, going)
					if yes, err := a.ask(ctx, "Are you sure?", false); err != nil || !yes {
						return err
					}
				}
			}
			return a.apply(ctx, c, change, nil)
		}),
	}
	f := c.Flags()
	f.BoolVarP(&force, "force", "f", false, "do not ask")
	f.BoolVarP(&sel.Stop, "stop", "s", false, "stop the containers first, if required")
	f.BoolVarP(&sel.Volumes, "volumes", "v", false, "remove the anonymous volumes of the containers")
	f.BoolP("all", "a", false, "has had no effect since compose v2")
	_ = f.MarkHidden("all") // it was just added
	return c
}

// removals names the containers that a change would remove.
func (a *app) removals(ctx context.Context, c *api.Client, change api.Apply) ([]string, error) {
	plan, err := a.preview(ctx, c, change)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range plan.Steps {
		if s.Verb == planner.Remove && s.Noun == planner.ReplicaNoun {
			names = append(names, s.Name)
		}
	}
	return names, nil
}

func (a *app) kill() *cobra.Command {
	var sig string
	var orphans bool
	c := &cobra.Command{
		Use:   "kill [SERVICE...]",
		Short: "Send a signal to the processes of services, SIGKILL unless another is named",
		RunE: interruptible(func(ctx context.Context, services []string) error {
			p, name, err := a.projectOrName(ctx, services)
			if err != nil {
				return err
			}
			if p != nil && len(services) == 0 && !orphans {
				services = slices.Sorted(maps.Keys(p.Services))
			}
			sel := api.Select{Project: name, Services: services, OneOff: true}
			var targets []api.ReplicaRef
			c, err := a.dial(ctx)
			if err == nil {
				targets, err = standing(ctx, c, sel, runs)
			}
			if err != nil && !errors.Is(err, api.ErrNoSupervisor) {
				return err
			}
			if len(targets) == 0 {
				fmt.Fprintln(a.err, "No container to kill")
				return nil
			}
			progress, err := a.newProgress("kill", a.dryRun)
			if err != nil {
				return err
			}
			defer progress.Close()
			for _, r := range targets {
				progress.On(render.Event{ID: "Container " + r.Name, Status: render.Working, Text: "Killing"})
			}
			if !a.dryRun {
				if targets, err = c.Kill(ctx, api.Kill{Select: sel, Signal: sig}); err != nil {
					progress.Fail(err)
					return err
				}
			}
			for _, r := range targets {
				progress.On(render.Event{ID: "Container " + r.Name, Status: render.Done, Text: "Killed"})
			}
			return nil
		}),
	}
	f := c.Flags()
	f.StringVarP(&sig, "signal", "s", "SIGKILL", "`signal` to send")
	f.BoolVar(&orphans, "remove-orphans", false, "signal containers of services that are not in the compose file too")
	return c
}

// timeout is the flag -t, which knows whether it was given.
type timeout struct {
	seconds int
	cmd     *cobra.Command
}

func newTimeout() *timeout { return &timeout{} }

func (t *timeout) add(c *cobra.Command) {
	t.cmd = c
	c.Flags().IntVarP(&t.seconds, "timeout", "t", 0, "shutdown timeout in `seconds` (default: the service's stop_grace_period, or 10)")
}

func (t *timeout) value() *time.Duration {
	if !t.cmd.Flags().Changed("timeout") {
		return nil
	}
	d := time.Duration(t.seconds) * time.Second
	return &d
}
