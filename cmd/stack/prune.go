package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/stackvm/stack/runtime/api"
)

func (a *app) prune() *cobra.Command {
	var q api.PruneQuery
	var force bool
	var conditions []string
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove what nothing needs any more",
		Long: `Remove what nothing needs any more: stopped containers that run has left behind,
images that have no name and that no container uses, and anonymous volumes that
no container has. Stopped services keep what is theirs. What would go is listed
before anything is removed, and nothing else is.`,
		Args: cobra.NoArgs,
		RunE: interruptible(func(ctx context.Context, _ []string) error {
			filter, err := parseFilters(conditions, "until")
			if err != nil {
				return err
			}
			if q.Until, err = filter.until(); err != nil {
				return err
			}
			if !force && !isTerminal(a.in) {
				return errNobodyToAsk
			}
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			found, err := c.Prunable(ctx, q)
			if err != nil {
				return err
			}
			if len(found.Containers)+len(found.Volumes)+len(found.Images) > 0 {
				if !force {
					fmt.Fprintln(a.err, "WARNING! This will remove:")
					a.listFreed(found, func(what string, f api.Freed) {
						fmt.Fprintf(a.err, "  - %s %s (%s)\n", strings.ToLower(what), shownFreed(f), units.HumanSize(float64(f.Bytes)))
					})
					ok, err := a.ask(ctx, fmt.Sprintf("This frees %s. Are you sure you want to continue?", units.HumanSize(float64(found.Bytes()))), false)
					if err != nil || !ok {
						return err
					}
				}
				if found, err = c.Prune(ctx, found); err != nil {
					return err
				}
			}
			last := ""
			a.listFreed(found, func(what string, f api.Freed) {
				if what != last {
					fmt.Fprintf(a.out, "Deleted %ss:\n", what)
					last = what
				}
				fmt.Fprintln(a.out, shownFreed(f))
			})
			if last != "" {
				fmt.Fprintln(a.out)
			}
			fmt.Fprintf(a.out, "Total reclaimed space: %s\n", units.HumanSize(float64(found.Bytes())))
			return nil
		}),
	}
	f := c.Flags()
	f.BoolVarP(&q.All, "all", "a", false, "images too that have a name and that no container uses")
	f.BoolVar(&q.Volumes, "volumes", false, "volumes too that have a name and that no container has: their data is lost")
	f.BoolVarP(&force, "force", "f", false, "do not ask")
	f.StringArrayVar(&conditions, "filter", nil, "only what a `condition` holds for: until=TIME, made or pulled before that, like 24h")
	return c
}

// errNobodyToAsk is the error of a prune without --force in a script.
var errNobodyToAsk = errors.New("prune asks before it removes, and there is no terminal to ask: use --force")

// until is the value of the filter of that name, zero without one.
func (f filters) until() (at time.Time, err error) {
	if len(f["until"]) > 1 {
		return at, errors.New("invalid filter: more than one until filter specified")
	}
	for _, until := range f["until"] {
		at, err = parseTime(until, time.Now())
		if err == nil && at.IsZero() {
			err = errors.New("it has no time")
		}
		if err != nil {
			return at, fmt.Errorf("invalid filter until: %w", err)
		}
	}
	return at, nil
}

// listFreed calls show for each object, kind by kind.
func (a *app) listFreed(p api.Pruned, show func(what string, f api.Freed)) {
	for _, kind := range []struct {
		what string
		list []api.Freed
	}{{"Container", p.Containers}, {"Volume", p.Volumes}, {"Image", p.Images}} {
		for _, f := range kind.list {
			show(kind.what, f)
		}
	}
}

func shownFreed(f api.Freed) string {
	switch {
	case len(f.Names) > 0:
		return strings.Join(f.Names, ", ")
	case f.Name == "<none>":
		return "sha256:" + f.ID
	}
	return f.Name
}
