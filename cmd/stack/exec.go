package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/api"
)

func (a *app) exec() *cobra.Command {
	var (
		e          wire.Exec
		index      int
		noTTY, tty bool
	)
	c := &cobra.Command{
		Use:   "exec SERVICE COMMAND [ARG...]",
		Short: "Run a command in a running container",
		Args:  cobra.MinimumNArgs(2),
	}
	f := c.Flags()
	c.RunE = interruptible(func(ctx context.Context, args []string) error {
		r, err := a.replica(ctx, args[0], index)
		if err != nil {
			return err
		}
		if e.Env, err = a.fromEnvironment(e.Env); err != nil {
			return err
		}
		e.Args = args[1:]
		e.Stdin = e.Stdin && !e.Detach
		if e.TTY, err = a.wantsTTY(f.Changed("tty"), tty && !noTTY && !e.Detach, e.Stdin); err != nil {
			return err
		}
		if e.TTY {
			e.Size = windowSize(a.out)
		}
		if a.dryRun {
			return a.rehearseOne("exec", r.Name, "Executing", "Executed")
		}
		c, err := a.connect(ctx)
		if err != nil {
			return err
		}
		conn, err := c.Exec(ctx, api.Exec{Select: api.Select{Replica: r.ID}, Exec: e})
		if err != nil || e.Detach {
			return commandFailure(err)
		}
		s := session{conn: conn, tty: e.TTY, out: a.out, err: a.err}
		if e.Stdin {
			s.stdin = a.in
		}
		return status(s.run(ctx))
	})
	f.SetInterspersed(false)
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "no-TTY" { // compose's older name
			name = "no-tty"
		}
		return pflag.NormalizedName(name)
	})
	f.BoolVarP(&e.Detach, "detach", "d", false, "run the command in the background")
	f.StringArrayVarP(&e.Env, "env", "e", nil, "set an environment variable (`KEY=VALUE`, or KEY to pass it on)")
	f.IntVar(&index, "index", 0, indexHelp)
	f.BoolVarP(&noTTY, "no-tty", "T", false, "do not allocate a terminal (default: one if standard input and output are terminals)")
	f.BoolVar(&e.Privileged, "privileged", false, "give the process extended privileges")
	f.StringVarP(&e.User, "user", "u", "", "run the command as this `user`")
	f.StringVarP(&e.WorkingDir, "workdir", "w", "", "`directory` to run the command in")
	f.BoolVarP(&e.Stdin, "interactive", "i", true, "keep standard input open")
	f.BoolVarP(&tty, "tty", "t", true, "allocate a terminal")
	for _, name := range []string{"interactive", "tty"} {
		_ = f.MarkHidden(name) // it was just added
	}
	return c
}

// commandFailure gives a command that cannot be run docker's exit status for it.
func commandFailure(err error) error {
	if e, ok := err.(*api.Error); ok && e.Code == api.CodeCommand && e.ExitCode != 0 { //nolint:errorlint // never wrapped: it comes from the client
		return failure{e, exitStatus(e.ExitCode)}
	}
	return err
}

// fromEnvironment completes variables that have no value from the environment, or
// the env files, as docker compose does; those that neither has are left out.
func (a *app) fromEnvironment(vars []string) ([]string, error) {
	var complete []string
	for _, v := range vars {
		key, _, ok := strings.Cut(v, "=")
		if key == "" {
			return nil, fmt.Errorf("invalid environment variable %q: should be KEY=VALUE", v)
		}
		if !ok {
			value, set := a.environ[key]
			if !set {
				value, set = os.LookupEnv(key) // the env files cannot be read
			}
			if !set {
				continue
			}
			v = key + "=" + value
		}
		complete = append(complete, v)
	}
	return complete, nil
}

// proxied are the signals that run hands to its command.
var proxied = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}
