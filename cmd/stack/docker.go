package main

import (
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/dockercli"
)

// answerAs makes the command line that of docker compose, under the name by
// which it was called: with docker's global options, and ending when docker says.
func (a *app) answerAs(root *cobra.Command, name string) {
	a.asCompose = true
	var docker dockercli.Options
	docker.Register(root.Flags())
	root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: name}
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		debug, err := docker.Apply(os.Getenv)
		if err != nil {
			return err
		}
		a.debug = a.debug || debug
		if err := a.settle(cmd); err != nil {
			return err
		}
		return dockercli.Attend(func() { _ = syscall.Kill(os.Getpid(), syscall.SIGTERM) }) // as Ctrl-C would
	}
}

// systemCompose is the command that takes and gives back docker compose's names.
func (a *app) systemCompose() *cobra.Command {
	var names dockercli.Names
	var force bool
	c := &cobra.Command{
		Use:       "compose on|off",
		Short:     "Answer to docker compose and docker-compose as well",
		Long:      "Answer to docker compose (the docker command need not have an engine) and docker-compose as well, or no longer. What else has these names is left alone, or with --force kept until off.",
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"on", "off"},
		RunE: func(_ *cobra.Command, args []string) error {
			program, err := os.Executable()
			if err != nil {
				return err
			}
			places, err := dockercli.DefaultNames(program, os.Getenv)
			if err != nil {
				return err
			}
			if names.Bin != "" {
				places.Bin = names.Bin
			}
			if names.Plugins != "" {
				places.Plugins = names.Plugins
			}
			if args[0] == "off" {
				return places.Give()
			}
			return places.Take(force)
		},
	}
	f := c.Flags()
	f.BoolVar(&force, "force", false, "take the names from another program, which is kept")
	f.StringVar(&names.Bin, "bin-dir", "", "`directory` of docker-compose (default ~/.local/bin, as root /usr/local/bin)")
	f.StringVar(&names.Plugins, "plugin-dir", "", "`directory` of docker's plugins (default ~/.docker/cli-plugins, as root /usr/local/lib/docker/cli-plugins)")
	return c
}
