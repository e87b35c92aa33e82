package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/go-multierror"
	"github.com/spf13/cobra"

	"github.com/stackvm/stack/runtime/api"
)

func (a *app) rmi() *cobra.Command {
	var force bool
	var platforms []string
	c := &cobra.Command{
		Use:   "rmi IMAGE...",
		Short: "Remove images",
		Long: `Remove images, by name, digest or id. A name is taken away; with its last name the
image goes, and what no other image shares. An image that a container of any
project uses stays.`,
		Args: cobra.MinimumNArgs(1),
		RunE: interruptible(func(ctx context.Context, images []string) error {
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			var faults *multierror.Error
			fatal := false
			for _, ref := range images {
				done, err := c.RemoveImage(ctx, api.RemoveImage{Image: ref, Force: force, Platforms: platforms})
				if err != nil {
					refused, ok := errors.AsType[*api.Error](err)
					fatal = fatal || !ok || refused.Code != api.CodeNotFound
					faults = multierror.Append(faults, err)
				}
				for _, name := range done.Untagged {
					fmt.Fprintln(a.out, "Untagged:", name)
				}
				for _, id := range done.Deleted {
					fmt.Fprintln(a.out, "Deleted: sha256:"+id)
				}
			}
			if force && !fatal { // as docker: what is not there is no failure then
				for _, err := range faults.WrappedErrors() {
					fmt.Fprintln(a.err, err)
				}
				return nil
			}
			return faults.ErrorOrNil()
		}),
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "take the names of an image that a container uses: it stays without one")
	c.Flags().StringSliceVar(&platforms, "platform", nil, "remove only what is for a `platform`, like linux/arm64")
	c.Flags().Bool("no-prune", false, "keep untagged parents; images have none here, so this changes nothing")
	_ = c.Flags().MarkHidden("no-prune") // it was just added
	return c
}
