package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/runtime/doctor"
)

func (a *app) doctor() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Find out what is wrong with this host, and what cures it",
		Args:  cobra.NoArgs,
		RunE: interruptible(func(ctx context.Context, _ []string) error {
			report := doctor.Examine(ctx, a.host())
			if asJSON {
				enc := json.NewEncoder(a.out)
				enc.SetIndent("", "  ")
				if err := enc.Encode(report); err != nil {
					return err
				}
			} else {
				a.printReport(report)
			}
			if !report.Healthy() {
				return exitStatus(1)
			}
			return nil
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

var levelIcons = map[doctor.Level]string{doctor.OK: "✔", doctor.Note: "i", doctor.Warning: "!", doctor.Error: "✘"}

func (a *app) printReport(r doctor.Report) {
	width := 0
	for _, f := range r.Findings {
		width = max(width, len(f.Check))
	}
	for _, f := range r.Findings {
		fmt.Fprintf(a.out, "%s %-*s  %s\n", levelIcons[f.Level], width, f.Check, f.Message)
		if f.Advice != "" {
			fmt.Fprintf(a.out, "  %s  %s\n", strings.Repeat(" ", width), f.Advice)
		}
	}
	if len(r.Settings) > 0 {
		fmt.Fprintln(a.out, "\nEffective configuration:")
		width = 0
		for _, s := range r.Settings {
			width = max(width, len(s.Key))
		}
		for _, s := range r.Settings {
			fmt.Fprintf(a.out, "  %-*s  %s (%s)\n", width, s.Key, s.Value, s.Origin)
		}
	}
}
