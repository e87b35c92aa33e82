package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/render"
)

// projectLine is a project in compose's JSON.
type projectLine struct {
	Name        string `json:"Name"`
	Status      string `json:"Status"`
	ConfigFiles string `json:"ConfigFiles"`
}

func (a *app) ls() *cobra.Command {
	var all, quiet bool
	var format string
	c := &cobra.Command{
		Use:   "ls",
		Short: "List running projects",
		Args:  cobra.NoArgs,
		RunE: interruptible(func(ctx context.Context, _ []string) error {
			lines, err := a.projects(all)
			if err != nil {
				return err
			}
			switch {
			case quiet:
				for _, l := range lines {
					fmt.Fprintln(a.out, l.Name)
				}
				return nil
			case format == "json":
				return json.NewEncoder(a.out).Encode(lines)
			case format == "table" || format == "":
				var rows [][]string
				for _, l := range lines {
					rows = append(rows, []string{l.Name, l.Status, l.ConfigFiles})
				}
				return render.Table(a.out, []string{"NAME", "STATUS", "CONFIG FILES"}, rows)
			}
			return fmt.Errorf("format %q: use table or json", format)
		}),
	}
	f := c.Flags()
	f.BoolVarP(&all, "all", "a", false, "show stopped projects too")
	f.BoolVarP(&quiet, "quiet", "q", false, "print names only")
	f.StringVar(&format, "format", "table", "`format`: table or json")
	return c
}

func (a *app) projects(all bool) ([]projectLine, error) {
	store, err := a.store()
	if err != nil {
		return nil, err
	}
	recorded, err := store.Projects()
	if err != nil {
		return nil, err
	}
	lines := []projectLine{}
	for _, p := range recorded {
		replicas, err := store.Settled(p.Name)
		if err != nil {
			return nil, err
		}
		counts := map[string]int{}
		for _, r := range replicas {
			counts[string(r.Status)]++
		}
		if len(counts) == 0 || !all && counts["running"] == 0 {
			continue
		}
		var parts []string
		for _, s := range slices.Sorted(maps.Keys(counts)) {
			parts = append(parts, fmt.Sprintf("%s(%d)", s, counts[s]))
		}
		lines = append(lines, projectLine{p.Name, strings.Join(parts, ", "), strings.Join(p.Files, ",")})
	}
	slices.SortFunc(lines, func(x, y projectLine) int { return cmp.Compare(x.Name, y.Name) })
	return lines, nil
}
