package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/spec"
)

// runFlags are what run was asked for, beside what the service becomes.
type runFlags struct {
	detach, noTTY, tty, quiet, quietPull, removeOrphans, yes bool
}

func (a *app) run() *cobra.Command {
	var (
		o     spec.OneOff
		r     api.Run
		flags runFlags
		build bool
	)
	c := &cobra.Command{
		Use:   "run SERVICE [COMMAND] [ARG...]",
		Short: "Run a one-off command on a service",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case build:
				return needsBuilder("--build")
			case o.Ports && len(o.Publish) > 0:
				return errors.New("--service-ports and --publish are incompatible")
			case cmd.Flags().Changed("tty") && cmd.Flags().Changed("no-TTY"):
				return errors.New("--tty and --no-TTY can't be used together")
			}
			if err := checkPull(r.Pull); err != nil {
				return err
			}
			var err error
			if o.TTY, err = a.wantsTTY(cmd.Flags().Changed("tty"), flags.tty && !flags.noTTY && !flags.detach, o.StdinOpen); err != nil {
				return err
			}
			if o.Environment, err = a.fromEnvironment(o.Environment); err != nil {
				return err
			}
			o.Command = args[1:]
			o.EntrypointSet = cmd.Flags().Changed("entrypoint")
			if flags.quiet {
				a.progress = "quiet"
			}
			a.warnQuietBuild(cmd)
			r.Service = args[0]
			return a.runOneOff(cmd.Context(), r, o, flags)
		},
	}
	f := c.Flags()
	f.SetInterspersed(false)
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		switch name {
		case "volumes", "labels": // compose's older names
			name = strings.TrimSuffix(name, "s")
		case "no-tty": // as of exec
			name = "no-TTY"
		}
		return pflag.NormalizedName(name)
	})
	f.BoolVar(&build, "build", false, "build the image first (not supported yet)")
	f.StringSliceVar(&o.CapAdd, "cap-add", nil, "add Linux `capabilities`")
	f.StringSliceVar(&o.CapDrop, "cap-drop", nil, "drop Linux `capabilities`")
	f.BoolVarP(&flags.detach, "detach", "d", false, "run the container in the background and print its id")
	f.StringVar(&o.Entrypoint, "entrypoint", "", "override the entrypoint of the image")
	f.StringArrayVarP(&o.Environment, "env", "e", nil, "set an environment variable (`KEY=VALUE`, or KEY to pass it on)")
	f.StringArrayVar(&o.EnvFiles, "env-from-file", nil, "set environment variables from a `file`")
	f.BoolVarP(&o.StdinOpen, "interactive", "i", true, "keep standard input open")
	f.StringArrayVarP(&o.Labels, "label", "l", nil, "add or override a label (`KEY=VALUE`)")
	f.StringVar(&r.Name, "name", "", "`name` of the container")
	f.BoolVarP(&flags.noTTY, "no-TTY", "T", false, "do not allocate a terminal (default: one if standard input and output are terminals)")
	f.BoolVar(&r.NoDeps, "no-deps", false, "do not start the services it depends on")
	f.StringArrayVarP(&o.Publish, "publish", "p", nil, "publish a `port` to the host")
	f.StringVar(&r.Pull, "pull", "policy", "pull the image first: always, missing, never, or the service's own `policy`")
	f.BoolVarP(&flags.quiet, "quiet", "q", false, "print nothing but what the container prints")
	f.BoolVar(&flags.quietPull, "quiet-pull", false, "pull without progress of the layers")
	f.Bool("quiet-build", false, quietBuildHelp)
	f.BoolVar(&flags.removeOrphans, "remove-orphans", false, "remove containers of services that are not in the compose file")
	f.BoolVar(&r.AutoRemove, "rm", false, "remove the container when it exits")
	f.BoolVarP(&o.Ports, "service-ports", "P", false, "publish the service's ports")
	f.BoolVarP(&flags.tty, "tty", "t", true, "allocate a terminal")
	f.BoolVar(&r.UseAliases, "use-aliases", false, "let the service's network aliases lead to the container too")
	f.StringVarP(&o.User, "user", "u", "", "run as this `user`")
	f.StringArrayVarP(&o.Volumes, "volume", "v", nil, "mount a `volume` or a path of the host")
	f.BoolVarP(&flags.yes, "yes", "y", false, "answer yes to every question")
	f.StringVarP(&o.WorkingDir, "workdir", "w", "", "working `directory` inside the container")
	for _, name := range []string{"tty", "quiet-build"} {
		_ = f.MarkHidden(name) // it was just added
	}
	return c
}

// wantsTTY decides whether a command gets a terminal: by default one if both ends
// here are. Asked for in so many words, it cannot do without one to read from.
func (a *app) wantsTTY(asked, want, stdin bool) (bool, error) {
	switch {
	case !want:
		return false, nil
	case asked && stdin && !isTerminal(a.in):
		return false, errors.New("the input device is not a TTY")
	case asked:
		return true, nil
	}
	return isTerminal(a.in) && isTerminal(a.out), nil
}

func (a *app) runOneOff(ctx context.Context, r api.Run, o spec.OneOff, flags runFlags) error {
	p, err := a.project(ctx, []string{r.Service})
	if err != nil {
		return err
	}
	if err := a.confirmRemote(ctx, a.err, a.load, p, flags.yes, o.Environment); err != nil {
		return err
	}
	if r.Project, r.Set, err = p.OneOff(r.Service, o); err != nil {
		return err
	}
	if !a.dryRun {
		if r.Registry, err = a.registry(p); err != nil {
			return err
		}
	}
	_, settings, err := a.settings()
	if err != nil {
		return err
	}
	r.Proxies, r.HostCA = proxies(), settings.HostCA
	keys, err := detachKeys("")
	if err != nil {
		return err
	}
	c, err := a.toChange(ctx)
	if err != nil {
		return err
	}
	if flags.removeOrphans {
		if err := a.removeOrphans(ctx, c, p); err != nil {
			return err
		}
	}
	if !r.NoDeps {
		if err := a.runDependencies(ctx, c, p, r, flags); err != nil {
			return err
		}
	}
	if a.dryRun {
		return a.rehearseOne("run", cmp.Or(r.Name, p.Name+"-"+r.Service+"-run-"+state.NewID()[:12]), "Creating", "Created")
	}
	ref, err := a.makeOneOff(ctx, c, r, quietly(flags.quietPull))
	if err != nil {
		return err
	}
	if flags.detach {
		if err := c.StartReplica(ctx, api.Select{Replica: ref.ID}); err != nil {
			return err
		}
		fmt.Fprintln(a.out, ref.ID)
		return nil
	}
	end, err := a.runAttached(ctx, c, ref, o, keys)
	if r.AutoRemove && !errors.Is(err, errDetached) {
		return errors.Join(status(end, err), removed(c.DeleteReplica(ctx, api.Select{Replica: ref.ID})))
	}
	return status(end, err)
}

// removeOrphans removes the containers of services that a project no longer has.
func (a *app) removeOrphans(ctx context.Context, c *api.Client, p *spec.Project) error {
	store, err := a.store()
	if err != nil {
		return err
	}
	replicas, err := store.Settled(p.Name)
	if err != nil {
		return err
	}
	var orphans []string
	for _, r := range replicas {
		if p.Services[r.Service] == nil && !slices.Contains(p.Disabled, r.Service) && !slices.Contains(orphans, r.Service) {
			orphans = append(orphans, r.Service)
		}
	}
	if len(orphans) == 0 {
		return nil
	}
	return a.apply(ctx, c, api.Apply{Command: api.Remove, Name: p.Name, Project: p, Selection: planner.Selection{Services: orphans, Stop: true}}, nil)
}

// runDependencies brings up what the service depends on; the supervisor then
// waits for the conditions.
func (a *app) runDependencies(ctx context.Context, c *api.Client, p *spec.Project, r api.Run, flags runFlags) error {
	var needs []string
	for name := range maps.Keys(r.Set.DependsOn) {
		if _, ok := p.Services[name]; ok {
			needs = append(needs, name)
		}
	}
	if len(needs) == 0 {
		return nil
	}
	providers, err := findProviders(p)
	if err != nil {
		return err
	}
	return a.apply(ctx, c, api.Apply{
		Providers: providers,
		Command:   api.Up, Name: p.Name, Project: p, Registry: r.Registry, Proxies: r.Proxies, HostCA: r.HostCA,
		Options: planner.Options{Services: needs},
	}, quietly(flags.quietPull))
}

func (a *app) makeOneOff(ctx context.Context, c *api.Client, r api.Run, observe func(api.Event) bool) (api.ReplicaRef, error) {
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
		return observe == nil || observe(e)
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

func (a *app) runAttached(ctx context.Context, c *api.Client, ref api.ReplicaRef, o spec.OneOff, keys []byte) (wire.ExitStatus, error) {
	attach := api.Attach{Select: api.Select{Replica: ref.ID}, Stdin: o.StdinOpen, Start: true}
	if o.TTY {
		attach.Size = windowSize(a.out)
	}
	conn, err := c.Attach(ctx, attach)
	if err != nil {
		return wire.ExitStatus{}, commandFailure(err)
	}
	s := session{conn: conn, tty: o.TTY, out: a.out, err: a.err, detach: keys}
	if o.StdinOpen {
		s.stdin = a.in
	}
	if !o.TTY {
		s.forward = proxied
	}
	return s.run(ctx)
}
