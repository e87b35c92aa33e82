package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/version"
)

func (a *app) version() *cobra.Command {
	var short bool
	var format string
	c := &cobra.Command{
		Use:   "version",
		Short: "Show the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			switch {
			case short:
				fmt.Fprintln(a.out, version.Version)
			case format == "json":
				return json.NewEncoder(a.out).Encode(map[string]string{"version": version.Version})
			case format == "pretty" || format == "":
				fmt.Fprintln(a.out, "stack version", version.Version)
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
