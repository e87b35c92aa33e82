package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/version"
	"github.com/stackvm/stack/runtime/supervisor"
)

func (a *app) version() *cobra.Command {
	var short bool
	var format string
	c := &cobra.Command{
		Use:   "version",
		Short: "Show the version",
		Long: `Show the version. Called as docker compose or docker-compose, show that of the
docker compose whose commands these are, which scripts ask for.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			number, tagged, pretty := version.Version, version.Version, "stack version "+version.Version
			if a.asCompose {
				number = supervisor.ComposeVersion
				tagged = "v" + number
				pretty = "Docker Compose version " + tagged + "+stack" // one word, as with distributions' builds
			}
			switch {
			case short:
				fmt.Fprintln(a.out, number)
			case format == "json":
				return json.NewEncoder(a.out).Encode(map[string]string{"version": tagged})
			case format == "pretty" || format == "":
				fmt.Fprintln(a.out, pretty)
			default:
				return fmt.Errorf("format %q: use pretty or json", format)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&short, "short", false, "print the number only")
	c.Flags().StringVarP(&format, "format", "f", "pretty", "`format`: pretty or json")
	return c
}
