package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/runtime/api"
)

func (a *app) events() *cobra.Command {
	var asJSON bool
	var since, until string
	c := &cobra.Command{
		Use:   "events [SERVICE...]",
		Short: "Receive real time events from containers",
		RunE: interruptible(func(ctx context.Context, services []string) error {
			_, name, err := a.projectOrName(ctx, nil)
			if err != nil {
				return err
			}
			q := api.EventsQuery{Select: api.Select{Project: name, Services: services}}
			now := time.Now()
			if q.Since, err = parseTime(since, now); err != nil {
				return fmt.Errorf("--since: %w", err)
			}
			if q.Until, err = parseTime(until, now); err != nil {
				return fmt.Errorf("--until: %w", err)
			}
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			for e, err := range c.Events(ctx, q) {
				if err != nil {
					return err
				}
				if e.Type != "container" || e.Attributes["com.docker.compose.oneoff"] == "True" {
					continue // as with compose: services' containers only
				}
				if err := a.printEvent(e, asJSON); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	f := c.Flags()
	f.BoolVar(&asJSON, "json", false, "print a JSON object per line")
	f.StringVar(&since, "since", "", "show events since a `time` or duration ago")
	f.StringVar(&until, "until", "", "show events until a `time` or duration ago, then end")
	return c
}

// printEvent prints an event of a container in compose's form. What compose sets
// itself is left out of the attributes.
func (a *app) printEvent(e api.ObjectEvent, asJSON bool) error {
	attributes := map[string]string{"name": e.Name}
	maps.Copy(attributes, e.Attributes)
	maps.DeleteFunc(attributes, func(k, _ string) bool { return strings.HasPrefix(k, "com.docker.compose.") })
	if asJSON {
		return render.Lines(a.out, []any{map[string]any{
			"action": e.Action, "attributes": attributes, "id": e.ID, "service": e.Service, "time": e.Time, "type": e.Type,
		}})
	}
	var pairs []string
	for _, k := range slices.Sorted(maps.Keys(attributes)) {
		pairs = append(pairs, k+"="+attributes[k])
	}
	_, err := fmt.Fprintf(a.out, "%s %s %s %s (%s)\n", e.Time.Local().Format("2006-01-02 15:04:05.000000"), e.Type, e.Action, e.ID, strings.Join(pairs, ", "))
	return err
}
