package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/archive"
	"github.com/stackvm/stack/runtime/api"
)

func (a *app) cp() *cobra.Command {
	var index int
	var archiveMode, follow bool
	c := &cobra.Command{
		Use:   "cp SERVICE:SRC_PATH DEST_PATH|-\n  stack cp SRC_PATH|- SERVICE:DEST_PATH",
		Short: "Copy files between a container and the host",
		Args:  cobra.ExactArgs(2),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			from, source := splitCopy(args[0])
			to, target := splitCopy(args[1])
			switch {
			case from != "" && to != "":
				return errors.New("copying between services is not supported")
			case from == "" && to == "":
				return errors.New("unknown copy direction: name a service, as SERVICE:PATH, on one side")
			}
			_, name, c, err := a.reach(ctx, nil)
			if err != nil {
				return err
			}
			ar := api.Archive{
				Select:     api.Select{Project: name, Services: []string{from + to}, Index: index},
				FollowLink: follow, CopyUIDGID: archiveMode,
			}
			if from != "" {
				return archive.FromReplica(ctx, c, ar, source, target, a.out)
			}
			return archive.ToReplica(ctx, c, ar, source, target, a.in)
		}),
	}
	f := c.Flags()
	f.BoolVarP(&archiveMode, "archive", "a", false, "copy owner and group as well")
	f.BoolVarP(&follow, "follow-link", "L", false, "follow symbolic links in the source")
	f.IntVar(&index, "index", 0, "`number` of the container if the service has several")
	return c
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
