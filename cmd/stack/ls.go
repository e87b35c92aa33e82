package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"regexp"
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

var projectLayout = render.Layout{
	Table:   `{{.Name}}\t{{.Status}}\t{{.ConfigFiles}}`,
	Headers: map[string]string{"Name": "NAME", "Status": "STATUS", "ConfigFiles": "CONFIG FILES"},
	Width:   20,
}

func (a *app) ls() *cobra.Command {
	var all, quiet bool
	var format string
	var filters []string
	c := &cobra.Command{
		Use:   "ls",
		Short: "List running projects",
		Args:  cobra.NoArgs,
		RunE: interruptible(func(context.Context, []string) error {
			match, err := nameFilter(filters)
			if err != nil {
				return err
			}
			lines, err := a.projects(all)
			if err != nil {
				return err
			}
			lines = slices.DeleteFunc(lines, func(l projectLine) bool { return !match(l.Name) })
			switch {
			case quiet:
				for _, l := range lines {
					fmt.Fprintln(a.out, l.Name)
				}
				return nil
			case format == "json": // compose has one array here, not a line per project
				return render.Lines(a.out, [][]projectLine{lines})
			case format == "pretty":
				format = "table"
			}
			return render.Rows(a.out, format, projectLayout, lines)
		}),
	}
	f := c.Flags()
	f.BoolVarP(&all, "all", "a", false, "show stopped projects too")
	f.BoolVarP(&quiet, "quiet", "q", false, "print names only")
	f.StringArrayVar(&filters, "filter", nil, "show projects that a `condition` holds for: name=REGEXP")
	f.StringVar(&format, "format", "table", formatHelp)
	return c
}

// nameFilter reads the arguments of --filter: a project matches with one of the
// names, each a regular expression.
func nameFilter(filters []string) (func(string) bool, error) {
	var names []*regexp.Regexp
	for _, f := range filters {
		key, value, ok := strings.Cut(f, "=")
		if !ok || strings.TrimSpace(key) != "name" {
			return nil, fmt.Errorf("invalid filter %q: should be name=REGEXP", f)
		}
		re, err := regexp.Compile(strings.TrimSpace(value))
		if err != nil {
			return nil, fmt.Errorf("invalid filter %q: %w", f, err)
		}
		names = append(names, re)
	}
	return func(name string) bool {
		return len(names) == 0 || slices.ContainsFunc(names, func(re *regexp.Regexp) bool { return re.MatchString(name) })
	}, nil
}

// projects are those with containers; without all only containers that run count.
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
			if all || alive(r) {
				counts[string(r.Status)]++
			}
		}
		if len(counts) == 0 {
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
