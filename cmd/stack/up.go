package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
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

// upFlags are the flags of up.
type upFlags struct {
	opt         planner.Options
	plan        *planner.Plan // of planFile
	force       bool
	never       bool
	always      bool // --always-recreate-deps
	detach      bool
	yes         bool
	quietPull   bool
	build       bool
	noBuild     bool
	watch       bool
	planFile    string // --plan
	waitTimeout int
	scale       []string
	timeout     *timeout
	show        following
}

// following is how an attached up shows its services, and when it ends.
type following struct {
	attach       []string
	noAttach     []string
	dependencies bool
	noColour     bool
	noPrefix     bool
	timestamps   bool
	menu         bool
	onExit       bool // stop everything when a container ends,
	onFailure    bool // or only when one fails
	exitCodeFrom string
}

// aborts tells whether one container's end is the end of all.
func (f following) aborts() bool { return f.onExit || f.onFailure }

func (a *app) up() *cobra.Command {
	u := upFlags{timeout: newTimeout()}
	c := &cobra.Command{
		Use:   "up [SERVICE...]",
		Short: "Create and start containers",
		RunE: func(cmd *cobra.Command, services []string) error {
			if err := u.settle(); err != nil {
				return err
			}
			if !cmd.Flags().Changed("menu") {
				u.show.menu = a.getenv("COMPOSE_MENU") == "" || a.envBool("COMPOSE_MENU")
			}
			a.warnQuietBuild(cmd)
			u.opt.Services = services
			if u.planFile != "" {
				if err := u.stored(cmd, services); err != nil {
					return err
				}
			}
			if !u.detach && !u.opt.NoStart && !a.dryRun {
				return a.upAttached(cmd.Context(), &u)
			}
			return interruptible(func(ctx context.Context, _ []string) error {
				_, c, change, err := a.upBy(ctx, &u)
				if err != nil {
					return err
				}
				return a.apply(ctx, c, change, u.observer(nil))
			})(cmd, services)
		},
	}
	f := c.Flags()
	f.BoolVarP(&u.detach, "detach", "d", false, "run containers in the background")
	f.IntVar(&u.waitTimeout, "wait-timeout", 0, "`seconds` to wait at most; 0: without end")
	f.BoolVar(&u.quietPull, "quiet-pull", false, "pull without progress of the layers")
	f.Bool("quiet-build", false, quietBuildHelp)
	_ = f.MarkHidden("quiet-build") // it was just added
	f.BoolVar(&u.build, "build", false, "build images first (not supported yet)")
	f.BoolVar(&u.noBuild, "no-build", false, "build no image, even one that is missing")
	f.BoolVarP(&u.watch, "watch", "w", false, "watch sources and refresh containers (not supported yet)")
	f.BoolVarP(&u.yes, "yes", "y", false, "answer yes to every question, also whether a changed volume's data may be lost")
	f.StringVar(&u.planFile, "plan", "", "carry out the plan in a `file` that plan --json wrote, or refuse if it is stale; - is standard input")
	u.addPlanned(c)
	f.StringArrayVar(&u.show.attach, "attach", nil, "show the output of a `service` alone, repeatable; incompatible with --attach-dependencies")
	f.StringArrayVar(&u.show.noAttach, "no-attach", nil, "do not show the output of a `service`, repeatable")
	f.BoolVar(&u.show.dependencies, "attach-dependencies", false, "show the output of the services that these depend on too")
	f.BoolVar(&u.show.noColour, "no-color", false, "monochrome output")
	f.BoolVar(&u.show.noPrefix, "no-log-prefix", false, "print no prefix")
	f.BoolVar(&u.show.timestamps, "timestamps", false, "show timestamps")
	f.BoolVar(&u.show.menu, "menu", true, "take keys while attached on a terminal: d detaches")
	f.BoolVar(&u.show.onExit, "abort-on-container-exit", false, "stop all containers if any ends")
	f.BoolVar(&u.show.onFailure, "abort-on-container-failure", false, "stop all containers if any ends with a failure")
	f.StringVar(&u.show.exitCodeFrom, "exit-code-from", "", "exit with the status of the container of a `service`; implies --abort-on-container-exit")
	return c
}

// addPlanned adds the flags that decide what is planned, which plan has too.
func (u *upFlags) addPlanned(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&u.opt.Wait, "wait", false, "wait until services are running, healthy, or have ended with 0; implies detached mode")
	f.StringArrayVar(&u.scale, "scale", nil, "scale SERVICE to NUM replicas (`SERVICE=NUM`), overrides the scale setting in the compose file")
	f.BoolVar(&u.force, "force-recreate", false, "recreate containers even if their configuration and image have not changed")
	f.BoolVar(&u.never, "no-recreate", false, "keep containers that exist, whatever changed")
	f.BoolVar(&u.always, "always-recreate-deps", false, "recreate the containers of services that these depend on")
	f.BoolVarP(&u.opt.RenewAnonymous, "renew-anon-volumes", "V", false, "make anonymous volumes anew instead of keeping those of the previous containers")
	f.BoolVar(&u.opt.NoDeps, "no-deps", false, "do not start the services that these depend on")
	f.BoolVar(&u.opt.NoStart, "no-start", false, "create the containers and do not start them")
	f.BoolVar(&u.opt.RemoveOrphans, "remove-orphans", false, "remove containers of services that are not in the compose file")
	f.StringVar(&u.opt.Pull, "pull", "policy", "pull images before running: always, missing, never, or each service's own `policy`")
	u.timeout.add(c)
}

// settle refuses flags that do not go together, in docker compose's words, and
// turns the rest into what planner and supervisor take.
func (u *upFlags) settle() (err error) {
	s := &u.show
	if s.exitCodeFrom != "" && !s.onFailure {
		s.onExit = true
	}
	attaches := s.dependencies || s.aborts() || len(s.attach) > 0 || u.watch
	switch {
	case s.onExit && s.onFailure:
		return errors.New("--abort-on-container-failure cannot be combined with --abort-on-container-exit")
	case u.build && u.noBuild:
		return errors.New("--build and --no-build are incompatible")
	case u.opt.Wait && attaches:
		return errors.New("--wait cannot be combined with --abort-on-container-exit, --abort-on-container-failure, --attach, --attach-dependencies or --watch")
	case u.detach && attaches:
		return errors.New("--detach cannot be combined with --abort-on-container-exit, --abort-on-container-failure, --attach, --attach-dependencies or --watch")
	case s.dependencies && len(s.attach) > 0:
		return errors.New("--attach and --attach-dependencies are incompatible")
	case u.opt.RenewAnonymous && u.never:
		return errors.New("--no-recreate and --renew-anon-volumes are incompatible")
	case u.force && u.never:
		return errors.New("--force-recreate and --no-recreate are incompatible")
	case u.always && u.never:
		return errors.New("--always-recreate-deps and --no-recreate are incompatible")
	case u.build:
		return errors.New("--build: building images is not supported yet")
	case u.watch:
		return errors.New("--watch: watching sources is not supported yet")
	case u.waitTimeout < 0:
		return fmt.Errorf("--wait-timeout %d: should be a number of seconds", u.waitTimeout)
	case u.never:
		u.opt.Recreate, u.opt.RecreateDeps = planner.RecreateNever, planner.RecreateNever
	case u.force:
		u.opt.Recreate = planner.RecreateForce
	}
	if u.always {
		u.opt.RecreateDeps = planner.RecreateForce
	}
	u.detach = u.detach || u.opt.Wait
	u.opt.Timeout = u.timeout.value()
	if u.opt.Scale, err = parseScale(u.scale); err != nil {
		return err
	}
	return checkPull(u.opt.Pull)
}

// maxPlanBytes bounds a plan that is read.
const maxPlanBytes = 64 << 20

// stored reads the plan that is to be carried out. It decides what up does, so
// nothing else may.
func (u *upFlags) stored(cmd *cobra.Command, services []string) error {
	if len(services) > 0 {
		return errors.New("--plan says which services: leave them out")
	}
	for _, name := range []string{"scale", "force-recreate", "no-recreate", "always-recreate-deps", "renew-anon-volumes", "no-deps", "no-start", "remove-orphans", "pull", "wait", "timeout", "yes"} {
		if cmd.Flags().Changed(name) {
			return fmt.Errorf("--plan and --%s are incompatible: give it to plan", name)
		}
	}
	in := cmd.InOrStdin()
	if u.planFile != "-" {
		f, err := os.Open(u.planFile)
		if err != nil {
			return fmt.Errorf("reading a plan: %w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxPlanBytes))
	if err != nil {
		return fmt.Errorf("reading a plan: %w", err)
	}
	plan, err := planner.Parse(data)
	if err != nil {
		return fmt.Errorf("%s: %w", u.planFile, err)
	}
	if plan.Options == nil {
		return fmt.Errorf("%s: this plan does not say what it was made for: make it with stack plan --json", u.planFile)
	}
	u.plan, u.opt = &plan, *plan.Options
	u.detach = u.detach || u.opt.Wait
	return nil
}

// observer leaves the progress of layers out of what is shown if told to, and
// passes the rest on.
func (u *upFlags) observer(next func(api.Event) bool) func(api.Event) bool {
	return func(e api.Event) bool {
		if u.quietPull && e.Kind == api.EventProgress {
			return false
		}
		return next == nil || next(e)
	}
}

// upBy is upChange as the flags of up ask for it.
func (a *app) upBy(ctx context.Context, u *upFlags) (*spec.Project, *api.Client, api.Apply, error) {
	p, c, change, err := a.upChange(ctx, u.opt, func(load spec.Options, p *spec.Project) error {
		return a.confirmRemote(ctx, a.out, load, p, u.yes || u.plan != nil, nil)
	})
	if err == nil && len(p.Services) == 0 {
		err = errors.New("no service selected")
	}
	change.WaitTimeout = time.Duration(u.waitTimeout) * time.Second
	if u.plan != nil {
		change.Options, change.Stored, change.Confirm = u.opt, u.plan, api.ConfirmAll // who hands it in has seen it
	}
	if u.yes {
		change.Options.RecreateVolumes, change.Confirm = true, api.ConfirmAll
	}
	return p, c, change, err
}

// upChange loads the project and asks for it to be up. Where somebody can be
// asked, volumes that have changed are made anew if they agree. confirm, if not
// nil, has a say before anything is begun.
func (a *app) upChange(ctx context.Context, o planner.Options, confirm func(spec.Options, *spec.Project) error) (*spec.Project, *api.Client, api.Apply, error) {
	if o.IgnoreOrphans = a.envBool("COMPOSE_IGNORE_ORPHANS"); o.IgnoreOrphans && o.RemoveOrphans {
		return nil, nil, api.Apply{}, errors.New("cannot combine COMPOSE_IGNORE_ORPHANS and --remove-orphans")
	}
	load := a.load
	load.Services, load.NoDependencies = o.Services, o.NoDeps
	p, err := a.loadProject(ctx, load)
	if err == nil && confirm != nil {
		err = confirm(load, p)
	}
	if err != nil {
		return nil, nil, api.Apply{}, err
	}
	providers, err := findProviders(p)
	if err != nil {
		return nil, nil, api.Apply{}, err
	}
	var registry api.Registry
	if !a.dryRun { // which asks no registry
		if registry, err = a.registry(p); err != nil {
			return nil, nil, api.Apply{}, err
		}
	}
	c, err := a.toChange(ctx)
	if err != nil {
		return nil, nil, api.Apply{}, err
	}
	_, settings, err := a.settings()
	if err != nil {
		return nil, nil, api.Apply{}, err
	}
	o.RecreateVolumes = isTerminal(a.in)
	return p, c, api.Apply{
		Command: api.Up, Name: p.Name, Project: p, Options: o, Registry: registry, Providers: providers,
		Proxies: proxies(), HostCA: settings.HostCA,
	}, nil
}

// upAttached brings the project up and shows its output until it ends, or the
// user ends it.
func (a *app) upAttached(ctx context.Context, u *upFlags) error {
	interrupts := make(chan os.Signal, 2)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(interrupts)

	began := time.Now()
	p, c, change, err := a.upBy(ctx, u)
	if err != nil {
		return err
	}
	v, err := newViewer(a, c, p, u, began)
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

	// The change reports to this goroutine, so that progress ends, and logs
	// begin, in one place.
	started := make(chan struct{}, 1)
	changed := make(chan error, 1)
	go func() {
		changed <- a.applyTo(changing, c, change, progress, u.observer(func(e api.Event) bool {
			if e.Kind == api.EventPlan {
				v.expect(e.Plan)
			}
			if e.Kind == api.EventOutput {
				v.output(e.Output)
			}
			if e.Kind == api.EventStep && (e.Step.Verb == planner.Start || e.Step.Noun == planner.HookNoun) {
				select {
				case started <- struct{}{}:
				default:
				}
				return e.Step.State == api.StepFailed || e.Step.State == api.StepSkipped
			}
			return true
		}))
	}()

	var logs chan error
	var keys menu
	defer func() { keys.close() }()
	attach := func() {
		if logs != nil {
			return
		}
		progress.Close()
		fmt.Fprintln(a.out, "Attaching to "+strings.Join(v.names(ctx), ", "))
		if u.show.menu && a.progress != string(render.ModePlain) {
			keys = a.openMenu()
		}
		logs = make(chan error, 1)
		go func() { logs <- v.show(reading) }()
	}
	var interrupted, aborted bool
	var stopped chan error
	killed := make(chan error)
	stop := func() {
		cancelChange()
		if logs == nil {
			progress.Close()
		}
		stopped = make(chan error, 1)
		go func() {
			// In lines: a screen would paint over the output that still comes.
			lines := render.NewProgress(render.ModePlain, a.progressOut(), "stop", false, nil)
			sel := planner.Selection{Services: u.opt.Services, Timeout: u.opt.Timeout}
			stopped <- a.applyTo(ctx, c, api.Apply{Command: api.Stop, Name: p.Name, Project: p, Selection: sel, Providers: change.Providers}, lines, nil)
		}()
	}
	// outcome is the exit status of an end that was not an error. With the menu,
	// Ctrl-C is a way to end as good as any.
	outcome := func() error {
		switch {
		case aborted:
			return v.status(ctx)
		case interrupted && !keys.open():
			return statusInterrupted
		}
		return nil
	}
	for {
		select {
		case <-started:
			attach()
		case err := <-changed:
			changed = nil
			if err != nil && !interrupted && !aborted {
				if logs == nil {
					progress.Close()
				}
				cancelReading()
				return err
			}
			if err == nil && !interrupted && !aborted {
				attach()
				v.settled(ctx)
			}
		case <-v.abort:
			if aborted || interrupted {
				continue
			}
			aborted = true
			fmt.Fprintln(a.err, "Aborting on container exit...")
			stop()
		case err := <-logs:
			if stopped != nil {
				err = errors.Join(err, <-stopped)
			}
			if err != nil {
				return err
			}
			return outcome()
		case err := <-stopped:
			stopped = nil
			if err != nil || logs == nil {
				return errors.Join(err, outcome())
			}
			v.settled(ctx)
		case err := <-killed:
			if err != nil {
				fmt.Fprintln(a.err, err)
			}
		case key := <-keys.pressed:
			switch key {
			case keyDetach:
				return nil
			case keyNewline:
				fmt.Fprintln(a.out)
			case keyHangUp:
				return exitStatus(128 + int(syscall.SIGHUP))
			}
		case <-interrupts:
			if interrupted || aborted {
				go func() { // it waits for their end, or ends with the program
					_, err := c.Kill(ctx, api.Kill{Select: api.Select{Project: p.Name, Services: u.opt.Services}, Signal: "SIGKILL"})
					killed <- err
				}()
				continue
			}
			interrupted = true
			fmt.Fprintln(a.err, "Gracefully Stopping... press Ctrl+C again to force")
			stop()
		}
	}
}

// attached are the services whose output an attached up shows.
func attached(p *spec.Project, services []string, f following) ([]string, error) {
	var names, unknown []string
	switch {
	case len(f.attach) > 0:
		for _, name := range f.attach {
			if p.Services[name] == nil {
				unknown = append(unknown, name)
			}
		}
		if len(unknown) > 0 {
			return nil, fmt.Errorf("cannot attach to services not included in up: %s", strings.Join(unknown, ", "))
		}
		names = slices.Clone(f.attach)
	default:
		for name, s := range p.Services {
			if s.Attach && (len(services) == 0 || f.dependencies || slices.Contains(services, name)) {
				names = append(names, name)
			}
		}
	}
	names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(f.noAttach, name) })
	slices.Sort(names)
	return slices.Compact(names), nil
}

// watched are the services whose end is the end of an attached up.
func watched(p *spec.Project, services, attached []string, f following) []string {
	switch {
	case len(services) > 0:
		return services
	case f.aborts():
		return slices.Sorted(maps.Keys(p.Services))
	}
	return attached
}

// checkPull checks the argument of --pull.
func checkPull(policy string) error {
	switch policy {
	case "", "policy", "always", "missing", "never":
		return nil
	case "build":
		return needsBuilder("--pull build")
	}
	return fmt.Errorf("--pull %q: use always, missing, never or policy", policy)
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
