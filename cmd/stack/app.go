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
	"strings"
	"syscall"

	"github.com/hashicorp/go-multierror"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/stackvm/stack/cmd/stack/dockercli"
	"github.com/stackvm/stack/cmd/stack/version"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/supervisor"
	"github.com/stackvm/stack/spec"
)

// app is one run of the command: its streams and global flags.
type app struct {
	in  *os.File
	out io.Writer
	err io.Writer

	load     spec.Options // files, name, profiles … of the global flags
	progress string
	ansi     string
	parallel int // steps at a time; below 1: no limit
	dryRun   bool
	debug    bool
	adopt    bool     // the project may be another checkout's
	insecure []string // registries of compose files that speak HTTP

	// Deprecated spellings, which scripts still use.
	noANSI  bool
	verbose bool
	workdir string

	showVersion bool // -v
	asCompose   bool // called as docker compose

	environ map[string]string // of the environment and, below it, the env files
}

// exitStatus ends the program with a status and no message: the command of exec
// and run has said what there was to say.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// statusInterrupted is what a shell reports for SIGINT.
const statusInterrupted exitStatus = 130

// failure is an error with an exit status of its own.
type failure struct {
	error
	status exitStatus
}

// run executes the command line and returns the exit status.
func run(call dockercli.Call) int {
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr}
	if call.Metadata {
		return a.report(dockercli.WriteMetadata(a.out, version.Version))
	}
	root := a.root()
	root.SetArgs(call.Args)
	if call.As != "" {
		a.answerAs(root, call.As)
	}
	return a.report(root.ExecuteContext(context.Background()))
}

// report prints an error and turns it into an exit status.
func (a *app) report(err error) int {
	var status exitStatus
	var failed failure
	var many *multierror.Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	case errors.Is(err, context.Canceled):
		return int(statusInterrupted)
	case errors.As(err, &many):
		for _, e := range many.Errors {
			fmt.Fprintln(a.err, e)
		}
		return 1
	}
	fmt.Fprintln(a.err, err)
	if errors.As(err, &failed) {
		return int(failed.status)
	}
	return 1
}

// action is what a command does with its arguments.
type action func(ctx context.Context, args []string) error

// interruptible runs do with a context that ends with Ctrl-C or SIGTERM.
func interruptible(do action) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		return do(ctx, args)
	}
}

// root builds the command tree.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "stack",
		Short:         "Run compose projects, every service in its own micro-VM",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unknown command %q: see %s --help", args[0], cmd.CommandPath())
			}
			return nil
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.settle(cmd) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.showVersion {
				v := a.version()
				return v.RunE(v, nil)
			}
			return cmd.Help()
		},
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	// As in docker compose: what follows the command belongs to the command.
	root.Flags().SetInterspersed(false)
	root.TraverseChildren = true

	a.load.Remote = &remoteFiles{app: a}
	f := root.Flags()
	f.SortFlags = false
	f.StringArrayVarP(&a.load.Files, "file", "f", nil, "compose configuration `file`, repeatable; - is standard input, and it may lie in a git repository or an OCI registry")
	f.StringVarP(&a.load.ProjectName, "project-name", "p", "", "project `name`")
	f.StringVar(&a.load.ProjectDirectory, "project-directory", "", "`directory` that relative paths start from (default: of the first file)")
	f.StringArrayVar(&a.load.Profiles, "profile", nil, "enable a `profile`, repeatable")
	f.StringArrayVar(&a.load.EnvFiles, "env-file", nil, "environment `file`, repeatable")
	f.BoolVar(&a.load.Compatibility, "compatibility", false, "name containers as compose version 1 did")
	f.BoolVar(&a.load.AllResources, "all-resources", false, "include all resources, even those that no service uses")
	f.IntVar(&a.parallel, "parallel", -1, "`number` of steps carried out at a time; -1: no limit")
	root.PersistentFlags().BoolVar(&a.dryRun, "dry-run", false, "show what the command would do, and change nothing")
	f.StringVar(&a.progress, "progress", "", "`type` of progress output: auto, tty, plain, json, quiet")
	f.StringVar(&a.ansi, "ansi", "", "when to print ANSI control characters: never, always, auto")
	f.BoolVar(&a.adopt, "adopt", false, "take over the project that another directory of the same name made")
	f.BoolVarP(&a.debug, "debug", "D", false, "print which files and plan a command works by, to standard error")
	f.BoolVarP(&a.showVersion, "version", "v", false, "print the version")
	f.BoolVar(&a.verbose, "verbose", false, "as --debug")
	f.BoolVar(&a.noANSI, "no-ansi", false, "print no ANSI control characters")
	f.StringVar(&a.workdir, "workdir", "", "as --project-directory")
	f.StringArrayVar(&a.insecure, "insecure-registry", nil, "`host` of a registry of compose files that speaks HTTP without TLS")
	for _, name := range []string{"verbose", "no-ansi", "workdir", "insecure-registry"} {
		f.Lookup(name).Hidden = true
	}

	root.AddGroup(
		&cobra.Group{ID: groupProject, Title: "Projects:"},
		&cobra.Group{ID: groupReplica, Title: "Containers:"},
		&cobra.Group{ID: groupSystem, Title: "System:"},
	)
	for group, commands := range map[string][]*cobra.Command{
		groupProject: {a.up(), a.down(), a.start(), a.stop(), a.restart(), a.rm(), a.create(), a.scale(), a.pull(), a.plan(), a.config(), a.ls()},
		groupReplica: {
			a.ps(), a.logs(), a.exec(), a.run(), a.kill(), a.cp(), a.top(), a.port(), a.events(), a.images(), a.rmi(), a.volumes(), a.wait(), a.forward(),
			a.pause(), a.unpause(), a.attach(), a.export(), a.stats(), a.inspect(),
		},
		groupSystem: {a.volume(), a.network(), a.prune(), a.autostart(), a.login(), a.logout(), a.doctor(), a.version(), a.system()},
	} {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	root.AddCommand(a.unsupported()...)
	root.CompletionOptions.HiddenDefaultCmd = false
	root.SetHelpCommandGroupID(groupSystem)
	root.SetCompletionCommandGroupID(groupSystem)
	return root
}

// Groups of the help text.
const (
	groupProject = "project"
	groupReplica = "replica"
	groupSystem  = "system"
)

// project loads the compose files for the services a command is about. Its
// warnings go to standard error.
func (a *app) project(ctx context.Context, services []string) (*spec.Project, error) {
	o := a.load
	o.Services = services
	return a.loadProject(ctx, o)
}

func (a *app) loadProject(ctx context.Context, o spec.Options) (*spec.Project, error) {
	var err error
	if o.HashKey, err = a.hashKey(); err != nil {
		return nil, err
	}
	p, warnings, err := spec.Load(ctx, o)
	for _, w := range warnings {
		fmt.Fprintln(a.err, "warning:", w)
	}
	if a.debug && p != nil {
		fmt.Fprintf(a.err, "debug: project %s in %s: compose files %q, env files %q, services %q\n", p.Name, p.WorkingDir, p.Files, p.EnvFiles, slices.Sorted(maps.Keys(p.Services)))
	}
	if err != nil || a.adopt {
		return p, err
	}
	store, err := a.store()
	if err != nil {
		return nil, err
	}
	if err := supervisor.OwnCheckout(store, p); err != nil {
		return nil, err
	}
	return p, nil
}

// projectOrName is project for commands that make nothing new and also work from
// what was recorded: as with docker compose, -p without -f means the project of
// that name whatever file lies here. Then, and where there is a name and no
// file, the project is nil.
func (a *app) projectOrName(ctx context.Context, services []string) (*spec.Project, string, error) {
	if name := a.load.ProjectName; name != "" && len(a.load.Files) == 0 {
		return nil, strings.ToLower(name), nil
	}
	o := a.load
	o.Services, o.NamesOnly = services, true
	p, err := a.loadProject(ctx, o)
	name := os.Getenv("COMPOSE_PROJECT_NAME")
	switch {
	case err == nil:
		return p, p.Name, nil
	case errors.Is(err, spec.ErrNoFile) && name != "":
		return nil, strings.ToLower(name), nil
	}
	return nil, "", err
}

// reach is projectOrName and a connection to the supervisor, for commands about
// what exists.
func (a *app) reach(ctx context.Context, services []string) (*spec.Project, string, *api.Client, error) {
	p, name, err := a.projectOrName(ctx, services)
	if err != nil {
		return nil, "", nil, err
	}
	c, err := a.toChange(ctx)
	return p, name, c, err
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// terminalSize returns a terminal's width and height, or those of a classic one.
func terminalSize(w any) (width, height int) {
	if f, ok := w.(*os.File); ok {
		if width, height, err := term.GetSize(int(f.Fd())); err == nil && width > 0 && height > 0 {
			return width, height
		}
	}
	return 80, 24
}
