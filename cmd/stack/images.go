package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/runtime/image"
)

// imageLine is an image in compose's JSON.
type imageLine struct {
	ID            string    `json:"ID"`
	ContainerName string    `json:"ContainerName"`
	Repository    string    `json:"Repository"`
	Tag           string    `json:"Tag"`
	Platform      string    `json:"Platform"`
	Size          int64     `json:"Size"`
	Created       time.Time `json:"Created,omitzero"`
}

func (a *app) images() *cobra.Command {
	var quiet bool
	var format string
	c := &cobra.Command{
		Use:   "images [SERVICE...]",
		Short: "List the images of created containers",
		RunE: interruptible(func(ctx context.Context, services []string) error {
			lines, err := a.imageLines(ctx, services)
			if err != nil {
				return err
			}
			switch {
			case quiet:
				var ids []string
				for _, l := range lines {
					if !slices.Contains(ids, l.ID) {
						ids = append(ids, l.ID)
						fmt.Fprintln(a.out, strings.TrimPrefix(l.ID, "sha256:"))
					}
				}
				return nil
			case format == "json":
				return json.NewEncoder(a.out).Encode(lines)
			case format == "table" || format == "":
				var rows [][]string
				for _, l := range lines {
					created := "N/A"
					if !l.Created.IsZero() {
						created = units.HumanDuration(time.Since(l.Created)) + " ago"
					}
					id := strings.TrimPrefix(l.ID, "sha256:")
					rows = append(rows, []string{l.ContainerName, l.Repository, l.Tag, l.Platform, id[:min(12, len(id))], units.HumanSizeWithPrecision(float64(l.Size), 3), created})
				}
				return render.Table(a.out, []string{"CONTAINER", "REPOSITORY", "TAG", "PLATFORM", "IMAGE ID", "SIZE", "CREATED"}, rows)
			}
			return fmt.Errorf("format %q: use table or json", format)
		}),
	}
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print ids only")
	c.Flags().StringVar(&format, "format", "table", "`format`: table or json")
	return c
}

func (a *app) imageLines(ctx context.Context, services []string) ([]imageLine, error) {
	replicas, err := a.replicas(ctx, services)
	if err != nil {
		return nil, err
	}
	images, err := a.imageStore()
	if err != nil {
		return nil, err
	}
	defer images.Close()
	lines := []imageLine{}
	for _, r := range replicas {
		line := imageLine{ID: "sha256:" + strings.TrimPrefix(r.ImageID, "sha256:"), ContainerName: r.Name, Repository: "<none>", Tag: "<none>"}
		img, err := images.Get(r.ImageID, "")
		switch {
		case err == nil:
			line.Platform, line.Size, line.Created = img.Platform.String(), img.Size, img.Created
			if len(img.Tags) > 0 {
				line.Repository, line.Tag = splitTag(img.Tags[0])
			}
		case !errors.Is(err, image.ErrNotFound):
			return nil, err
		}
		lines = append(lines, line)
	}
	return lines, nil
}

// splitTag splits repository:tag; a colon before a slash is a port's.
func splitTag(ref string) (repository, tag string) {
	if i := strings.LastIndex(ref, ":"); i > strings.LastIndex(ref, "/") {
		return ref[:i], ref[i+1:]
	}
	return ref, "latest"
}
