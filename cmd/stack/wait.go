package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
)

func (a *app) wait() *cobra.Command {
	var down bool
	c := &cobra.Command{
		Use:   "wait SERVICE [SERVICE...]",
		Short: "Block until the containers of services have stopped, and exit with their status",
		Args:  cobra.MinimumNArgs(1),
		RunE: interruptible(func(ctx context.Context, services []string) error {
			_, name, err := a.projectOrName(ctx, nil)
			if err != nil {
				return err
			}
			replicas, err := a.replicas(ctx, services)
			if err != nil {
				return err
			}
			type ending struct {
				id   string
				code int
			}
			ended := make(chan ending, len(replicas))
			g, waiting := errgroup.WithContext(ctx)
			running := 0
			for _, r := range replicas {
				if !alive(r) {
					continue
				}
				running++
				g.Go(func() error {
					code, err := a.awaitEnd(waiting, r.ID)
					if err == nil {
						ended <- ending{r.ID, code}
					}
					return err
				})
			}
			if running == 0 {
				return fmt.Errorf("no containers for project %q", name)
			}
			failed := make(chan error, 1)
			go func() { // ends with the last wait
				failed <- g.Wait()
				close(ended)
			}()
			last := 0
			for e := range ended {
				fmt.Fprintf(a.out, "container %q exited with status code %d\n", e.id, e.code)
				last = e.code
			}
			if err := <-failed; err != nil {
				return err
			}
			if down {
				c, err := a.toChange(ctx)
				if err != nil {
					return err
				}
				change := api.Apply{Command: api.Down, Name: name, Down: planner.DownOptions{RemoveOrphans: true}, Providers: providersOf(nil)}
				if err := a.apply(ctx, c, change, nil); err != nil {
					return err
				}
			}
			if last != 0 {
				return exitStatus(last)
			}
			return nil
		}),
	}
	c.Flags().BoolVar(&down, "down-project", false, "take the project down when they have stopped")
	return c
}

// awaitEnd returns a container's exit status once it has ended for good. Where
// no supervisor is left it has: the record says how.
func (a *app) awaitEnd(ctx context.Context, id string) (int, error) {
	c, err := a.dial(ctx)
	if err == nil {
		var status wire.ExitStatus
		if status, err = c.WaitReplica(ctx, api.Select{Replica: id}); err == nil {
			return status.Code, nil
		}
	}
	if !errors.Is(err, api.ErrNoSupervisor) {
		return 0, err
	}
	store, err := a.store()
	if err != nil {
		return 0, err
	}
	r, err := store.Replica(id)
	if err != nil {
		return 0, err
	}
	return r.ExitCode, nil
}
