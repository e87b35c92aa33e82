package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

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
			q := api.EventsQuery{Select: api.Select{Project: name, Services: services, OneOff: true}}
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

func (a *app) printEvent(e api.ObjectEvent, asJSON bool) error {
	if asJSON {
		attributes := map[string]string{"name": e.Name}
		maps.Copy(attributes, e.Attributes)
		return json.NewEncoder(a.out).Encode(struct {
			Time       time.Time         `json:"time"`
			Type       string            `json:"type"`
			Action     string            `json:"action"`
			ID         string            `json:"id"`
			Service    string            `json:"service"`
			Attributes map[string]string `json:"attributes"`
		}{e.Time, e.Type, e.Action, e.ID, e.Service, attributes})
	}
	var attributes []string
	for _, k := range slices.Sorted(maps.Keys(e.Attributes)) {
		attributes = append(attributes, k+"="+e.Attributes[k])
	}
	attributes = append(attributes, "name="+e.Name)
	_, err := fmt.Fprintf(a.out, "%s %s %s %s (%s)\n", e.Time.Local().Format("2006-01-02 15:04:05.000000"), e.Type, e.Action, e.ID, strings.Join(attributes, ", "))
	return err
}
