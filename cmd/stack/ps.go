package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/runtime/supervisor"
	"github.com/stackvm/stack/spec"
)

func (a *app) ps() *cobra.Command {
	var o psOptions
	var filter string
	c := &cobra.Command{
		Use:   "ps [SERVICE...]",
		Short: "List containers",
		RunE: interruptible(func(ctx context.Context, names []string) error {
			if filter != "" {
				key, status, ok := strings.Cut(filter, "=")
				switch {
				case !ok:
					return errors.New("arguments to --filter should be in form KEY=VAL")
				case key != "status":
					return fmt.Errorf("unknown filter %s: the only one is status", key)
				}
				o.statuses = append(o.statuses, status)
			}
			p, replicas, err := a.projectReplicas(ctx, names)
			if err != nil {
				return err
			}
			return a.printReplicas(o.choose(p, replicas), o, time.Now())
		}),
	}
	f := c.Flags()
	f.BoolVarP(&o.all, "all", "a", false, "show stopped containers too, and those of run")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "print ids only")
	f.BoolVar(&o.services, "services", false, "print services only")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "do not shorten ids, commands and mounts")
	f.BoolVar(&o.orphans, "orphans", true, "include containers of services that are not in the compose file")
	f.StringVar(&filter, "filter", "", "show what a `condition` holds for: status=STATUS")
	f.StringArrayVar(&o.statuses, "status", nil, "show containers of a `status`: paused, restarting, removing, running, dead, created, exited")
	f.StringVar(&o.format, "format", "", formatHelp)
	return c
}

// formatHelp is the help of the flag --format where templates are taken.
const formatHelp = "`format` of the output: table, table TEMPLATE, json, or a Go TEMPLATE"

// psOptions are what ps was asked for.
type psOptions struct {
	all, quiet, services, noTrunc, orphans bool
	statuses                               []string
	format                                 string
}

// choose leaves those of a project's replicas that are to be shown; p may be nil.
func (o *psOptions) choose(p *spec.Project, replicas []*state.Replica) []*state.Replica {
	return slices.DeleteFunc(replicas, func(r *state.Replica) bool {
		if !o.orphans && p != nil && p.Services[r.Service] == nil {
			return true
		}
		if len(o.statuses) > 0 {
			return !slices.Contains(o.statuses, string(r.Status))
		}
		return !o.all && (r.OneOff || !alive(r))
	})
}

// alive reports whether a replica is one that docker lists without --all.
func alive(r *state.Replica) bool {
	return r.Status == planner.StatusRunning || r.Status == planner.StatusPaused || r.Status == planner.StatusRestarting
}

// replicas lists a project's replicas from what is recorded, in the order of
// their names; services that do not exist are an error.
func (a *app) replicas(ctx context.Context, services []string) ([]*state.Replica, error) {
	_, replicas, err := a.projectReplicas(ctx, services)
	return replicas, err
}

// projectReplicas is replicas with the project, which is nil where no file was
// read: then every service may be one that has no containers.
func (a *app) projectReplicas(ctx context.Context, services []string) (*spec.Project, []*state.Replica, error) {
	p, name, err := a.projectOrName(ctx, nil)
	if err != nil {
		return nil, nil, err
	}
	store, err := a.store()
	if err != nil {
		return nil, nil, err
	}
	replicas, err := store.Settled(name)
	if err != nil {
		return nil, nil, err
	}
	if free, _, err := supervisor.FreeBytes(store.Dir()); err == nil && free < fullDisk {
		a.refresh(ctx, name, replicas)
	}
	for _, s := range services {
		known := p == nil || p.Services[s] != nil || slices.Contains(p.Disabled, s) ||
			slices.ContainsFunc(replicas, func(r *state.Replica) bool { return r.Service == s })
		if !known {
			return nil, nil, fmt.Errorf("no such service: %s", s)
		}
	}
	if len(services) > 0 {
		replicas = slices.DeleteFunc(replicas, func(r *state.Replica) bool { return !slices.Contains(services, r.Service) })
	}
	slices.SortFunc(replicas, func(x, y *state.Replica) int { return cmp.Compare(x.Name, y.Name) })
	return p, replicas, nil
}

// fullDisk is how little space, in bytes, makes it possible that a supervisor
// could not record what happened.
const fullDisk = 2 << 30

// refresh replaces what is recorded of replicas by what the supervisor knows, if
// one answers soon.
func (a *app) refresh(ctx context.Context, project string, replicas []*state.Replica) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := a.dial(ctx)
	if err != nil {
		return
	}
	live, err := c.Replicas(ctx, api.Select{Project: project, OneOff: true})
	if err != nil {
		return
	}
	for i, r := range replicas {
		if j := slices.IndexFunc(live, func(l api.Replica) bool { return l.ID == r.ID }); j >= 0 {
			replicas[i] = &live[j]
		}
	}
}

// psLayout is compose's, as are the names of the fields.
var psLayout = render.Layout{
	Table: "{{.Name}}\t{{.Image}}\t{{.Command}}\t{{.Service}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}",
	Raw: "container_id: {{.ID}}\nimage: {{.Image}}\ncommand: {{.Command}}\ncreated_at: {{.CreatedAt}}\n" +
		"state: {{- pad .State 1 0}}\nstatus: {{- pad .Status 1 0}}\nnames: {{.Names}}\nlabels: {{- pad .Labels 1 0}}\nports: {{- pad .Ports 1 0}}\n",
	Headers: map[string]string{
		"ID": "CONTAINER ID", "Name": "NAME", "Names": "NAMES", "Project": "PROJECT", "Service": "SERVICE", "Image": "IMAGE",
		"Command": "COMMAND", "CreatedAt": "CREATED AT", "RunningFor": "CREATED", "Ports": "PORTS", "State": "STATE",
		"Status": "STATUS", "Size": "SIZE", "Labels": "LABELS", "Engine": "ENGINE", "Health": "HEALTH", "ExitCode": "EXIT CODE",
		"Mounts": "MOUNTS", "LocalVolumes": "LOCAL VOLUMES", "Networks": "NETWORKS", "Publishers": "PUBLISHERS",
	},
}

func (a *app) printReplicas(replicas []*state.Replica, o psOptions, now time.Time) error {
	switch {
	case o.quiet:
		for _, r := range replicas {
			fmt.Fprintln(a.out, r.ID)
		}
		return nil
	case o.services:
		var names []string
		for _, r := range replicas {
			if !slices.Contains(names, r.Service) {
				names = append(names, r.Service)
			}
		}
		fmt.Fprintln(a.out, strings.Join(names, "\n"))
		return nil
	}
	lines := make([]replicaLine, len(replicas))
	for i, r := range replicas {
		lines[i] = newReplicaLine(r, now, !o.noTrunc)
	}
	format := o.format
	if format == "" {
		format = dockerConfig().PsFormat
	}
	return render.Rows(a.out, format, psLayout, lines)
}

// commandText is a command as docker's tables show it, quoted.
func commandText(args []string, short bool) string {
	words := slices.Clone(args)
	for i, w := range words {
		if i > 0 && strings.Contains(w, " ") {
			words[i] = "'" + w + "'"
		}
	}
	s := strings.Join(words, " ")
	if short {
		s = ellipsis(s, 20)
	}
	return strconv.Quote(s)
}

// ellipsis shortens s to n characters.
func ellipsis(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
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
	if notices := r.Notices(); notices != "" {
		s += " (" + notices + ")"
	}
	return s
}

// publisher is a port of a replica in compose's JSON: one that is published, or
// with no URL one that is only exposed.
type publisher struct {
	URL           string `json:"URL"`
	TargetPort    uint16 `json:"TargetPort"`
	PublishedPort uint16 `json:"PublishedPort"`
	Protocol      string `json:"Protocol"`
}

// publishers are the ports of a running replica, in docker's order.
func publishers(r *state.Replica) []publisher {
	all := []publisher{}
	if !alive(r) {
		return all
	}
	for _, p := range r.Published {
		all = append(all, publisher{p.HostIP, p.Target, p.HostPort, p.Protocol})
	}
	for _, e := range r.Exposed {
		target, protocol, _ := strings.Cut(e, "/")
		n, err := strconv.ParseUint(target, 10, 16)
		published := func(p publisher) bool { return p.TargetPort == uint16(n) && p.Protocol == protocol }
		if err == nil && !slices.ContainsFunc(all, published) {
			all = append(all, publisher{TargetPort: uint16(n), Protocol: protocol})
		}
	}
	slices.SortStableFunc(all, func(x, y publisher) int {
		return cmp.Or(cmp.Compare(x.TargetPort, y.TargetPort), cmp.Compare(x.URL, y.URL), cmp.Compare(x.PublishedPort, y.PublishedPort), cmp.Compare(x.Protocol, y.Protocol))
	})
	return all
}

// portsText is the column PORTS: ports that follow each other are one range, and
// those published under another number come last.
func portsText(all []publisher) string {
	type portRange struct {
		at          string
		protocol    string
		first, last uint16
	}
	var ranges []*portRange // of one address and protocol, the last one still grows
	var done, mapped []string
	text := func(g *portRange) string {
		ports := strconv.Itoa(int(g.first))
		if g.last > g.first {
			ports += "-" + strconv.Itoa(int(g.last))
		}
		if g.at != "" {
			ports = net.JoinHostPort(g.at, ports) + "->" + ports
		}
		return ports + "/" + g.protocol
	}
	for _, p := range all {
		if p.URL != "" && p.PublishedPort != p.TargetPort {
			mapped = append(mapped, fmt.Sprintf("%s->%d/%s", net.JoinHostPort(p.URL, strconv.Itoa(int(p.PublishedPort))), p.TargetPort, p.Protocol))
			continue
		}
		i := slices.IndexFunc(ranges, func(g *portRange) bool { return g.at == p.URL && g.protocol == p.Protocol })
		switch {
		case i < 0:
			ranges = append(ranges, &portRange{p.URL, p.Protocol, p.TargetPort, p.TargetPort})
		case p.TargetPort == ranges[i].last+1:
			ranges[i].last++
		default:
			done = append(done, text(ranges[i]))
			*ranges[i] = portRange{p.URL, p.Protocol, p.TargetPort, p.TargetPort}
		}
	}
	for _, g := range ranges {
		done = append(done, text(g))
	}
	return strings.Join(append(done, mapped...), ", ")
}

// replicaLine is a replica in compose's JSON and templates; the field names are
// its contract.
type replicaLine struct {
	Command      string      `json:"Command"`
	CreatedAt    string      `json:"CreatedAt"`
	Engine       string      `json:"Engine"` // compose's label for engines other than docker's own
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

	labels map[string]string
}

// Label is for templates.
func (l replicaLine) Label(name string) string { return l.labels[name] }

func newReplicaLine(r *state.Replica, now time.Time, short bool) replicaLine {
	all := publishers(r)
	line := replicaLine{
		Command:    commandText(r.Command, short),
		CreatedAt:  r.Created.Local().Format("2006-01-02 15:04:05 -0700 MST"),
		Engine:     r.Labels["com.docker.compose.engine"],
		ID:         r.ID,
		Image:      r.Image,
		Name:       r.Name,
		Names:      r.Name,
		Ports:      portsText(all),
		Project:    r.Project,
		Publishers: all,
		RunningFor: units.HumanDuration(now.Sub(r.Created)) + " ago",
		Service:    r.Service,
		Size:       "0B",
		State:      string(r.Status),
		Status:     statusText(r, now),
		labels:     r.Labels,
	}
	if short {
		line.ID = shortID(r.ID)
	}
	switch r.Status {
	case planner.StatusRunning:
		if r.Health != nil {
			line.Health = string(r.Health.Status)
		}
	case planner.StatusExited, planner.StatusDead:
		line.ExitCode = r.ExitCode
	}
	var mounts, networks []string
	local := 0
	for _, m := range r.Mounts {
		name := cmp.Or(m.Volume, m.Source)
		if name == "" { // a tmpfs, which docker does not list
			continue
		}
		if short {
			name = ellipsis(name, 15)
		}
		mounts = append(mounts, name)
		if m.Volume != "" {
			local++
		}
	}
	for _, e := range r.Endpoints {
		networks = append(networks, e.Network)
	}
	line.Labels, line.Mounts, line.Networks = labelList(r.Labels), strings.Join(mounts, ","), strings.Join(networks, ",")
	line.LocalVolumes = strconv.Itoa(local)
	return line
}

// shortID is an id as docker's tables show it.
func shortID(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(12, len(id))]
}
