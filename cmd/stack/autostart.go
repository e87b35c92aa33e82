package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	goruntime "runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/autostart"
)

func (a *app) autostart() *cobra.Command {
	c := &cobra.Command{
		Use:   "autostart",
		Short: "Have containers come back after a reboot",
		Long: `Have containers come back after a reboot: those whose restart policy is always,
or unless-stopped or on-failure and that nobody stopped, in the order of
depends_on. A systemd user unit does it, once for all projects.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(
		a.autostartCommand("on", "Write and enable the unit", func(ctx context.Context, u *autostart.Unit) error {
			if err := u.On(ctx); err != nil {
				return err
			}
			fmt.Fprintf(a.out, "autostart is on: %s\n", u.Path())
			a.lingerHint()
			return nil
		}),
		a.autostartCommand("off", "Remove the unit; what runs goes on", func(ctx context.Context, u *autostart.Unit) error {
			if err := u.Off(ctx); err != nil {
				return err
			}
			fmt.Fprintln(a.out, "autostart is off")
			return nil
		}),
		a.autostartCommand("status", "Tell whether it is on", func(_ context.Context, u *autostart.Unit) error {
			on, current, err := u.IsOn()
			switch {
			case err != nil:
				return err
			case !on:
				fmt.Fprintln(a.out, "autostart is off")
			case !current:
				fmt.Fprintf(a.out, "autostart is on, but %s starts another stack: run stack autostart on\n", u.Path())
			default:
				fmt.Fprintf(a.out, "autostart is on: %s\n", u.Path())
				a.lingerHint()
			}
			return nil
		}),
		a.autostartRun(), a.autostartEnd(),
	)
	return c
}

func (a *app) autostartCommand(use, short string, do func(context.Context, *autostart.Unit) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: interruptible(func(ctx context.Context, _ []string) error {
			if goruntime.GOOS != "linux" {
				return fmt.Errorf("autostart needs systemd: it is not there yet on %s", goruntime.GOOS)
			}
			program, err := self()
			if err != nil {
				return err
			}
			u, err := autostart.New(program, os.Getenv)
			if err != nil {
				return err
			}
			return do(ctx, u)
		}),
	}
}

// self is where this program will be found after a reboot: by the name it was
// called with, which an upgrade keeps, if that is absolute or in the path.
func self() (string, error) {
	name := os.Args[0]
	if found, err := exec.LookPath(name); err == nil && strings.HasPrefix(found, "/") {
		return found, nil
	}
	return os.Executable()
}

// lingerHint says what is missing for a start without a login.
func (a *app) lingerHint() {
	u, err := user.Current()
	if err == nil && !autostart.Lingers(os.DirFS("/"), u.Username) {
		fmt.Fprintf(a.out, "  hint: it begins when you log in; to have it begin at boot: loginctl enable-linger %s\n", u.Username)
	}
}

// autostartRun and autostartEnd are what the unit calls.
func (a *app) autostartRun() *cobra.Command {
	return &cobra.Command{
		Use: "run", Hidden: true, Args: cobra.NoArgs,
		RunE: interruptible(func(ctx context.Context, _ []string) error {
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			done, err := c.Autostart(ctx)
			if err != nil {
				return err
			}
			for _, name := range done.Running {
				fmt.Fprintf(a.out, "%s runs\n", name)
			}
			if len(done.Failed) > 0 {
				return fmt.Errorf("not running: %s (see stack ps -a and stack system logs)", strings.Join(done.Failed, ", "))
			}
			return nil
		}),
	}
}

func (a *app) autostartEnd() *cobra.Command {
	return &cobra.Command{
		Use: "end", Hidden: true, Args: cobra.NoArgs,
		RunE: interruptible(func(ctx context.Context, _ []string) error {
			c, err := a.dial(ctx)
			if errors.Is(err, api.ErrNoSupervisor) {
				return nil // nothing runs
			}
			if err != nil {
				return err
			}
			return c.End(ctx)
		}),
	}
}
