package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/archive"
	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/state"
)

func (a *app) cp() *cobra.Command {
	var index int
	var all, archiveMode, follow bool
	c := &cobra.Command{
		Use:   "cp SERVICE:SRC_PATH DEST_PATH|-\n  stack cp SRC_PATH|- SERVICE:DEST_PATH",
		Short: "Copy files between a container and the host",
		Args:  cobra.ExactArgs(2),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			from, source := splitCopy(args[0])
			to, target := splitCopy(args[1])
			switch {
			case args[0] == "":
				return errors.New("source can not be empty")
			case args[1] == "":
				return errors.New("destination can not be empty")
			case from != "" && to != "":
				return errors.New("copying between services is not supported")
			case from == "" && to == "":
				return errors.New("unknown copy direction: name a service, as SERVICE:PATH, on one side")
			}
			replicas, err := a.copied(ctx, from+to, index, all)
			if err != nil {
				return err
			}
			if from != "" {
				replicas = replicas[:1]
			}
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			progress, err := a.newProgress("copy", false)
			if err != nil {
				return err
			}
			defer progress.Close()
			var in io.ReadSeeker
			if source == "-" {
				var done func()
				if in, done, err = spool(a.in, len(replicas)); err != nil {
					return err
				}
				defer done()
			}
			for _, r := range replicas {
				ar := api.Archive{Select: api.Select{Replica: r.ID}, FollowLink: follow, CopyUIDGID: archiveMode}
				e := render.Event{ID: r.Name, Status: render.Working, Text: "Copying", Details: source + " to " + r.Name + ":" + target}
				if from != "" {
					e.Details = r.Name + ":" + source + " to " + target
				}
				progress.On(e)
				switch {
				case from != "":
					err = archive.FromReplica(ctx, c, ar, source, target, a.out)
				default:
					if len(replicas) > 1 && in != nil {
						_, err = in.Seek(0, io.SeekStart)
					}
					if err == nil {
						err = archive.ToReplica(ctx, c, ar, source, target, in)
					}
				}
				if err != nil {
					progress.Fail(err)
					return err
				}
				e.Status, e.Text = render.Done, "Copied"
				progress.On(e)
			}
			return nil
		}),
	}
	f := c.Flags()
	f.BoolVar(&all, "all", false, "include containers that run made")
	f.BoolVarP(&archiveMode, "archive", "a", false, "copy owner and group as well")
	f.BoolVarP(&follow, "follow-link", "L", false, "follow symbolic links in the source")
	f.IntVar(&index, "index", 0, indexHelp)
	return c
}

// copied are the containers of a service that cp means, whether they run or not,
// in the order of their numbers.
func (a *app) copied(ctx context.Context, service string, index int, oneOffs bool) ([]*state.Replica, error) {
	replicas, err := a.replicas(ctx, []string{service})
	if err != nil {
		return nil, err
	}
	replicas = slices.DeleteFunc(replicas, func(r *state.Replica) bool {
		return r.OneOff && (!oneOffs || index > 0) || index > 0 && r.Number != index
	})
	if len(replicas) == 0 && index > 0 {
		return nil, noContainer(service, index)
	}
	if len(replicas) == 0 {
		return nil, fmt.Errorf("no container found for service %q", service)
	}
	last := func(r *state.Replica) int { // one-offs after the others
		if r.OneOff {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(replicas, func(x, y *state.Replica) int {
		return cmp.Or(cmp.Compare(last(x), last(y)), cmp.Compare(x.Number, y.Number))
	})
	return replicas, nil
}

// spool makes a stream readable as often as it is needed: for more than one
// reader through a file that is gone once done is called.
func spool(in *os.File, readers int) (r io.ReadSeeker, done func(), err error) {
	if readers == 1 {
		return in, func() {}, nil
	}
	f, err := os.CreateTemp("", "stack-cp-")
	if err != nil {
		return nil, nil, err
	}
	done = func() { f.Close() }
	if err = os.Remove(f.Name()); err == nil { // the open file is enough
		_, err = io.Copy(f, in)
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	return f, done, nil
}

// splitCopy splits SERVICE:PATH; a path of the host has no service. As docker
// does, what starts with / or . is always a path.
func splitCopy(arg string) (service, path string) {
	if strings.HasPrefix(arg, "/") || strings.HasPrefix(arg, ".") {
		return "", arg
	}
	service, path, ok := strings.Cut(arg, ":")
	if !ok {
		return "", arg
	}
	return service, path
}
