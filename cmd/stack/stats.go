package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/state"
)

// statsInterval is docker's; a percentage of the processor needs two readings.
const statsInterval = time.Second

// statsLine is a reading in docker's JSON and templates; the field names are its
// contract.
type statsLine struct {
	BlockIO   string `json:"BlockIO"`
	CPUPerc   string `json:"CPUPerc"`
	Container string `json:"Container"`
	ID        string `json:"ID"`
	MemPerc   string `json:"MemPerc"`
	MemUsage  string `json:"MemUsage"`
	Name      string `json:"Name"`
	NetIO     string `json:"NetIO"`
	PIDs      string `json:"PIDs"`
}

var statsLayout = render.Layout{
	Table: `{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}`,
	Headers: map[string]string{
		"Container": "CONTAINER", "ID": "CONTAINER ID", "Name": "NAME", "CPUPerc": "CPU %", "MemUsage": "MEM USAGE / LIMIT",
		"MemPerc": "MEM %", "NetIO": "NET I/O", "BlockIO": "BLOCK I/O", "PIDs": "PIDS",
	},
}

func (a *app) stats() *cobra.Command {
	var all, once, noTrunc bool
	var format string
	c := &cobra.Command{
		Use:   "stats [SERVICE]",
		Short: "Display a live stream of the containers' use of resources",
		Args:  cobra.MaximumNArgs(1),
		RunE: interruptible(func(ctx context.Context, services []string) error {
			if format == "" {
				format = dockerConfig().StatsFormat
			}
			_, name, err := a.projectOrName(ctx, nil)
			if err != nil {
				return err
			}
			show := func(before, now map[string]api.Stats) error {
				replicas, err := a.replicas(ctx, services)
				if err != nil {
					return err
				}
				var lines []statsLine
				for _, r := range replicas {
					st, runs := now[r.ID]
					if !runs && !all {
						continue
					}
					line := statsLine{BlockIO: "0B / 0B", CPUPerc: "0.00%", ID: r.ID, Name: r.Name, MemPerc: "0.00%", MemUsage: "0B / 0B", NetIO: "0B / 0B", PIDs: "0"}
					if was, ok := before[r.ID]; runs && ok {
						line = newStatsLine(r, was, st)
					}
					if !noTrunc {
						line.ID = shortID(line.ID)
					}
					line.Container = line.ID
					lines = append(lines, line)
				}
				return a.printStats(lines, format, once)
			}
			ticker := time.NewTicker(statsInterval)
			defer ticker.Stop()
			var before map[string]api.Stats
			for first := true; ; first = false {
				now, err := a.readStats(ctx, api.Select{Project: name, Services: services, OneOff: true})
				if err != nil {
					return err
				}
				if !first || len(now) == 0 {
					if err := show(before, now); err != nil {
						return err
					}
					if once {
						return nil
					}
				}
				before = now
				select {
				case <-ticker.C:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}),
	}
	f := c.Flags()
	f.BoolVarP(&all, "all", "a", false, "show containers that do not run too")
	f.StringVar(&format, "format", "", formatHelp)
	f.BoolVar(&once, "no-stream", false, "print one result and end")
	f.BoolVar(&noTrunc, "no-trunc", false, "do not shorten ids")
	return c
}

// readStats reads the counters of the running containers, by id.
func (a *app) readStats(ctx context.Context, sel api.Select) (map[string]api.Stats, error) {
	c, err := a.dial(ctx)
	if errors.Is(err, api.ErrNoSupervisor) {
		return nil, nil // nothing runs
	}
	if err != nil {
		return nil, err
	}
	all, err := c.Stats(ctx, sel)
	if err != nil && !errors.Is(err, api.ErrNoSupervisor) {
		return nil, err
	}
	byID := map[string]api.Stats{}
	for _, st := range all {
		byID[st.Replica.ID] = st
	}
	return byID, nil
}

// newStatsLine compares two readings of a container.
func newStatsLine(r *state.Replica, was, now api.Stats) statsLine {
	percent := func(part, whole float64) string {
		if whole <= 0 || part < 0 {
			part, whole = 0, 1
		}
		return strconv.FormatFloat(100*part/whole, 'f', 2, 64) + "%"
	}
	pair := func(in, out int64) string {
		return units.HumanSizeWithPrecision(float64(in), 3) + " / " + units.HumanSizeWithPrecision(float64(out), 3)
	}
	limit := now.MemoryLimit
	if limit <= 0 || limit > now.MachineMemory && now.MachineMemory > 0 {
		limit = now.MachineMemory
	}
	return statsLine{
		ID: r.ID, Name: r.Name,
		CPUPerc:  percent(float64(now.CPUNanos-was.CPUNanos), float64(now.At.Sub(was.At))),
		MemUsage: units.BytesSize(float64(now.MemoryBytes)) + " / " + units.BytesSize(float64(limit)),
		MemPerc:  percent(float64(now.MemoryBytes), float64(limit)),
		NetIO:    pair(now.NetRx, now.NetTx), BlockIO: pair(now.BlockRead, now.BlockWrite),
		PIDs: strconv.FormatInt(now.PIDs, 10),
	}
}

// printStats prints lines, over those before them where they are a table that is
// drawn again on a terminal.
func (a *app) printStats(lines []statsLine, format string, once bool) error {
	if once || !isTerminal(a.out) || !a.colour(a.out) {
		return render.Rows(a.out, format, statsLayout, lines)
	}
	var table bytes.Buffer
	if err := render.Rows(&table, format, statsLayout, lines); err != nil {
		return err
	}
	// Home, each line to its end, then what is left of a longer table.
	_, err := fmt.Fprint(a.out, "\x1b[H"+strings.ReplaceAll(table.String(), "\n", "\x1b[K\n")+"\x1b[J")
	return err
}
