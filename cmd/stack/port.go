package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/runtime/state"
)

func (a *app) port() *cobra.Command {
	var index int
	var protocol string
	c := &cobra.Command{
		Use:   "port SERVICE [PRIVATE_PORT]",
		Short: "List the published ports of a service, or print where one port is published",
		Args:  cobra.RangeArgs(1, 2),
	}
	c.RunE = interruptible(func(ctx context.Context, args []string) error {
		protocol = strings.ToLower(protocol)
		var target uint64
		if len(args) > 1 {
			text, of, given := strings.Cut(args[1], "/")
			if given {
				protocol = of
			}
			var err error
			if target, err = strconv.ParseUint(text, 10, 16); err != nil || target == 0 {
				return fmt.Errorf("port %q: should be a number from 1 to 65535", args[1])
			}
		} else if !c.Flags().Changed("protocol") {
			protocol = ""
		}
		replicas, err := a.replicas(ctx, args[:1])
		if err != nil {
			return err
		}
		r := chosen(replicas, index, false)
		if r == nil {
			return noContainer(args[0], index)
		}
		if target == 0 {
			for _, p := range r.Published {
				if protocol == "" || p.Protocol == protocol {
					fmt.Fprintf(a.out, "%d/%s -> %s\n", p.Target, p.Protocol, hostPort(p))
				}
			}
			return nil
		}
		var others []string
		for _, p := range r.Published {
			if uint64(p.Target) == target && p.Protocol == protocol {
				fmt.Fprintln(a.out, hostPort(p))
				return nil
			}
			if text := fmt.Sprintf("%d/%s", p.Target, p.Protocol); !slices.Contains(others, text) {
				others = append(others, text)
			}
		}
		return fmt.Errorf("no port %d/%s for container %s: %s", target, protocol, r.Name, strings.Join(others, ", "))
	})
	c.Flags().StringVar(&protocol, "protocol", "tcp", "`protocol`: tcp or udp")
	c.Flags().IntVar(&index, "index", 0, indexHelp)
	return c
}

// indexHelp is the help of the flag --index.
const indexHelp = "`number` of the container if the service has several"

func hostPort(p state.Published) string {
	return net.JoinHostPort(p.HostIP, strconv.Itoa(int(p.HostPort)))
}

// chosen is the container of a service that a command with --index means: that
// number, or the lowest one; where there is none and oneOffs are wanted, one of
// those. Nil without one; containers that do not run are passed over.
func chosen(replicas []*state.Replica, index int, oneOffs bool) *state.Replica {
	var found *state.Replica
	better := func(r *state.Replica) bool {
		if found == nil || found.OneOff != r.OneOff {
			return found == nil || found.OneOff
		}
		return r.Number < found.Number
	}
	for _, r := range replicas {
		if !alive(r) || r.OneOff && (!oneOffs || index > 0) || index > 0 && r.Number != index {
			continue
		}
		if better(r) {
			found = r
		}
	}
	return found
}

// replica is the running container of a service that --index means, or one that
// run made of it.
func (a *app) replica(ctx context.Context, service string, index int) (*state.Replica, error) {
	replicas, err := a.replicas(ctx, []string{service})
	if err != nil {
		return nil, err
	}
	if r := chosen(replicas, index, true); r != nil {
		return r, nil
	}
	return nil, noContainer(service, index)
}

// noContainer says that chosen found nothing, in compose's words.
func noContainer(service string, index int) error {
	if index > 0 {
		return fmt.Errorf("service %q is not running container #%d", service, index)
	}
	return fmt.Errorf("service %q is not running", service)
}
