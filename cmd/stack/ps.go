package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/state"
)

func (a *app) ps() *cobra.Command {
	var all, quiet, services bool
	var format string
	var statuses []string
	c := &cobra.Command{
		Use:   "ps [SERVICE...]",
		Short: "List containers",
		RunE: interruptible(func(ctx context.Context, names []string) error {
			replicas, err := a.replicas(ctx, names)
			if err != nil {
				return err
			}
			replicas = slices.DeleteFunc(replicas, func(r *state.Replica) bool {
				if len(statuses) > 0 {
					return !slices.Contains(statuses, string(r.Status))
				}
				return !all && (r.OneOff && r.Status != planner.StatusRunning || r.Status == planner.StatusExited || r.Status == planner.StatusCreated || r.Status == planner.StatusDead)
			})
			switch {
			case quiet:
				for _, r := range replicas {
					fmt.Fprintln(a.out, r.ID)
				}
				return nil
			case services:
				seen := map[string]bool{}
				for _, r := range replicas {
					if !seen[r.Service] {
						seen[r.Service] = true
						fmt.Fprintln(a.out, r.Service)
					}
				}
				return nil
			}
			return a.printReplicas(replicas, format, time.Now())
		}),
	}
	f := c.Flags()
	f.BoolVarP(&all, "all", "a", false, "show stopped containers too, and those of run")
	f.BoolVarP(&quiet, "quiet", "q", false, "print ids only")
	f.BoolVar(&services, "services", false, "print services only")
	f.StringVar(&format, "format", "table", "`format`: table or json")
	f.StringArrayVar(&statuses, "status", nil, "show containers of a `status`: paused, restarting, removing, running, dead, created, exited")
	return c
}

// replicas lists a project's replicas from what is recorded, in the order of
// their names; services that do not exist are an error.
func (a *app) replicas(ctx context.Context, services []string) ([]*state.Replica, error) {
	p, name, err := a.projectOrName(ctx, nil)
	if err != nil {
		return nil, err
	}
	store, err := a.store()
	if err != nil {
		return nil, err
	}
	replicas, err := store.Settled(name)
	if err != nil {
		return nil, err
	}
	for _, s := range services {
		known := slices.ContainsFunc(replicas, func(r *state.Replica) bool { return r.Service == s })
		if p != nil {
			known = known || p.Services[s] != nil || slices.Contains(p.Disabled, s)
		}
		if !known {
			return nil, fmt.Errorf("no such service: %s", s)
		}
	}
	if len(services) > 0 {
		replicas = slices.DeleteFunc(replicas, func(r *state.Replica) bool { return !slices.Contains(services, r.Service) })
	}
	slices.SortFunc(replicas, func(x, y *state.Replica) int { return cmp.Compare(x.Name, y.Name) })
	return replicas, nil
}

func (a *app) printReplicas(replicas []*state.Replica, format string, now time.Time) error {
	switch format {
	case "table", "":
		var rows [][]string
		for _, r := range replicas {
			rows = append(rows, []string{
				r.Name, r.Image, shortCommand(r.Command), r.Service,
				units.HumanDuration(now.Sub(r.Created)) + " ago", statusText(r, now), ports(r),
			})
		}
		return render.Table(a.out, []string{"NAME", "IMAGE", "COMMAND", "SERVICE", "CREATED", "STATUS", "PORTS"}, rows)
	case "json":
		enc := json.NewEncoder(a.out)
		enc.SetEscapeHTML(false)
		for _, r := range replicas {
			if err := enc.Encode(replicaJSON(r, now)); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("format %q: use table or json", format)
}

// shortCommand is a command as docker's tables show it: quoted, 20 characters.
func shortCommand(args []string) string {
	s := strings.Join(args, " ")
	if r := []rune(s); len(r) > 20 {
		s = string(r[:19]) + "…"
	}
	return strconv.Quote(s)
}

// statusText is a replica's status in docker's words.
func statusText(r *state.Replica, now time.Time) string {
	var s string
	switch r.Status {
	case planner.StatusRunning:
		s = "Up " + units.HumanDuration(now.Sub(r.Started))
		if r.Health != nil {
			health := string(r.Health.Status)
			if health == "starting" {
				health = "health: starting"
			}
			s += " (" + health + ")"
		}
	case planner.StatusPaused:
		s = "Up " + units.HumanDuration(now.Sub(r.Started)) + " (Paused)"
	case planner.StatusRestarting:
		s = fmt.Sprintf("Restarting (%d) %s ago", r.ExitCode, units.HumanDuration(now.Sub(r.Finished)))
	case planner.StatusExited:
		s = fmt.Sprintf("Exited (%d) %s ago", r.ExitCode, units.HumanDuration(now.Sub(r.Finished)))
		if r.OOM {
			s += " (out of memory)"
		}
	case planner.StatusCreated:
		s = "Created"
	case planner.StatusDead:
		s = "Dead"
	}
	if r.Notice != "" {
		s += " (" + r.Notice + ")"
	}
	return s
}

// ports is the PORTS column: published ones, then exposed ones that are not.
func ports(r *state.Replica) string {
	var parts []string
	for _, p := range r.Published {
		parts = append(parts, fmt.Sprintf("%s->%d/%s", net.JoinHostPort(p.HostIP, strconv.Itoa(int(p.HostPort))), p.Target, p.Protocol))
	}
	return strings.Join(parts, ", ")
}

// publisher is one published port in compose's JSON.
type publisher struct {
	URL           string `json:"URL"`
	TargetPort    uint16 `json:"TargetPort"`
	PublishedPort uint16 `json:"PublishedPort"`
	Protocol      string `json:"Protocol"`
}

// replicaLine is a replica in compose's JSON; the field names are its contract.
type replicaLine struct {
	Command      string      `json:"Command"`
	CreatedAt    string      `json:"CreatedAt"`
	ExitCode     int         `json:"ExitCode"`
	Health       string      `json:"Health"`
	ID           string      `json:"ID"`
	Image        string      `json:"Image"`
	Labels       string      `json:"Labels"`
	LocalVolumes string      `json:"LocalVolumes"`
	Mounts       string      `json:"Mounts"`
	Name         string      `json:"Name"`
	Names        string      `json:"Names"`
	Networks     string      `json:"Networks"`
	Ports        string      `json:"Ports"`
	Project      string      `json:"Project"`
	Publishers   []publisher `json:"Publishers"`
	RunningFor   string      `json:"RunningFor"`
	Service      string      `json:"Service"`
	Size         string      `json:"Size"`
	State        string      `json:"State"`
	Status       string      `json:"Status"`
}

func replicaJSON(r *state.Replica, now time.Time) replicaLine {
	line := replicaLine{
		Command:    shortCommand(r.Command),
		CreatedAt:  r.Created.Local().Format("2006-01-02 15:04:05 -0700 MST"),
		ExitCode:   r.ExitCode,
		ID:         r.ID[:min(12, len(r.ID))],
		Image:      r.Image,
		Name:       r.Name,
		Names:      r.Name,
		Ports:      ports(r),
		Project:    r.Project,
		Publishers: []publisher{},
		RunningFor: units.HumanDuration(now.Sub(r.Created)) + " ago",
		Service:    r.Service,
		Size:       "0B",
		State:      string(r.Status),
		Status:     statusText(r, now),
	}
	if r.Health != nil {
		line.Health = string(r.Health.Status)
	}
	for _, p := range r.Published {
		line.Publishers = append(line.Publishers, publisher{p.HostIP, p.Target, p.HostPort, p.Protocol})
	}
	var labels, mounts, networks []string
	for _, k := range slices.Sorted(maps.Keys(r.Labels)) {
		labels = append(labels, k+"="+r.Labels[k])
	}
	local := 0
	for _, m := range r.Mounts {
		mounts = append(mounts, cmp.Or(m.Volume, m.Source))
		if m.Volume != "" {
			local++
		}
	}
	for _, e := range r.Endpoints {
		networks = append(networks, e.Network)
	}
	line.Labels, line.Mounts, line.Networks = strings.Join(labels, ","), strings.Join(mounts, ","), strings.Join(networks, ",")
	line.LocalVolumes = strconv.Itoa(local)
	return line
}
