package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// needsBuilder refuses what takes BuildKit, which comes with other work.
func needsBuilder(what string) error {
	return fmt.Errorf("%s is not supported yet: stack cannot build images; build them elsewhere, push them to a registry, and name them with image", what)
}

// quietBuildHelp is of a flag that says how a build is shown, and so is taken where
// nothing is built; warnQuietBuild says that it changes nothing.
const quietBuildHelp = "has no effect: nothing is built yet"

func (a *app) warnQuietBuild(cmd *cobra.Command) {
	if cmd.Flags().Changed("quiet-build") {
		fmt.Fprintln(a.err, "warning: --quiet-build has no effect: images cannot be built yet")
	}
}

// unsupported are compose's commands that are known and refused, whatever their
// arguments: a script learns why, and nothing happens.
func (a *app) unsupported() []*cobra.Command {
	const builder = "stack cannot build images; build them elsewhere, push them to a registry, and name them with image"
	var all []*cobra.Command
	for _, c := range []struct{ name, short, why string }{
		{"build", "Build images", builder},
		{"push", "Push images", builder},
		{"publish", "Publish a project", "stack cannot push to a registry"},
		{"commit", "Make an image of a container", "stack cannot build images; stack export writes a container's files"},
		{"watch", "Update containers when files change", "stack does not follow develop.watch; a bind mount shows changes at once"},
		{"bridge", "Convert a project for another platform", "stack runs no transformers"},
		{"model", "Run a model", "stack has no model runner"},
		{"alpha", "Experimental commands", "docker compose's experiments are not stack's"},
	} {
		all = append(all, &cobra.Command{
			Use: c.name, Short: c.short + " (not supported yet)", Hidden: true, DisableFlagParsing: true,
			RunE: func(*cobra.Command, []string) error {
				return fmt.Errorf("%s is not supported yet: %s", c.name, c.why)
			},
		})
	}
	return all
}
