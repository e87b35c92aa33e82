package main

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) port() *cobra.Command {
	var index int
	var protocol string
	c := &cobra.Command{
		Use:   "port SERVICE PRIVATE_PORT",
		Short: "Print the public port of a port binding",
		Args:  cobra.ExactArgs(2),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			text, proto, given := strings.Cut(args[1], "/")
			if given {
				protocol = proto
			}
			target, err := strconv.ParseUint(text, 10, 16)
			if err != nil {
				return fmt.Errorf("port %q: should be a number from 1 to 65535", args[1])
			}
			replicas, err := a.replicas(ctx, args[:1])
			if err != nil {
				return err
			}
			for _, r := range replicas {
				if r.OneOff || index != 0 && r.Number != index {
					continue
				}
				for _, p := range r.Published {
					if uint64(p.Target) == target && p.Protocol == protocol {
						fmt.Fprintln(a.out, net.JoinHostPort(p.HostIP, strconv.Itoa(int(p.HostPort))))
						return nil
					}
				}
			}
			return fmt.Errorf("no port %d/%s for container %s-%d", target, protocol, args[0], max(index, 1))
		}),
	}
	c.Flags().StringVar(&protocol, "protocol", "tcp", "`protocol`: tcp or udp")
	c.Flags().IntVar(&index, "index", 0, "`number` of the container if the service has several")
	return c
}
