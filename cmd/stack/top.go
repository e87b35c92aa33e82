package main

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/runtime/api"
)

func (a *app) top() *cobra.Command {
	return &cobra.Command{
		Use:   "top [SERVICE...]",
		Short: "Display the running processes",
		RunE: interruptible(func(ctx context.Context, services []string) error {
			_, name, err := a.projectOrName(ctx, nil)
			if err != nil {
				return err
			}
			c, err := a.dial(ctx)
			if errors.Is(err, api.ErrNoSupervisor) {
				return nil // nothing runs
			}
			if err != nil {
				return err
			}
			tops, err := c.Top(ctx, api.Select{Project: name, Services: services, OneOff: true})
			if err != nil {
				return err
			}
			header, rows := topRows(tops)
			if len(rows) == 0 {
				return nil
			}
			return render.Columns(a.out, 4, 2, header, rows)
		}),
	}
}

// topRows puts the processes of containers into one table: of columns that only
// some have, the others show a dash, and the command comes last.
func topRows(tops []api.Top) (header []string, rows [][]string) {
	tops = slices.Clone(tops)
	slices.SortFunc(tops, func(x, y api.Top) int { return cmp.Compare(x.Replica.Name, y.Replica.Name) })
	header = []string{"SERVICE", "#"}
	for _, t := range tops {
		for _, title := range t.Titles {
			if !slices.Contains(header, title) {
				header = append(header, title)
			}
		}
	}
	if i := slices.Index(header, "CMD"); i >= 0 {
		header = append(slices.Delete(header, i, i+1), "CMD")
	}
	for _, t := range tops {
		for _, p := range t.Processes {
			row := []string{t.Service, ""}
			if t.Number > 0 { // one-offs have none
				row[1] = strconv.Itoa(t.Number)
			}
			for _, title := range header[2:] {
				cell := "-"
				if i := slices.Index(t.Titles, title); i >= 0 && i < len(p) {
					cell = p[i]
				}
				row = append(row, cell)
			}
			rows = append(rows, row)
		}
	}
	return header, rows
}
