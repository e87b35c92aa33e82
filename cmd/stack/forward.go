package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/state"
)

func (a *app) forward() *cobra.Command {
	var detach, quiet bool
	var index int
	c := &cobra.Command{
		Use:   "forward SERVICE:PORT[/PROTOCOL] [LOCAL_PORT]...",
		Short: "Reach ports of services that are not published",
		Long: `Listen on ports of this host's loopback, 127.0.0.1 and ::1, and lead what arrives
to ports of services, until Ctrl-C. PROTOCOL is tcp, unless it says udp. Several
may be given, each with a LOCAL_PORT of its own:

  stack forward db:5432
  stack forward db:5432 15432 dns:53/udp 0

Without a LOCAL_PORT the same port is listened on, or, if that is not to be had,
another one, which a note on standard error says; 0 takes any that is free. Each
is printed on a line of standard output: 127.0.0.1:15432 -> db:5432/tcp.

A forward follows its container through restarts and recreation. Between two
containers, clients that connect wait for the next one. With --detach it stays
until forward rm, or until its project goes down.`,
		Args: func(_ *cobra.Command, args []string) error {
			_, err := parseForwards(args)
			return err
		},
	}
	c.RunE = interruptible(func(ctx context.Context, args []string) error {
		ports, err := parseForwards(args)
		if err != nil {
			return err
		}
		services := make([]string, len(ports))
		for i := range ports {
			ports[i].Index = index
			services[i] = ports[i].Service
		}
		_, name, err := a.projectOrName(ctx, nil)
		if err != nil {
			return err
		}
		replicas, err := a.replicas(ctx, services)
		if err != nil {
			return err
		}
		for _, service := range services {
			of := slices.DeleteFunc(slices.Clone(replicas), func(r *state.Replica) bool { return r.Service != service })
			if chosen(of, index, false) == nil {
				return noContainer(service, index)
			}
		}
		client, err := a.connect(ctx)
		if err != nil {
			return err
		}
		err = a.followForwards(client.Forward(ctx, api.Forward{Project: name, Ports: ports, Detach: detach}), ports, quiet)
		if errors.Is(err, context.Canceled) {
			err = nil // Ctrl-C is its ordinary end
		}
		return dockerPorts(ctx, err)
	})
	f := c.Flags()
	f.BoolVarP(&detach, "detach", "d", false, "go on in the background")
	f.IntVar(&index, "index", 0, indexHelp)
	f.BoolVarP(&quiet, "quiet", "q", false, "print addresses only: 127.0.0.1:15432")
	c.AddCommand(a.forwardList(), a.forwardRemove())
	return c
}

// followForwards prints where ports are listened on, and then what becomes of them.
func (a *app) followForwards(lines iter.Seq2[[]api.Forwarded, error], ports []api.ForwardPort, quiet bool) error {
	var before []api.Forwarded
	for made, err := range lines {
		if err != nil {
			return err
		}
		for i, f := range made {
			switch {
			case before == nil:
				if ports[i].Prefer && f.Local != ports[i].Local {
					fmt.Fprintf(a.err, "%s: port %d of this host is not to be had: it is at port %d\n", f.Forward, ports[i].Local, f.Local)
				}
				line := localAddr(f.Local)
				if !quiet {
					line += " -> " + f.String()
				}
				fmt.Fprintln(a.out, line)
			case f.Replica == before[i].Replica:
			case f.Replica == "":
				fmt.Fprintf(a.err, "%s: no container runs: connections wait for the next one\n", f.Forward)
			default:
				fmt.Fprintf(a.err, "%s: leads to %s\n", f.Forward, f.Replica)
			}
		}
		before = made
	}
	return nil
}

func localAddr(port uint16) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))) }

// parseForwards reads pairs of a service's port and, if it is given, one of the host.
func parseForwards(args []string) (ports []api.ForwardPort, err error) {
	local := false // the last port has one
	for _, arg := range args {
		if p, ok, err := parseTarget(arg); ok {
			if err != nil {
				return nil, err
			}
			ports, local = append(ports, p), false
			continue
		}
		n, err := strconv.ParseUint(arg, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("%q: should be SERVICE:PORT[/PROTOCOL], or a port of this host from 0 to 65535", arg)
		}
		if len(ports) == 0 || local {
			return nil, fmt.Errorf("port %s: no SERVICE:PORT before it", arg)
		}
		last := &ports[len(ports)-1]
		last.Local, last.Prefer, local = uint16(n), false, true
	}
	if len(ports) == 0 {
		return nil, errors.New("a SERVICE:PORT to forward is needed")
	}
	return ports, nil
}

// parseTarget reads SERVICE:PORT[/PROTOCOL]; ok tells whether arg is meant as such.
func parseTarget(arg string) (p api.ForwardPort, ok bool, err error) {
	service, rest, ok := strings.Cut(arg, ":")
	if !ok {
		return p, false, nil
	}
	p.Service = service
	text, protocol, _ := strings.Cut(rest, "/")
	p.Protocol = cmp.Or(strings.ToLower(protocol), "tcp")
	n, err := strconv.ParseUint(text, 10, 16)
	switch {
	case service == "":
		return p, true, fmt.Errorf("%q: no service before the port", arg)
	case err != nil || n == 0:
		return p, true, fmt.Errorf("%q: the port should be a number from 1 to 65535", arg)
	case p.Protocol != "tcp" && p.Protocol != "udp":
		return p, true, fmt.Errorf("%q: the protocol should be tcp or udp", arg)
	}
	p.Target, p.Local, p.Prefer = uint16(n), uint16(n), true
	return p, true, nil
}

// forwardLine is a forward in a list.
type forwardLine struct {
	Address   string // 127.0.0.1:15432
	Container string // that it leads to now
	Detached  bool
	Index     int
	LocalPort uint16
	Port      uint16 // of the service
	Project   string
	Protocol  string
	Service   string
	Status    string
}

// Target names what it leads to, for the table.
func (l forwardLine) Target() string { return fmt.Sprintf("%s:%d/%s", l.Service, l.Port, l.Protocol) }

var forwardLayout = render.Layout{
	Table: "{{.Address}}\t{{.Target}}\t{{.Project}}\t{{.Container}}\t{{.Status}}",
	Headers: map[string]string{
		"Address": "ADDRESS", "Container": "CONTAINER", "Detached": "DETACHED", "Index": "INDEX", "LocalPort": "LOCAL PORT", "Port": "PORT",
		"Project": "PROJECT", "Protocol": "PROTOCOL", "Service": "SERVICE", "Status": "STATUS", "Target": "TARGET",
	},
}

func lineOfForward(f api.Forwarded) forwardLine {
	status := "forwarding"
	switch {
	case f.Fault != "":
		status = f.Fault
	case len(f.Addrs) == 0:
		status = "ended with its machines"
	case f.Replica == "":
		status = "waiting for a container"
	}
	return forwardLine{
		Address: localAddr(f.Local), Container: f.Replica, Detached: f.Detached, Index: f.Index, LocalPort: f.Local,
		Port: f.Target, Project: f.Project, Protocol: f.Protocol, Service: f.Service, Status: status,
	}
}

func (a *app) forwardList() *cobra.Command {
	var all bool
	var format string
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"},
		Short: "List forwards",
		Args:  cobra.NoArgs,
		RunE: interruptible(func(ctx context.Context, _ []string) error {
			forwards, err := a.forwards(ctx, all)
			if err != nil {
				return err
			}
			lines := []forwardLine{}
			for _, f := range forwards {
				lines = append(lines, lineOfForward(f))
			}
			return render.Rows(a.out, format, forwardLayout, lines)
		}),
	}
	c.Flags().BoolVarP(&all, "all", "a", false, "list those of every project")
	c.Flags().StringVar(&format, "format", "", formatHelp)
	return c
}

// forwards are those of the project, or of all: from the supervisor, or without one
// those that are recorded, which it brings back when there is something to lead to.
func (a *app) forwards(ctx context.Context, all bool) ([]api.Forwarded, error) {
	name := ""
	if !all {
		var err error
		if _, name, err = a.projectOrName(ctx, nil); err != nil {
			return nil, err
		}
	}
	var found []api.Forwarded
	client, err := a.dial(ctx)
	switch {
	case err == nil:
		found, err = client.Forwards(ctx)
	case errors.Is(err, api.ErrNoSupervisor):
		var store *state.Store
		if store, err = a.store(); err != nil {
			return nil, err
		}
		var records []*state.Forward
		records, err = store.Forwards()
		for _, f := range records {
			found = append(found, api.Forwarded{Forward: *f})
		}
	}
	return slices.DeleteFunc(found, func(f api.Forwarded) bool { return !all && f.Project != name }), err
}

func (a *app) forwardRemove() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "rm LOCAL_PORT[/PROTOCOL]|SERVICE:PORT[/PROTOCOL]...", Aliases: []string{"remove"},
		Short: "End forwards of the project, and the connections through them",
		Args: func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return errors.New("rm needs forwards to end, or --all")
			}
			return nil
		},
		RunE: interruptible(func(ctx context.Context, args []string) error {
			forwards, err := a.forwards(ctx, false)
			if err != nil {
				return err
			}
			var meant []api.Forwarded
			if all {
				meant = forwards
			}
			for _, arg := range args {
				match, err := matchForward(arg)
				if err != nil {
					return err
				}
				before := len(meant)
				for _, f := range forwards {
					if match(f.Forward) && !slices.ContainsFunc(meant, func(o api.Forwarded) bool { return o.ID == f.ID }) {
						meant = append(meant, f)
					}
				}
				if len(meant) == before {
					return fmt.Errorf("no such forward: %s", arg)
				}
			}
			if len(meant) == 0 {
				return nil
			}
			client, err := a.connect(ctx)
			if err != nil {
				return err
			}
			ids := make([]string, len(meant))
			for i, f := range meant {
				ids[i] = f.ID
			}
			if err := client.Unforward(ctx, ids...); err != nil {
				return err
			}
			for _, f := range meant {
				fmt.Fprintf(a.out, "%s -> %s\n", localAddr(f.Local), f.Forward)
			}
			return nil
		}),
	}
	c.Flags().BoolVarP(&all, "all", "a", false, "end all forwards of the project")
	return c
}

// matchForward reads what rm is told: a port of the host, or of a service.
func matchForward(arg string) (func(state.Forward) bool, error) {
	if p, ok, err := parseTarget(arg); ok {
		return func(f state.Forward) bool {
			return f.Service == p.Service && f.Target == p.Target && f.Protocol == p.Protocol
		}, err
	}
	text, protocol, given := strings.Cut(arg, "/")
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || given && protocol != "tcp" && protocol != "udp" {
		return nil, fmt.Errorf("%q: should be a port of this host, or SERVICE:PORT[/PROTOCOL]", arg)
	}
	return func(f state.Forward) bool { return f.Local == uint16(n) && (!given || f.Protocol == protocol) }, nil
}
