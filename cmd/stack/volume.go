package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/hashicorp/go-multierror"
	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/docker"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/runtime/volume"
	"github.com/stackvm/stack/spec"
)

func (a *app) volume() *cobra.Command {
	c := &cobra.Command{
		Use:   "volume",
		Short: "Manage volumes",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(a.volumeCreate(), a.volumeInspect(), a.volumeList(), a.volumeRemove(), a.volumeExport(), a.volumeImport())
	return c
}

// volumeStore reads the volumes; it makes none.
func (a *app) volumeStore() (*volume.Store, error) {
	dirs, err := a.dirs()
	if err != nil {
		return nil, err
	}
	return volume.Open(volumesDir(dirs), nil), nil
}

// volumeLine is a volume as docker's volume ls has it.
type volumeLine struct {
	Availability string
	Driver       string
	Group        string
	Labels       string
	Links        string
	Mountpoint   string
	Name         string
	Scope        string
	Size         string
	Status       string

	labels map[string]string
}

// Label is for templates.
func (l volumeLine) Label(name string) string { return l.labels[name] }

var volumeLayout = render.Layout{
	Table: "{{.Driver}}\t{{.Name}}",
	Raw:   "name: {{.Name}}\ndriver: {{.Driver}}\n",
	Headers: map[string]string{
		"Availability": "AVAILABILITY", "Driver": "DRIVER", "Group": "GROUP", "Labels": "LABELS", "Links": "LINKS",
		"Mountpoint": "MOUNTPOINT", "Name": "VOLUME NAME", "Scope": "SCOPE", "Size": "SIZE", "Status": "STATUS",
	},
}

func lineOfVolume(v *volume.Volume) volumeLine {
	return volumeLine{
		Availability: "N/A", Driver: "local", Group: "N/A", Labels: labelList(v.Labels), Links: "N/A",
		Mountpoint: v.Disk, Name: v.Name, Scope: "local", Size: "N/A", Status: "N/A", labels: v.Labels,
	}
}

func (a *app) volumeList() *cobra.Command {
	var quiet bool
	var format string
	var filters []string
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"},
		Short: "List volumes",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			filter, err := parseFilters(filters, "dangling", "driver", "label", "label!", "name")
			if err != nil {
				return err
			}
			volumes, replicas, err := a.volumesAndUsers()
			if err != nil {
				return err
			}
			lines := []volumeLine{}
			for _, v := range volumes {
				ok, err := filter.volume(v, replicas)
				if err != nil {
					return err
				}
				if !ok {
					continue
				}
				if quiet {
					fmt.Fprintln(a.out, v.Name)
				}
				lines = append(lines, lineOfVolume(v))
			}
			if quiet {
				return nil
			}
			return render.Rows(a.out, format, volumeLayout, lines)
		},
	}
	f := c.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "print names only")
	f.StringArrayVarP(&filters, "filter", "f", nil, "show what a `condition` holds for: dangling=true, driver=local, label=KEY[=VALUE], name=PART")
	f.StringVar(&format, "format", "", formatHelp)
	return c
}

// volumesAndUsers reads what is recorded of volumes and of what may use them.
func (a *app) volumesAndUsers() ([]*volume.Volume, []*state.Replica, error) {
	volumes, err := a.volumeStore()
	if err != nil {
		return nil, nil, err
	}
	store, err := a.store()
	if err != nil {
		return nil, nil, err
	}
	all, err := volumes.List()
	if err != nil {
		return nil, nil, err
	}
	replicas, err := store.Replicas()
	return all, replicas, err
}

func users(v *volume.Volume, replicas []*state.Replica) (names []string) {
	for _, r := range replicas {
		if r.Uses(v.Name) {
			names = append(names, r.Name)
		}
	}
	return names
}

// filters are docker's --filter KEY=VALUE, by key.
type filters map[string][]string

func parseFilters(args []string, known ...string) (filters, error) {
	out := filters{}
	for _, arg := range args {
		key, value, ok := strings.Cut(arg, "=")
		switch {
		case !ok:
			return nil, fmt.Errorf("invalid argument %q for --filter: bad format of filter (expected name=value)", arg)
		case !slices.Contains(known, key):
			return nil, fmt.Errorf("invalid filter %q: known are %s", key, strings.Join(known, ", "))
		}
		out[key] = append(out[key], value)
	}
	return out, nil
}

// boolean is the value of a filter that may be given once, true or false.
func (f filters) boolean(key string) (value, given bool, err error) {
	for _, v := range f[key] {
		switch v {
		case "true", "1":
			value = true
		case "false", "0":
			value = false
		default:
			return false, true, fmt.Errorf("invalid filter %q: true or false, not %q", key, v)
		}
		given = true
	}
	return value, given, nil
}

// labels tells whether labels have all that is asked for with label= and nothing
// of what label!= names.
func (f filters) labels(labels map[string]string) bool {
	has := func(want string) bool {
		key, value, exact := strings.Cut(want, "=")
		got, ok := labels[key]
		return ok && (!exact || got == value)
	}
	return !slices.ContainsFunc(f["label"], func(w string) bool { return !has(w) }) && !slices.ContainsFunc(f["label!"], has)
}

func (f filters) volume(v *volume.Volume, replicas []*state.Replica) (bool, error) {
	dangling, given, err := f.boolean("dangling")
	if err != nil {
		return false, err
	}
	if given && dangling == (len(users(v, replicas)) > 0) || !f.labels(v.Labels) {
		return false, nil
	}
	if d := f["driver"]; len(d) > 0 && !slices.Contains(d, "local") {
		return false, nil
	}
	names := f["name"]
	return len(names) == 0 || slices.ContainsFunc(names, func(part string) bool { return strings.Contains(v.Name, part) }), nil
}

// volumeDetails is a volume as docker's volume inspect has it.
type volumeDetails struct {
	CreatedAt  string
	Driver     string
	Labels     map[string]string
	Mountpoint string
	Name       string
	Options    map[string]string
	Scope      string
}

func (a *app) volumeInspect() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "inspect VOLUME...",
		Short: "Describe volumes in JSON",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, names []string) error {
			store, err := a.volumeStore()
			if err != nil {
				return err
			}
			found := []volumeDetails{}
			var faults *multierror.Error
			for _, name := range names {
				v, err := store.Get(name)
				switch {
				case errors.Is(err, volume.ErrNotFound):
					faults = multierror.Append(faults, fmt.Errorf("no such volume: %s", name))
				case err != nil:
					faults = multierror.Append(faults, err)
				default:
					found = append(found, volumeDetails{
						CreatedAt: v.Created.Format(time.RFC3339), Driver: "local", Labels: v.Labels, Mountpoint: v.Disk,
						Name: v.Name, Options: v.Options, Scope: "local",
					})
				}
			}
			if format == "" || format == "json" {
				enc := json.NewEncoder(a.out)
				enc.SetEscapeHTML(false)
				enc.SetIndent("", "    ")
				err = enc.Encode(found)
			} else {
				err = render.Template(a.out, format, found)
			}
			if err != nil {
				return err
			}
			return faults.ErrorOrNil()
		},
	}
	c.Flags().StringVarP(&format, "format", "f", "", "`format` of the output: json, or a Go TEMPLATE")
	return c
}

func (a *app) volumeCreate() *cobra.Command {
	var driver, name string
	var options, labels []string
	c := &cobra.Command{
		Use:   "create [VOLUME]",
		Short: "Make a volume",
		Args:  cobra.MaximumNArgs(1),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			if len(args) == 1 {
				if name != "" {
					return errors.New("conflicting options: cannot specify a volume-name through both --name and as a positional arg")
				}
				name = args[0]
			}
			if driver != "local" {
				return fmt.Errorf("volume driver %q: the only one is local", driver)
			}
			v := api.VolumeCreate{Name: name, Labels: pairs(labels), Options: pairs(options)}
			for key, value := range v.Options {
				if key != "size" {
					return fmt.Errorf("volume option %q: the only one is size", key)
				}
				var err error
				if v.Bytes, err = spec.VolumeBytes(value); err != nil {
					return fmt.Errorf("volume option size: %w", err)
				}
			}
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			made, err := c.CreateVolume(ctx, v)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.out, made)
			return nil
		}),
	}
	f := c.Flags()
	f.StringVarP(&driver, "driver", "d", "local", "volume `driver`: local")
	f.StringArrayVarP(&options, "opt", "o", nil, "`option` of the driver: size=20g")
	f.StringArrayVar(&labels, "label", nil, "`label` of the volume, KEY=VALUE, repeatable")
	f.StringVar(&name, "name", "", "`name` of the volume")
	if err := f.MarkHidden("name"); err != nil {
		panic(err) // there is no such flag
	}
	return c
}

// pairs reads KEY=VALUE arguments; a key alone has an empty value.
func pairs(args []string) map[string]string {
	out := map[string]string{}
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		out[key] = value
	}
	return out
}

func (a *app) volumeRemove() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "rm VOLUME...", Aliases: []string{"remove"},
		Short: "Remove volumes, with the data in them",
		Args:  cobra.MinimumNArgs(1),
		RunE: interruptible(func(ctx context.Context, names []string) error {
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			return a.removeEach(names, force, func(name string) error { return c.RemoveVolume(ctx, name) })
		}),
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "no error for a volume that does not exist; one in use is never removed")
	return c
}

// removeEach removes what has these names and prints those that are gone. With force
// one that was not there is gone too.
func (a *app) removeEach(names []string, force bool, remove func(name string) error) error {
	var faults *multierror.Error
	for _, name := range names {
		err := remove(name)
		if fault, ok := errors.AsType[*api.Error](err); ok && fault.Code == api.CodeNotFound && force {
			err = nil
		}
		if err != nil {
			faults = multierror.Append(faults, err)
			continue
		}
		fmt.Fprintln(a.out, name)
	}
	return faults.ErrorOrNil()
}

func (a *app) volumeExport() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "export VOLUME",
		Short: "Write all that is in a volume as a tar archive",
		Long: `Write all that is in a volume as a tar archive, with numeric owners, times and
extended attributes. A volume in use is read while its container goes on: stop
the container first where what is written must be of one moment.`,
		Args: cobra.ExactArgs(1),
		RunE: interruptible(func(ctx context.Context, args []string) (err error) {
			if output == "" || output == "-" {
				if isTerminal(a.out) {
					return errors.New("an archive is not written to a terminal: use --output, or redirect")
				}
				_, err := a.exportVolume(ctx, args[0], a.out)
				return err
			}
			// Beside its place, so that a half archive never looks like one.
			f, err := os.CreateTemp(path.Dir(output), "."+path.Base(output)+"-*")
			if err != nil {
				return fmt.Errorf("exporting volume %s: %w", args[0], err)
			}
			defer func() {
				if err != nil {
					os.Remove(f.Name())
				}
			}()
			found, err := a.exportVolume(ctx, args[0], f)
			if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
				return err
			}
			if err := os.Rename(f.Name(), output); err != nil {
				return fmt.Errorf("exporting volume %s: %w", args[0], err)
			}
			fmt.Fprintf(a.err, "%s: %s\n", args[0], describeContents(found))
			return nil
		}),
	}
	c.Flags().StringVarP(&output, "output", "o", "", "`file` to write to (default: standard output)")
	return c
}

func describeContents(c volume.Contents) string {
	return fmt.Sprintf("%d entries, %s", c.Entries(), units.HumanSize(float64(c.Bytes)))
}

// exportVolume copies a volume's archive to w, and fails if that broke off.
func (a *app) exportVolume(ctx context.Context, name string, w io.Writer) (volume.Contents, error) {
	c, err := a.connect(ctx)
	if err != nil {
		return volume.Contents{}, err
	}
	tar, err := c.ExportVolume(ctx, name)
	if err != nil {
		return volume.Contents{}, err
	}
	defer tar.Close()
	found, err := volume.ReadContents(io.TeeReader(tar, w))
	if err != nil {
		return found, fmt.Errorf("exporting volume %s: %w", name, err)
	}
	return found, nil
}

func (a *app) volumeImport() *cobra.Command {
	var force bool
	var from string
	c := &cobra.Command{
		Use:   "import VOLUME FILE|-",
		Short: "Fill a volume from a tar archive, or from a volume of docker's",
		Long: `Fill a volume from a tar archive, which may be compressed with gzip or zstd, or
from a volume of a docker engine on this host. The volume is made if it does not
exist. One that is not empty is refused; with --force the archive is added to
what is there. What was imported is read back and compared, entry by entry.`,
		Args: cobra.RangeArgs(0, 2),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			if from != "" {
				if len(args) > 1 {
					return errors.New("import takes a FILE or --from-docker, not both")
				}
				return a.importDocker(ctx, from, append(args, from)[0], force)
			}
			if len(args) != 2 {
				return errors.New("import needs a VOLUME and a FILE, or --from-docker NAME")
			}
			in := io.Reader(a.in)
			if args[1] != "-" {
				f, err := os.Open(args[1])
				if err != nil {
					return fmt.Errorf("importing into volume %s: %w", args[0], err)
				}
				defer f.Close()
				in = f
			}
			return a.importVolume(ctx, api.VolumeCreate{Name: args[0]}, force, in)
		}),
	}
	f := c.Flags()
	f.BoolVarP(&force, "force", "f", false, "add to a volume that is not empty")
	f.StringVar(&from, "from-docker", "", "fill it from docker's volume `NAME`; VOLUME has the same name unless given")
	return c
}

// importVolume fills a volume, made if it is not there, and compares what is in
// it then with what came.
func (a *app) importVolume(ctx context.Context, v api.VolumeCreate, force bool, in io.Reader) error {
	plain, err := volume.Decompress(in)
	if err != nil {
		return fmt.Errorf("importing into volume %s: %w", v.Name, err)
	}
	defer plain.Close()
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	if _, err := c.CreateVolume(ctx, v); err != nil {
		return err
	}
	// What is sent is read on the way; an archive that breaks off is not sent whole.
	sent, send := io.Pipe()
	type reading struct {
		contents volume.Contents
		err      error
	}
	read := make(chan reading, 1)
	go func() {
		contents, err := volume.ReadContents(io.TeeReader(plain, send))
		send.CloseWithError(err)
		read <- reading{contents, err}
	}()
	err = c.ImportVolume(ctx, api.VolumeImport{Name: v.Name, Force: force}, sent)
	sent.CloseWithError(io.ErrClosedPipe) // nobody reads any more
	was := <-read
	switch {
	case err != nil && was.err != nil && !errors.Is(was.err, io.ErrClosedPipe):
		return fmt.Errorf("importing into volume %s: %w", v.Name, was.err)
	case err != nil:
		return err
	}
	now, err := a.exportVolume(ctx, v.Name, io.Discard)
	if err != nil {
		return err
	}
	if err := was.contents.In(now); err != nil {
		return fmt.Errorf("volume %s is not what was imported: %w", v.Name, err)
	}
	fmt.Fprintf(a.err, "%s: %s, compared\n", v.Name, describeContents(was.contents))
	return nil
}

// importDocker fills a volume from one of docker's. Its labels come along: a
// volume of a compose project is the same project's here.
func (a *app) importDocker(ctx context.Context, from, to string, force bool) error {
	engine, err := docker.Find(ctx, docker.Sockets(os.Getenv))
	if err != nil {
		return fmt.Errorf("importing docker's volume %s: %w", from, err)
	}
	was, err := engine.Volume(ctx, from)
	if err != nil {
		return fmt.Errorf("importing docker's volume %s: %w", from, err)
	}
	in, out := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := engine.Archive(ctx, from, out)
		out.CloseWithError(err)
		ended <- err
	}()
	err = a.importVolume(ctx, api.VolumeCreate{Name: to, Labels: was.Labels}, force, in)
	in.CloseWithError(io.ErrClosedPipe)
	// The archive's end comes before its maker has cleared up.
	if cleared := <-ended; err == nil {
		err = cleared
	}
	return err
}
