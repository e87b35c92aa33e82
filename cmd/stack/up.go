package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/spec"
)

func (a *app) up() *cobra.Command {
	var (
		o      planner.Options
		force  bool
		never  bool
		detach bool
		scale  []string
	)
	c := &cobra.Command{
		Use:   "up [SERVICE...]",
		Short: "Create and start containers",
		RunE: func(cmd *cobra.Command, services []string) error {
			var err error
			if o.Scale, err = parseScale(scale); err != nil {
				return err
			}
			switch {
			case force && never:
				return errors.New("--force-recreate and --no-recreate are incompatible")
			case force:
				o.Recreate = planner.RecreateForce
			case never:
				o.Recreate, o.RecreateDeps = planner.RecreateNever, planner.RecreateNever
			}
			o.Services = services
			if err := checkPull(o.Pull); err != nil {
				return err
			}
			if detach || o.Wait || a.dryRun {
				return interruptible(func(ctx context.Context, _ []string) error {
					_, c, change, err := a.upChange(ctx, o)
					if err != nil {
						return err
					}
					return a.apply(ctx, c, change, nil)
				})(cmd, services)
			}
			return a.upAttached(cmd.Context(), o)
		},
	}
	f := c.Flags()
	f.BoolVarP(&detach, "detach", "d", false, "run containers in the background")
	f.BoolVar(&o.Wait, "wait", false, "wait until services are running or healthy; implies detached mode")
	f.StringArrayVar(&scale, "scale", nil, "scale SERVICE to NUM replicas (`SERVICE=NUM`), overrides the scale setting in the compose file")
	f.BoolVar(&force, "force-recreate", false, "recreate containers even if their configuration and image have not changed")
	f.BoolVar(&never, "no-recreate", false, "keep containers that exist, whatever changed")
	f.BoolVar(&o.RemoveOrphans, "remove-orphans", false, "remove containers of services that are not in the compose file")
	f.StringVar(&o.Pull, "pull", "", "pull images before running: always, missing, never")
	return c
}

// upChange loads the project and asks for it to be up.
func (a *app) upChange(ctx context.Context, o planner.Options) (*spec.Project, *api.Client, api.Apply, error) {
	if o.IgnoreOrphans = a.envBool("COMPOSE_IGNORE_ORPHANS"); o.IgnoreOrphans && o.RemoveOrphans {
		return nil, nil, api.Apply{}, errors.New("cannot combine COMPOSE_IGNORE_ORPHANS and --remove-orphans")
	}
	p, err := a.project(ctx, o.Services)
	if err != nil {
		return nil, nil, api.Apply{}, err
	}
	registry, err := a.registry(p)
	if err != nil {
		return nil, nil, api.Apply{}, err
	}
	c, err := a.toChange(ctx)
	if err != nil {
		return nil, nil, api.Apply{}, err
	}
	return p, c, api.Apply{Command: api.Up, Name: p.Name, Project: p, Options: o, Registry: registry}, nil
}

// upAttached brings the project up and shows its output until it ends, or the
// user ends it.
func (a *app) upAttached(ctx context.Context, o planner.Options) error {
	interrupts := make(chan os.Signal, 2)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(interrupts)

	began := time.Now()
	p, c, change, err := a.upChange(ctx, o)
	if err != nil {
		return err
	}
	changing, cancelChange := context.WithCancel(ctx)
	defer cancelChange()
	reading, cancelReading := context.WithCancel(ctx)
	defer cancelReading()

	progress, err := a.newProgress("up", false)
	if err != nil {
		return err
	}
	v := &viewer{app: a, client: c, project: p, services: attached(p, o.Services), began: began, live: map[string]bool{}}

	// The change reports to this goroutine, so that progress ends, and logs
	// begin, in one place.
	started := make(chan struct{}, 1)
	changed := make(chan error, 1)
	go func() {
		changed <- a.applyTo(changing, c, change, progress, func(e api.Event) bool {
			if e.Kind == api.EventPlan {
				v.expect(e.Plan)
			}
			if e.Kind == api.EventStep && e.Step.Verb == planner.Start {
				select {
				case started <- struct{}{}:
				default:
				}
				return e.Step.State == api.StepFailed || e.Step.State == api.StepSkipped
			}
			return true
		})
	}()

	var logs chan error
	attach := func() {
		if logs != nil {
			return
		}
		progress.Close()
		fmt.Fprintln(a.out, "Attaching to "+strings.Join(v.names(), ", "))
		logs = make(chan error, 1)
		go func() { logs <- v.show(reading) }()
	}
	var interrupted bool
	var stopped chan error
	for {
		select {
		case <-started:
			attach()
		case err := <-changed:
			changed = nil
			if err != nil && !interrupted {
				if logs == nil {
					progress.Close()
				}
				cancelReading()
				return err
			}
			if err == nil && !interrupted {
				attach()
				v.settled()
			}
		case err := <-logs:
			if stopped != nil {
				err = errors.Join(err, <-stopped)
			}
			if interrupted && err == nil {
				return statusInterrupted
			}
			return err
		case err := <-stopped:
			stopped = nil
			if err != nil || logs == nil {
				return errors.Join(err, statusInterrupted)
			}
			v.settled()
		case <-interrupts:
			if interrupted {
				_, err := c.Kill(ctx, api.Kill{Select: api.Select{Project: p.Name, Services: o.Services}, Signal: "SIGKILL"})
				if err != nil {
					fmt.Fprintln(a.err, err)
				}
				continue
			}
			interrupted = true
			fmt.Fprintln(a.err, "Gracefully Stopping... press Ctrl+C again to force")
			cancelChange()
			if logs == nil {
				progress.Close()
			}
			stopped = make(chan error, 1)
			go func() {
				// In lines: a screen would paint over the output that still comes.
				lines := render.NewProgress(render.ModePlain, a.progressOut(), "stop", false, nil)
				stopped <- a.applyTo(ctx, c, api.Apply{Command: api.Stop, Name: p.Name, Project: p, Selection: planner.Selection{Services: o.Services}}, lines, nil)
			}()
		}
	}
}

// attached are the services whose output an attached up shows.
func attached(p *spec.Project, services []string) []string {
	var names []string
	for name, s := range p.Services {
		if s.Attach && (len(services) == 0 || slices.Contains(services, name)) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// checkPull checks the argument of --pull.
func checkPull(policy string) error {
	switch policy {
	case "", "policy", "always", "missing", "never":
		return nil
	case "build":
		return needsBuilder("--pull build")
	}
	return fmt.Errorf("--pull %q: use always, missing or never", policy)
}

func parseScale(args []string) (map[string]int, error) {
	scale := map[string]int{}
	for _, arg := range args {
		service, number, ok := strings.Cut(arg, "=")
		n, err := strconv.Atoi(number)
		if !ok || err != nil || n < 0 || service == "" {
			return nil, fmt.Errorf("invalid --scale option %q: should be SERVICE=NUM", arg)
		}
		scale[service] = n
	}
	return scale, nil
}
