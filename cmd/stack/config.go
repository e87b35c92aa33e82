package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/runtime/image"
	"github.com/stackvm/stack/runtime/image/registry"
	"github.com/stackvm/stack/spec"
)

func (a *app) config() *cobra.Command {
	var o spec.RenderOptions
	var quiet bool
	var output string
	var hashes []string
	var digests bool
	listed := map[spec.Part]*bool{}
	c := &cobra.Command{
		Use:     "config [SERVICE...]",
		Aliases: []string{"convert"},
		Short:   "Print the compose file as it is understood",
		RunE: interruptible(func(ctx context.Context, services []string) error {
			load := a.load
			load.Services = services
			o.Hash = hashes
			for _, p := range parts {
				if o.Part == spec.Model && (p == spec.Hashes && len(hashes) > 0 || listed[p] != nil && *listed[p]) {
					o.Part = p
				}
			}
			if digests || o.Lock {
				images, err := a.imageStore()
				if err != nil {
					return err
				}
				defer images.Close()
				o.Digest = func(ctx context.Context, ref string) (string, error) { return a.digest(ctx, images, ref) }
			}
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
	for _, p := range parts {
		if p != spec.Hashes {
			listed[p] = f.Bool(string(p), false, "print the "+string(p)+", one per line")
		}
	}
	f.StringSliceVar(&hashes, "hash", nil, "print the hash of `services`, or of all with '*'")
	f.BoolVar(&o.NoInterpolate, "no-interpolate", false, "do not interpolate environment variables")
	f.BoolVar(&o.NoNormalize, "no-normalize", false, "do not normalize the model")
	f.BoolVar(&o.NoPathResolution, "no-path-resolution", false, "do not resolve file paths")
	f.BoolVar(&o.NoEnvResolution, "no-env-resolution", false, "do not resolve service env files")
	f.BoolVar(&o.NoConsistency, "no-consistency", false, "do not check the model's consistency")
	f.BoolVar(&digests, "resolve-image-digests", false, "name images by the digests that their registries give now")
	f.BoolVar(&o.Lock, "lock-image-digests", false, "print a compose file that only names these digests, to be used as an override")
	return c
}

// parts are what config prints instead of the whole; the first that is asked for
// wins, in docker compose's order.
var parts = []spec.Part{spec.Services, spec.Volumes, spec.Networks, spec.Models, spec.Hashes, spec.Profiles, spec.Images, spec.Variables, spec.Environment}

// digest asks the registry of an image which digest its name leads to.
func (a *app) digest(ctx context.Context, images *image.Store, ref string) (string, error) {
	parsed, err := image.ParseRef(ref)
	if err != nil {
		return "", err
	}
	found, err := a.registryOf([]registry.Repository{parsed.Repo})
	if err != nil {
		return "", err
	}
	var opt image.PullOptions
	opt.Keychain, opt.Proxy = credentials(found)
	return images.Resolve(ctx, ref, opt)
}
