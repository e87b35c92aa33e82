package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/planner"
)

func (a *app) scale() *cobra.Command {
	var o planner.Options
	c := &cobra.Command{
		Use:   "scale SERVICE=REPLICAS...",
		Short: "Scale services",
		Args:  cobra.MinimumNArgs(1),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			var err error
			if o.Scale, err = parseReplicas(args); err != nil {
				return err
			}
			o.Services = slices.Sorted(maps.Keys(o.Scale))
			_, c, change, err := a.upChange(ctx, o, nil)
			if err != nil {
				return err
			}
			return a.apply(ctx, c, change, nil)
		}),
	}
	c.Flags().BoolVar(&o.NoDeps, "no-deps", false, "do not start the services they depend on")
	return c
}

// parseReplicas reads the arguments of scale, in compose's words where they are
// wrong.
func parseReplicas(args []string) (map[string]int, error) {
	scale := map[string]int{}
	for _, arg := range args {
		service, number, ok := strings.Cut(arg, "=")
		if !ok || service == "" || number == "" {
			return nil, fmt.Errorf("invalid scale specifier: %s", arg)
		}
		n, err := strconv.Atoi(number)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("invalid scale specifier: can't parse replica value as int: %s", arg)
		}
		scale[service] = n
	}
	return scale, nil
}
