package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/runtime/api"
)

func (a *app) top() *cobra.Command {
	return &cobra.Command{
		Use:   "top [SERVICE...]",
		Short: "Display the running processes",
		RunE: interruptible(func(ctx context.Context, services []string) error {
			_, name, c, err := a.reach(ctx, nil)
			if err != nil {
				return err
			}
			tops, err := c.Top(ctx, api.Select{Project: name, Services: services})
			if err != nil {
				return err
			}
			var titles []string
			var rows [][]string
			for _, t := range tops {
				titles = append([]string{"SERVICE", "#"}, t.Titles...)
				for _, p := range t.Processes {
					rows = append(rows, append([]string{t.Service, fmt.Sprint(t.Number)}, p...))
				}
			}
			if len(rows) == 0 {
				return nil
			}
			return render.Table(a.out, titles, rows)
		}),
	}
}
