package main

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/spec"
)

func (a *app) run() *cobra.Command {
	var (
		o      spec.OneOff
		r      api.Run
		detach bool
		noTTY  bool
		noDeps bool
	)
	c := &cobra.Command{
		Use:   "run SERVICE [COMMAND] [ARG...]",
		Short: "Run a one-off command on a service",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			p, err := a.project(ctx, args[:1])
			if err != nil {
				return err
			}
			if o.Environment, err = fromEnvironment(o.Environment); err != nil {
				return err
			}
			o.Command = args[1:]
			o.EntrypointSet = cmd.Flags().Changed("entrypoint")
			o.TTY = !noTTY && !detach && isTerminal(a.in) && isTerminal(a.out)
			o.StdinOpen = !detach
			set, err := p.OneOff(args[0], o)
			if err != nil {
				return err
			}
			if r.Registry, err = a.registry(p); err != nil {
				return err
			}
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			if err := a.runDependencies(ctx, c, p, set, noDeps); err != nil {
				return err
			}
			r.Project, r.Service, r.Set = p, args[0], set
			ref, err := a.makeOneOff(ctx, c, r)
			if err != nil {
				return err
			}
			if detach {
				if err := c.StartReplica(ctx, api.Select{Replica: ref.ID}); err != nil {
					return err
				}
				fmt.Fprintln(a.out, ref.Name)
				return nil
			}
			err = a.runAttached(ctx, c, ref, o.TTY)
			if r.AutoRemove {
				err = errors.Join(err, removed(c.DeleteReplica(ctx, api.Select{Replica: ref.ID})))
			}
			return err
		},
	}
	f := c.Flags()
	f.SetInterspersed(false)
	f.BoolVar(&r.AutoRemove, "rm", false, "remove the container when it exits")
	f.BoolVarP(&detach, "detach", "d", false, "run the container in the background and print its name")
	f.StringArrayVarP(&o.Environment, "env", "e", nil, "set an environment variable (`KEY=VALUE`, or KEY to pass it on)")
	f.StringVar(&o.Entrypoint, "entrypoint", "", "override the entrypoint of the image")
	f.StringVarP(&o.User, "user", "u", "", "run as this `user`")
	f.StringVarP(&o.WorkingDir, "workdir", "w", "", "working `directory` inside the container")
	f.StringVar(&r.Name, "name", "", "`name` of the container")
	f.BoolVarP(&noTTY, "no-TTY", "T", false, "do not allocate a terminal (default: one if standard input and output are terminals)")
	f.BoolVar(&noDeps, "no-deps", false, "do not start the services it depends on")
	return c
}

// runDependencies brings up what the service depends on.
func (a *app) runDependencies(ctx context.Context, c *api.Client, p *spec.Project, set *spec.Service, noDeps bool) error {
	if noDeps || len(set.DependsOn) == 0 {
		return nil
	}
	var needs []string
	for name := range maps.Keys(set.DependsOn) {
		if _, ok := p.Services[name]; ok {
			needs = append(needs, name)
		}
	}
	return a.apply(ctx, c, api.Apply{
		Command: api.Up, Name: p.Name, Project: p,
		Options: planner.Options{Services: needs, Wait: true},
	}, nil)
}

func (a *app) makeOneOff(ctx context.Context, c *api.Client, r api.Run) (api.ReplicaRef, error) {
	p, err := a.newProgress("run", false)
	if err != nil {
		return api.ReplicaRef{}, err
	}
	defer p.Close()
	var ref *api.ReplicaRef
	err = a.follow(p, c.Run(ctx, r), func(e api.Event) bool {
		if e.Kind == api.EventCreated {
			ref = e.Replica
		}
		return true
	})
	if err == nil && ref == nil {
		err = errors.New("the supervisor made no container")
	}
	if err != nil {
		return api.ReplicaRef{}, err
	}
	return *ref, nil
}

// removed takes it for granted that the supervisor may have been first.
func removed(err error) error {
	var e *api.Error
	if errors.As(err, &e) && e.Code == api.CodeNotFound {
		return nil
	}
	return err
}

func (a *app) runAttached(ctx context.Context, c *api.Client, ref api.ReplicaRef, tty bool) error {
	attach := api.Attach{Select: api.Select{Replica: ref.ID}, Stdin: true, Start: true}
	if tty {
		attach.Size = windowSize(a.out)
	}
	conn, err := c.Attach(ctx, attach)
	if err != nil {
		return commandFailure(err)
	}
	s := session{conn: conn, tty: tty, stdin: a.in, out: a.out, err: a.err}
	if !tty {
		s.forward = proxied
	}
	return status(s.run(ctx))
}
