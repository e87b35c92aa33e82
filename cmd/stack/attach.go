package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/runtime/api"
)

func (a *app) attach() *cobra.Command {
	var index int
	var keys string
	var noStdin, proxy bool
	c := &cobra.Command{
		Use:   "attach SERVICE",
		Short: "Attach standard input, output and error to a running container",
		Args:  cobra.ExactArgs(1),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			r, err := a.replica(ctx, args[0], index)
			if err != nil {
				return err
			}
			s := session{tty: r.TTY, out: a.out, err: a.err, openStdin: true}
			if s.detach, err = detachKeys(keys); err != nil {
				return err
			}
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			if !noStdin {
				s.stdin = a.in
			}
			if proxy {
				s.forward = proxied
				ctx = context.WithoutCancel(ctx) // signals are the container's
			}
			attach := api.Attach{Select: api.Select{Replica: r.ID}, Stdin: !noStdin}
			if r.TTY {
				attach.Size = windowSize(a.out)
			}
			if s.conn, err = c.Attach(ctx, attach); err != nil {
				return err
			}
			return status(s.run(ctx))
		}),
	}
	f := c.Flags()
	f.StringVar(&keys, "detach-keys", "", "`keys` that detach from a container with a terminal (default: docker's setting, or ctrl-p,ctrl-q)")
	f.IntVar(&index, "index", 0, indexHelp)
	f.BoolVar(&noStdin, "no-stdin", false, "do not attach standard input")
	f.BoolVar(&proxy, "sig-proxy", true, "pass all signals that arrive on to the process")
	return c
}
