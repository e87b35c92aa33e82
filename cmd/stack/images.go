package main

import (
	"context"
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
	LastTagTime   time.Time `json:"LastTagTime,omitzero"`
}

// ShortID, HumanSize and Since are for the table.
func (l imageLine) ShortID() string { return shortID(l.ID) }

// HumanSize is the size as docker prints it.
func (l imageLine) HumanSize() string { return units.HumanSizeWithPrecision(float64(l.Size), 3) }

// Since is how long ago the image was made.
func (l imageLine) Since() string {
	if l.Created.IsZero() {
		return "N/A"
	}
	return units.HumanDuration(time.Since(l.Created)) + " ago"
}

var imageLayout = render.Layout{
	Table: `{{.ContainerName}}\t{{.Repository}}\t{{.Tag}}\t{{.Platform}}\t{{.ShortID}}\t{{.HumanSize}}\t{{.Since}}`,
	Headers: map[string]string{
		"ContainerName": "CONTAINER", "Repository": "REPOSITORY", "Tag": "TAG", "Platform": "PLATFORM", "ShortID": "IMAGE ID",
		"ID": "IMAGE ID", "HumanSize": "SIZE", "Size": "SIZE", "Since": "CREATED", "Created": "CREATED", "LastTagTime": "LAST TAG",
	},
	Width: 20,
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
			case format == "json": // compose has one array here, not a line per image
				return render.Lines(a.out, [][]imageLine{lines})
			case format == "pretty":
				format = "table"
			}
			return render.Rows(a.out, format, imageLayout, lines)
		}),
	}
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print ids only")
	c.Flags().StringVar(&format, "format", "table", formatHelp)
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
			line.Platform, line.Size, line.Created, line.LastTagTime = img.Platform.String(), img.Size, img.Created, img.Pulled
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
