package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/go-multierror"
	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/spec"
)

func (a *app) network() *cobra.Command {
	c := &cobra.Command{
		Use:   "network",
		Short: "Manage networks",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(a.networkCreate(), a.networkInspect(), a.networkList(), a.networkRemove(), a.networkPrune())
	return c
}

// networkLine is a network as docker's network ls has it.
type networkLine struct {
	CreatedAt string
	Driver    string
	ID        string
	IPv4      string
	IPv6      string
	Internal  string
	Labels    string
	Name      string
	Scope     string

	labels map[string]string
}

// Label is for templates.
func (l networkLine) Label(name string) string { return l.labels[name] }

var networkLayout = render.Layout{
	Table: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
	Raw:   "network_id: {{.ID}}\nname: {{.Name}}\ndriver: {{.Driver}}\nscope: {{.Scope}}\n",
	Headers: map[string]string{
		"CreatedAt": "CREATED AT", "Driver": "DRIVER", "ID": "NETWORK ID", "IPv4": "IPV4", "IPv6": "IPV6", "Internal": "INTERNAL",
		"Labels": "LABELS", "Name": "NAME", "Scope": "SCOPE",
	},
}

func lineOfNetwork(n *state.Network, noTrunc bool) networkLine {
	l := networkLine{
		CreatedAt: n.Created.Format("2006-01-02 15:04:05.999999999 -0700 MST"), Driver: "bridge", ID: n.ID, Internal: strconv.FormatBool(n.Internal),
		Labels: labelList(n.Labels), Name: n.Name, Scope: "local", labels: n.Labels,
	}
	if !noTrunc {
		l.ID = shortID(n.ID)
	}
	four, six := false, false
	for _, s := range n.Addresses.Subnets {
		four, six = four || s.Prefix.Addr().Is4(), six || s.Prefix.Addr().Is6()
	}
	l.IPv4, l.IPv6 = strconv.FormatBool(four), strconv.FormatBool(six)
	return l
}

func (a *app) networkList() *cobra.Command {
	var quiet, noTrunc bool
	var format string
	var conditions []string
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"},
		Short: "List networks",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			filter, err := parseFilters(conditions, "dangling", "driver", "id", "label", "label!", "name", "scope")
			if err != nil {
				return err
			}
			networks, replicas, err := a.networksAndUsers()
			if err != nil {
				return err
			}
			lines := []networkLine{}
			for _, n := range networks {
				ok, err := filter.network(n, replicas)
				if err != nil {
					return err
				}
				if !ok {
					continue
				}
				l := lineOfNetwork(n, noTrunc)
				if quiet {
					fmt.Fprintln(a.out, l.ID)
				}
				lines = append(lines, l)
			}
			if quiet {
				return nil
			}
			return render.Rows(a.out, format, networkLayout, lines)
		},
	}
	f := c.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "print ids only")
	f.BoolVar(&noTrunc, "no-trunc", false, "do not shorten ids")
	f.StringArrayVarP(&conditions, "filter", "f", nil, "show what a `condition` holds for: dangling=true, driver=bridge, id=PART, label=KEY[=VALUE], name=PART, scope=local")
	f.StringVar(&format, "format", "", formatHelp)
	return c
}

// networksAndUsers reads what is recorded of networks and of what is on them.
func (a *app) networksAndUsers() ([]*state.Network, []*state.Replica, error) {
	store, err := a.store()
	if err != nil {
		return nil, nil, err
	}
	networks, err := store.Networks()
	if err != nil {
		return nil, nil, err
	}
	replicas, err := store.Replicas()
	return networks, replicas, err
}

// onNetwork tells whether a replica, running or stopped, has a place on a network.
func onNetwork(n *state.Network, replicas []*state.Replica) bool {
	return slices.ContainsFunc(replicas, func(r *state.Replica) bool {
		return slices.ContainsFunc(r.Endpoints, func(e state.Endpoint) bool { return e.NetworkID == n.ID })
	})
}

func (f filters) network(n *state.Network, replicas []*state.Replica) (bool, error) {
	dangling, given, err := f.boolean("dangling")
	if err != nil {
		return false, err
	}
	if given && dangling == onNetwork(n, replicas) || !f.labels(n.Labels) {
		return false, nil
	}
	part := func(key, of string) bool {
		return len(f[key]) == 0 || slices.ContainsFunc(f[key], func(part string) bool { return strings.Contains(of, part) })
	}
	is := func(key, value string) bool { return len(f[key]) == 0 || slices.Contains(f[key], value) }
	return part("name", n.Name) && part("id", n.ID) && is("driver", "bridge") && is("scope", "local"), nil
}

func (a *app) networkInspect() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "inspect NETWORK...",
		Short: "Describe networks in JSON",
		Args:  cobra.MinimumNArgs(1),
		RunE:  func(_ *cobra.Command, names []string) error { return a.describe("network", names, format) },
	}
	c.Flags().StringVarP(&format, "format", "f", "", "`format` of the output: json, or a Go TEMPLATE")
	return c
}

func (a *app) networkCreate() *cobra.Command {
	var driver string
	var subnets, ranges, gateways, labels, options, aux []string
	var four, attachable bool
	var n api.NetworkCreate
	c := &cobra.Command{
		Use:   "create NETWORK",
		Short: "Make a network that compose files name as external",
		Args:  cobra.ExactArgs(1),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			n.Name, n.Labels, n.NoIPv4 = args[0], pairs(labels), !four
			if driver != "bridge" {
				return fmt.Errorf("network driver %q: the only one is bridge", driver)
			}
			for key, value := range pairs(options) {
				if key != spec.MTUOption {
					return fmt.Errorf("network option %q: the only one is %s", key, spec.MTUOption)
				}
				var err error
				if n.MTU, err = spec.NetworkMTU(value); err != nil {
					return fmt.Errorf("network option %s: %w", key, err)
				}
			}
			if !attachable {
				return errors.New("a network here is always attachable: containers of any project may be on it")
			}
			var err error
			if n.Pools, err = ipamPools(subnets, ranges, gateways, aux); err != nil {
				return fmt.Errorf("network %s: %w", n.Name, err)
			}
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			id, err := c.CreateNetwork(ctx, n)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.out, id)
			return nil
		}),
	}
	f := c.Flags()
	f.StringVarP(&driver, "driver", "d", "bridge", "network `driver`: bridge")
	f.StringSliceVar(&subnets, "subnet", nil, "`subnet` in CIDR notation, repeatable (default: a free one)")
	f.StringSliceVar(&ranges, "ip-range", nil, "part of a subnet, in `CIDR` notation, that containers get addresses from")
	f.StringSliceVar(&gateways, "gateway", nil, "`address` of the host in a subnet (default: the first one)")
	f.StringArrayVar(&aux, "aux-address", nil, "address that no container gets, `NAME=ADDRESS`, repeatable")
	f.BoolVar(&n.Internal, "internal", false, "no way out of the network")
	f.BoolVar(&four, "ipv4", true, "give containers IPv4 addresses")
	f.BoolVar(&n.IPv6, "ipv6", false, "give containers IPv6 addresses")
	f.StringArrayVar(&labels, "label", nil, "`label` of the network, KEY=VALUE, repeatable")
	f.StringArrayVarP(&options, "opt", "o", nil, "`option` of the driver: "+spec.MTUOption+"=1400")
	f.BoolVar(&attachable, "attachable", true, "containers of any project may be on it, as on every network")
	return c
}

// ipamPools puts ranges, gateways and addresses put aside to the subnets that they
// are part of.
func ipamPools(subnets, ranges, gateways, aux []string) ([]spec.IPAMPool, error) {
	var pools []spec.IPAMPool
	for _, text := range subnets {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("subnet %q is no network in CIDR notation", text)
		}
		pools = append(pools, spec.IPAMPool{Subnet: p.Masked()})
	}
	of := func(what, text string, a netip.Addr) (*spec.IPAMPool, error) {
		i := slices.IndexFunc(pools, func(p spec.IPAMPool) bool { return p.Subnet.Contains(a) })
		if i < 0 {
			return nil, fmt.Errorf("no matching subnet for %s %s", what, text)
		}
		return &pools[i], nil
	}
	for _, text := range ranges {
		r, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("ip-range %q is no network in CIDR notation", text)
		}
		p, err := of("ip-range", text, r.Addr())
		switch {
		case err != nil:
			return nil, err
		case r.Bits() < p.Subnet.Bits():
			return nil, fmt.Errorf("ip-range %s is larger than subnet %s", text, p.Subnet)
		case p.Range.IsValid():
			return nil, fmt.Errorf("subnet %s has two ip-ranges", p.Subnet)
		}
		p.Range = r.Masked()
	}
	for _, text := range gateways {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("gateway %q is no address", text)
		}
		p, err := of("gateway", text, a)
		switch {
		case err != nil:
			return nil, err
		case p.Gateway.IsValid():
			return nil, fmt.Errorf("subnet %s has two gateways", p.Subnet)
		}
		p.Gateway = a
	}
	for _, text := range aux {
		name, address, _ := strings.Cut(text, "=")
		a, err := netip.ParseAddr(address)
		if err != nil || name == "" {
			return nil, fmt.Errorf("aux-address %q should be NAME=ADDRESS", text)
		}
		p, err := of("aux-address", text, a)
		if err != nil {
			return nil, err
		}
		if p.Aux == nil {
			p.Aux = map[string]netip.Addr{}
		}
		p.Aux[name] = a
	}
	return pools, nil
}

func (a *app) networkRemove() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "rm NETWORK...", Aliases: []string{"remove"},
		Short: "Remove networks that no container is on",
		Args:  cobra.MinimumNArgs(1),
		RunE: interruptible(func(ctx context.Context, names []string) error {
			networks, _, err := a.networksAndUsers()
			if err != nil {
				return err
			}
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			return a.removeEach(names, force, func(name string) error {
				// By id as well; one that is not there the supervisor knows best.
				if n, err := named(networks, name, func(n *state.Network) (string, string) { return n.ID, n.Name }); err == nil {
					name = n.Name
				}
				return c.RemoveNetwork(ctx, name)
			})
		}),
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "no error for a network that does not exist; one in use is never removed")
	return c
}

func (a *app) networkPrune() *cobra.Command {
	var force bool
	var conditions []string
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove all networks that no container is on",
		Long: `Remove all networks that no container is on, running or stopped, after listing
them.`,
		Args: cobra.NoArgs,
		RunE: interruptible(func(ctx context.Context, _ []string) error {
			filter, err := parseFilters(conditions, "label", "label!", "until")
			if err != nil {
				return err
			}
			until, err := filter.until()
			if err != nil {
				return err
			}
			if !force && !isTerminal(a.in) {
				return errNobodyToAsk
			}
			networks, replicas, err := a.networksAndUsers()
			if err != nil {
				return err
			}
			networks = slices.DeleteFunc(networks, func(n *state.Network) bool {
				return onNetwork(n, replicas) || !filter.labels(n.Labels) || !until.IsZero() && !n.Created.Before(until)
			})
			if len(networks) == 0 {
				return nil
			}
			if !force {
				fmt.Fprintln(a.err, "WARNING! This will remove:")
				for _, n := range networks {
					fmt.Fprintf(a.err, "  - network %s\n", n.Name)
				}
				ok, err := a.ask(ctx, "Are you sure you want to continue?", false)
				if err != nil || !ok {
					return err
				}
			}
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			var faults *multierror.Error
			var gone []string
			for _, n := range networks {
				err := c.RemoveNetwork(ctx, n.Name)
				fault, answered := errors.AsType[*api.Error](err)
				switch {
				case err == nil:
					gone = append(gone, n.Name)
				case answered && (fault.Code == api.CodeConflict || fault.Code == api.CodeNotFound): // used since, or gone
				default:
					faults = multierror.Append(faults, err)
				}
			}
			if len(gone) > 0 {
				fmt.Fprintf(a.out, "Deleted Networks:\n%s\n\n", strings.Join(gone, "\n"))
			}
			return faults.ErrorOrNil()
		}),
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	c.Flags().StringArrayVar(&conditions, "filter", nil, "only what a `condition` holds for: label=KEY[=VALUE], until=TIME, made before that, like 24h")
	return c
}

// labelList is labels as docker's lists have them.
func labelList(labels map[string]string) string {
	var out []string
	for key, value := range labels {
		out = append(out, key+"="+value)
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}
