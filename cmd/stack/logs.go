package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/spec"
)

func (a *app) logs() *cobra.Command {
	var follow, previous, timestamps, noColour, noPrefix bool
	var tail, since, until string
	var index int
	c := &cobra.Command{
		Use:   "logs [SERVICE...]",
		Short: "View output from containers",
		PreRunE: func(_ *cobra.Command, services []string) error {
			if index > 0 && len(services) != 1 {
				return errors.New("--index requires one service to be selected")
			}
			return nil
		},
		RunE: interruptible(func(ctx context.Context, services []string) error {
			q := api.LogQuery{Follow: follow}
			var err error
			if q.Tail, err = parseTail(tail); err != nil {
				return err
			}
			now := time.Now()
			if q.Since, err = parseTime(since, now); err != nil {
				return fmt.Errorf("--since: %w", err)
			}
			if q.Until, err = parseTime(until, now); err != nil {
				return fmt.Errorf("--until: %w", err)
			}
			p, name, err := a.projectOrName(ctx, nil)
			if err != nil {
				return err
			}
			q.Select = api.Select{Project: name, Services: services, Index: index}
			var names []string
			var entries iter.Seq2[api.LogEntry, error]
			if previous {
				removed, err := a.removedLogs(p, name, services)
				if err != nil {
					return err
				}
				for _, l := range removed {
					names = append(names, displayName(name, l.replica))
				}
				entries = a.storedEntries(q, func(*state.Store) ([]storedLog, error) { return removed, nil })
			} else {
				replicas, err := a.replicas(ctx, services)
				if err != nil {
					return err
				}
				if index > 0 && !slices.ContainsFunc(replicas, func(r *state.Replica) bool { return r.Number == index && !r.OneOff }) {
					return noContainer(services[0], index)
				}
				for _, r := range replicas {
					names = append(names, displayName(name, r.Name))
				}
				entries = a.logEntries(ctx, q, replicas)
			}
			slices.Sort(names)
			// All goes to standard output, as with docker compose: scripts pipe it.
			printer := render.NewLogPrinter(a.out, a.out, names)
			printer.NoPrefix = noPrefix
			printer.Colour = !noColour && a.colour(a.out)
			for e, err := range entries {
				if err != nil {
					return err
				}
				if e.Mark != nil {
					if follow && e.Mark.Exited {
						printer.Note(displayName(name, e.Replica), fmt.Sprintf("exited with code %d", e.Mark.ExitCode))
					}
					continue
				}
				stamp := ""
				if timestamps {
					stamp = e.Time.UTC().Format(time.RFC3339Nano)
				}
				printer.Print(displayName(name, e.Replica), e.Stream == "stderr", stamp, []byte(e.Log))
			}
			return nil
		}),
	}
	f := c.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "follow the output")
	f.BoolVar(&previous, "previous", false, "show the logs of removed containers, as far as they are kept, instead")
	c.MarkFlagsMutuallyExclusive("follow", "previous")
	f.StringVarP(&tail, "tail", "n", "all", "`number` of lines to show from the end of each container's log, or all")
	f.BoolVarP(&timestamps, "timestamps", "t", false, "show timestamps")
	f.StringVar(&since, "since", "", "show logs since a `time` (2013-01-02T13:23:37Z) or duration ago (42m)")
	f.StringVar(&until, "until", "", "show logs before a `time` (2013-01-02T13:23:37Z) or duration ago (42m)")
	f.BoolVar(&noColour, "no-color", false, "monochrome output")
	f.BoolVar(&noPrefix, "no-log-prefix", false, "print no prefix")
	f.IntVar(&index, "index", 0, indexHelp)
	return c
}

// removedLogs lists what is kept of services' removed replicas, the first removed
// first; services that there never were are an error.
func (a *app) removedLogs(p *spec.Project, project string, services []string) ([]storedLog, error) {
	store, err := a.store()
	if err != nil {
		return nil, err
	}
	removed, err := store.Removed(project)
	if err != nil {
		return nil, err
	}
	for _, s := range services {
		known := slices.ContainsFunc(removed, func(r *state.Removed) bool { return r.Service == s })
		if p != nil {
			known = known || p.Services[s] != nil || slices.Contains(p.Disabled, s)
		}
		if !known {
			return nil, fmt.Errorf("no such service: %s", s)
		}
	}
	var all []storedLog
	for _, r := range removed {
		if len(services) == 0 || slices.Contains(services, r.Service) {
			all = append(all, storedLog{store.RemovedLogPath(r.ID), r.Name, r.Service, r.Number})
		}
	}
	return all, nil
}

// parseTail reads the argument of --tail; all is -1.
func parseTail(s string) (int, error) {
	if s == "all" || s == "" {
		return -1, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("--tail %q: should be a number or all", s)
	}
	return n, nil
}

// parseTime reads a moment: a time, a date, Unix seconds, or a duration before
// now. Empty is the zero time.
func parseTime(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02Z07:00", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	if seconds, err := strconv.ParseFloat(s, 64); err == nil && seconds >= 0 && seconds < 1e11 {
		return time.Unix(0, int64(seconds*1e9)), nil
	}
	return time.Time{}, fmt.Errorf("%q is no time (2013-01-02T13:23:37Z), no Unix time and no duration (42m)", s)
}
