package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/runtime/volume"
)

// volumeLine is a volume in docker's JSON and templates; the field names are its
// contract.
type volumeLine struct {
	Availability string `json:"Availability"`
	Driver       string `json:"Driver"`
	Group        string `json:"Group"`
	Labels       string `json:"Labels"`
	Links        string `json:"Links"`
	Mountpoint   string `json:"Mountpoint"` // its disk
	Name         string `json:"Name"`
	Scope        string `json:"Scope"`
	Size         string `json:"Size"`
	Status       string `json:"Status"`

	labels map[string]string
}

// Label is for templates.
func (l volumeLine) Label(name string) string { return l.labels[name] }

var volumeLayout = render.Layout{
	Table: `{{.Driver}}\t{{.Name}}`,
	Raw:   `name: {{.Name}}\ndriver: {{.Driver}}\n`,
	Headers: map[string]string{
		"Name": "VOLUME NAME", "Driver": "DRIVER", "Scope": "SCOPE", "Mountpoint": "MOUNTPOINT", "Labels": "LABELS",
		"Links": "LINKS", "Size": "SIZE", "Group": "GROUP", "Availability": "AVAILABILITY", "Status": "STATUS",
	},
}

func newVolumeLine(v *volume.Volume) volumeLine {
	var labels []string
	for _, k := range slices.Sorted(maps.Keys(v.Labels)) {
		labels = append(labels, k+"="+v.Labels[k])
	}
	const none = "N/A" // as docker says where it does not count
	return volumeLine{
		Availability: none, Driver: "local", Group: none, Labels: strings.Join(labels, ","), Links: none,
		Mountpoint: v.Disk, Name: v.Name, Scope: "local", Size: none, Status: none, labels: v.Labels,
	}
}

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
			dirs, err := a.dirs()
			if err != nil {
				return err
			}
			all, err := volume.Open(volumesDir(dirs), nil).List()
			if err != nil {
				return err
			}
			var lines []volumeLine
			for _, v := range all {
				if v.Project == name && !v.Anonymous && (len(services) == 0 || mounted[v.Name]) {
					lines = append(lines, newVolumeLine(v))
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
