package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/render"
)

func (a *app) volumes() *cobra.Command {
	var quiet bool
	var format string
	c := &cobra.Command{
		Use:   "volumes [SERVICE...]",
		Short: "List the project's volumes",
		RunE: interruptible(func(ctx context.Context, services []string) error {
			_, name, err := a.projectOrName(ctx, nil)
			if err != nil {
				return err
			}
			replicas, err := a.replicas(ctx, services)
			if err != nil {
				return err
			}
			mounted := map[string]bool{}
			for _, r := range replicas {
				for _, m := range r.Mounts {
					mounted[m.Volume] = mounted[m.Volume] || alive(r)
				}
			}
			store, err := a.volumeStore()
			if err != nil {
				return err
			}
			all, err := store.List()
			if err != nil {
				return err
			}
			var lines []volumeLine
			for _, v := range all {
				if v.Project == name && !v.Anonymous && (len(services) == 0 || mounted[v.Name]) {
					lines = append(lines, lineOfVolume(v))
				}
			}
			if quiet {
				for _, l := range lines {
					fmt.Fprintln(a.out, l.Name)
				}
				return nil
			}
			return render.Rows(a.out, format, volumeLayout, lines)
		}),
	}
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print names only")
	c.Flags().StringVar(&format, "format", "table", formatHelp)
	return c
}
