package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/spec"
)

func (a *app) config() *cobra.Command {
	var o spec.RenderOptions
	var quiet bool
	var output string
	var hashes []string
	var part func() spec.Part
	c := &cobra.Command{
		Use:     "config [SERVICE...]",
		Aliases: []string{"convert"},
		Short:   "Print the compose file as it is understood",
		RunE: interruptible(func(ctx context.Context, services []string) error {
			load := a.load
			load.Services = services
			o.Part, o.Hash = part(), hashes
			var err error
			if load.HashKey, err = a.hashKey(); err != nil {
				return err
			}
			text, warnings, err := spec.Render(ctx, load, o)
			for _, w := range warnings {
				fmt.Fprintln(a.err, "warning:", w)
			}
			switch {
			case err != nil:
				return err
			case quiet:
				return nil
			case output != "":
				return os.WriteFile(output, text, 0o644)
			}
			_, err = a.out.Write(text)
			return err
		}),
	}
	f := c.Flags()
	f.StringVar(&o.Format, "format", "", "`format`: yaml or json (default yaml; of --variables a table)")
	f.BoolVarP(&quiet, "quiet", "q", false, "only validate, print nothing")
	f.StringVarP(&output, "output", "o", "", "write to a `file`")
	lists := map[spec.Part]*bool{}
	for _, p := range []spec.Part{spec.Services, spec.Networks, spec.Volumes, spec.Images, spec.Profiles, spec.Environment, spec.Variables} {
		lists[p] = f.Bool(string(p), false, "print the "+string(p)+", one per line")
	}
	f.StringSliceVar(&hashes, "hash", nil, "print the hash of `services`, or of all with '*'")
	f.BoolVar(&o.NoInterpolate, "no-interpolate", false, "do not interpolate environment variables")
	f.BoolVar(&o.NoNormalize, "no-normalize", false, "do not normalize the model")
	f.BoolVar(&o.NoPathResolution, "no-path-resolution", false, "do not resolve file paths")
	f.BoolVar(&o.NoEnvResolution, "no-env-resolution", false, "do not resolve service env files")
	f.BoolVar(&o.NoConsistency, "no-consistency", false, "do not check the model's consistency")
	part = func() spec.Part {
		if len(hashes) > 0 {
			return spec.Hashes
		}
		for p, set := range lists {
			if *set {
				return p
			}
		}
		return spec.Model
	}
	return c
}
