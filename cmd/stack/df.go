package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/guest"
	"github.com/stackvm/stack/runtime/image"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/runtime/usage"
	"github.com/stackvm/stack/runtime/volume"
)

// usageLine is a kind of things as docker's system df has it.
type usageLine struct {
	Active      string
	Reclaimable string
	Size        string
	TotalCount  string
	Type        string
}

var usageLayout = render.Layout{
	Table:   "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
	Headers: map[string]string{"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE"},
}

func (a *app) systemUsage() *cobra.Command {
	var verbose bool
	var format string
	c := &cobra.Command{
		Use:   "df",
		Short: "Show how much of the disk is used",
		Long: `Show how much of the disk images, containers, volumes, logs and the guest use: what
is allocated, holes of sparse disks left out.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			u, err := a.measure()
			if err != nil {
				return err
			}
			if !verbose {
				return render.Rows(a.out, format, usageLayout, u.lines())
			}
			if format != "" && format != "table" {
				return errors.New("--verbose has tables only: leave --format out")
			}
			return u.print(a)
		},
	}
	f := c.Flags()
	f.BoolVarP(&verbose, "verbose", "v", false, "each image, container and volume")
	f.StringVar(&format, "format", "", formatHelp)
	return c
}

// measured is all that occupies the disk.
type measured struct {
	images     []*image.Image
	replicas   []*state.Replica
	volumes    []*volume.Volume
	containers map[string]int64 // bytes of a replica's disk, by id
	logs       map[string]int64 // of its logs
	used       map[string]int64 // of volumes, by name
	guest      int64
}

func (a *app) measure() (*measured, error) {
	u := &measured{containers: map[string]int64{}, logs: map[string]int64{}, used: map[string]int64{}}
	images, err := a.imageStore()
	if err != nil {
		return nil, err
	}
	defer images.Close()
	if u.images, err = images.List(); err != nil {
		return nil, err
	}
	if u.volumes, u.replicas, err = a.volumesAndUsers(); err != nil {
		return nil, err
	}
	for _, v := range u.volumes {
		if u.used[v.Name], err = v.Used(); err != nil {
			return nil, err
		}
	}
	store, err := a.store()
	if err != nil {
		return nil, err
	}
	for _, r := range u.replicas {
		all, err := usage.Tree(store.ReplicaDir(r.ID))
		if err != nil {
			return nil, err
		}
		logs, err := filepath.Glob(store.LogPath(r.ID) + "*")
		if err != nil {
			return nil, err
		}
		for _, path := range logs {
			n, err := usage.Tree(path)
			if err != nil {
				return nil, err
			}
			u.logs[r.ID] += n
		}
		u.containers[r.ID] = all - u.logs[r.ID]
	}
	if g, err := guest.Find(os.Getenv); err == nil { // without one it occupies nothing
		if u.guest, err = usage.Tree(g.Dir); err != nil {
			return nil, err
		}
	}
	return u, nil
}

// containersOf counts the replicas that run an image.
func (u *measured) containersOf(img *image.Image) (n int) {
	for _, r := range u.replicas {
		if strings.TrimPrefix(r.ImageID, "sha256:") == img.ID {
			n++
		}
	}
	return n
}

func (u *measured) lines() []usageLine {
	line := func(kind string, total, active int, size, free int64) usageLine {
		reclaimable := units.HumanSize(float64(free))
		if size > 0 {
			reclaimable = fmt.Sprintf("%s (%d%%)", reclaimable, free*100/size)
		}
		return usageLine{Type: kind, TotalCount: strconv.Itoa(total), Active: strconv.Itoa(active), Size: units.HumanSize(float64(size)), Reclaimable: reclaimable}
	}
	var used, unused []*image.Image
	for _, img := range u.images {
		if u.containersOf(img) > 0 {
			used = append(used, img)
		} else {
			unused = append(unused, img)
		}
	}
	var running, inUse int
	var disks, freeDisks, logs, volumes, freeVolumes int64
	for _, r := range u.replicas {
		disks += u.containers[r.ID]
		logs += u.logs[r.ID]
		if alive(r) {
			running++
		} else {
			freeDisks += u.containers[r.ID]
		}
	}
	for _, v := range u.volumes {
		volumes += u.used[v.Name]
		if len(users(v, u.replicas)) > 0 {
			inUse++
		} else {
			freeVolumes += u.used[v.Name]
		}
	}
	return []usageLine{
		line("Images", len(u.images), len(used), usage.Layers(u.images, nil), usage.Layers(unused, used)),
		line("Containers", len(u.replicas), running, disks, freeDisks),
		line("Local Volumes", len(u.volumes), inUse, volumes, freeVolumes),
		line("Logs", len(u.logs), running, logs, 0),
		line("Guest", 1, 1, u.guest, 0),
	}
}

// print is the long form: each thing by itself.
func (u *measured) print(a *app) error {
	size := func(n int64) string { return units.HumanSize(float64(n)) }
	var rows [][]string
	for _, img := range u.images {
		repository, tag := "<none>", "<none>"
		if len(img.Tags) > 0 {
			repository, tag = splitTag(img.Tags[0])
		}
		others := slices.DeleteFunc(slices.Clone(u.images), func(o *image.Image) bool { return o == img })
		all, unique := usage.Layers([]*image.Image{img}, nil), usage.Layers([]*image.Image{img}, others)
		rows = append(rows, []string{repository, tag, img.ID[:12], units.HumanDuration(time.Since(img.Pulled)) + " ago", size(all), size(all - unique), size(unique), strconv.Itoa(u.containersOf(img))})
	}
	fmt.Fprint(a.out, "Images space usage:\n\n")
	if err := render.Table(a.out, []string{"REPOSITORY", "TAG", "IMAGE ID", "PULLED", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "CONTAINERS"}, rows); err != nil {
		return err
	}
	rows = nil
	for _, r := range u.replicas {
		rows = append(rows, []string{r.ID[:12], r.Image, size(u.containers[r.ID]), size(u.logs[r.ID]), string(r.Status), r.Name})
	}
	fmt.Fprint(a.out, "\nContainers space usage:\n\n")
	if err := render.Table(a.out, []string{"CONTAINER ID", "IMAGE", "SIZE", "LOGS", "STATUS", "NAMES"}, rows); err != nil {
		return err
	}
	rows = nil
	for _, v := range u.volumes {
		rows = append(rows, []string{v.Name, strconv.Itoa(len(users(v, u.replicas))), size(u.used[v.Name])})
	}
	fmt.Fprint(a.out, "\nLocal Volumes space usage:\n\n")
	if err := render.Table(a.out, []string{"VOLUME NAME", "LINKS", "SIZE"}, rows); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "\nGuest usage: %s\n", size(u.guest))
	return nil
}
