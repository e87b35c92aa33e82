package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/docker/cli/templates"
	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/inspect"
	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/image"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/runtime/volume"
)

// errNoObject is what a finder returns for a name it does not know.
var errNoObject = errors.New("no such object")

func (a *app) inspect() *cobra.Command {
	var format, kind string
	c := &cobra.Command{
		Use:   "inspect NAME|ID [NAME|ID...]",
		Short: "Describe containers, images, networks and volumes as docker inspect does",
		Args:  cobra.MinimumNArgs(1),
		RunE: interruptible(func(_ context.Context, names []string) error {
			return a.describe(kind, names, format)
		}),
	}
	c.Flags().StringVarP(&format, "format", "f", "", "`format` of the output: json, or a Go TEMPLATE (default: an indented JSON array)")
	c.Flags().StringVar(&kind, "type", "", "only objects of this `type`: container, image, network, volume")
	return c
}

// describe prints objects of a kind, or of any for "", and then says which there are
// not.
func (a *app) describe(kind string, names []string, format string) error {
	find, err := a.finder(kind)
	if err != nil {
		return err
	}
	found := []any{}
	var missing error
	for _, name := range names {
		o, err := find(name)
		switch {
		case err == nil:
			found = append(found, o)
		case errors.Is(err, errNoObject):
			what := kind
			if what == "" {
				what = "object"
			}
			missing = errors.Join(missing, fmt.Errorf("no such %s: %s", what, name))
		default:
			return err
		}
	}
	if err := a.printObjects(found, format); err != nil {
		return err
	}
	return missing
}

// printObjects prints objects as docker inspect does.
func (a *app) printObjects(objects []any, format string) error {
	switch format {
	case "":
		var out bytes.Buffer
		enc := json.NewEncoder(&out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "    ")
		if err := enc.Encode(objects); err != nil {
			return err
		}
		_, err := out.WriteTo(a.out)
		return err
	case "json":
		format = "{{json .}}"
	}
	t, err := templates.Parse(format)
	if err != nil {
		return fmt.Errorf("--format: %w", err)
	}
	for _, o := range objects {
		var out bytes.Buffer
		if err := t.Execute(&out, o); err != nil {
			// As with docker, a template may also name fields as the JSON does.
			text, jsonErr := json.Marshal(o)
			var raw any
			if jsonErr != nil || json.Unmarshal(text, &raw) != nil {
				return fmt.Errorf("--format: %w", err)
			}
			out.Reset()
			if t.Option("missingkey=error").Execute(&out, raw) != nil {
				return fmt.Errorf("--format: %w", err) // the first error names the type
			}
		}
		fmt.Fprintln(a.out, out.String())
	}
	return nil
}

// finder returns what finds an object of a kind, or of any, by name or id.
func (a *app) finder(kind string) (func(name string) (any, error), error) {
	type finder struct {
		kind string
		find func(string) (any, error)
	}
	finders := []finder{{"container", a.findContainer}, {"image", a.findImage}, {"network", a.findNetwork}, {"volume", a.findVolume}}
	if kind != "" {
		finders = slices.DeleteFunc(finders, func(f finder) bool { return f.kind != kind })
	}
	if len(finders) == 0 {
		return nil, fmt.Errorf("--type %q: use container, image, network or volume", kind)
	}
	return func(name string) (any, error) {
		for _, f := range finders {
			if o, err := f.find(name); !errors.Is(err, errNoObject) {
				return o, err
			}
		}
		return nil, errNoObject
	}, nil
}

// named picks the object with a name, an id, or the beginning of only one id.
func named[T any](all []T, name string, of func(T) (id, name string)) (found T, err error) {
	matches := 0
	for _, o := range all {
		id, called := of(o)
		switch {
		case called == strings.TrimPrefix(name, "/") || id == name:
			return o, nil
		case len(name) >= 4 && strings.HasPrefix(id, name):
			found = o
			matches++
		}
	}
	switch matches {
	case 1:
		return found, nil
	case 0:
		return found, errNoObject
	}
	return found, fmt.Errorf("%s: several ids begin so", name)
}

func (a *app) findContainer(name string) (any, error) {
	store, err := a.store()
	if err != nil {
		return nil, err
	}
	all, err := store.Settled("")
	if err != nil {
		return nil, err
	}
	r, err := named(all, name, func(r *state.Replica) (string, string) { return r.ID, r.Name })
	if err != nil {
		return nil, err
	}
	var container wire.Container
	resolved, err := store.Resolved(r.ID)
	switch {
	case err == nil:
		container = resolved.Container
	case !errors.Is(err, state.ErrNotFound) && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	pid := 0
	if m, err := store.Machine(r.Machine); err == nil {
		pid = m.Record.PID
	}
	log := store.LogPath(r.ID)
	if r.Logging.Driver == "none" {
		log = ""
	}
	return inspect.Container(r, container, log, pid), nil
}

func (a *app) findNetwork(name string) (any, error) {
	store, err := a.store()
	if err != nil {
		return nil, err
	}
	all, err := store.Networks()
	if err != nil {
		return nil, err
	}
	n, err := named(all, name, func(n *state.Network) (string, string) { return n.ID, n.Name })
	if err != nil {
		return nil, err
	}
	replicas, err := store.Settled("")
	if err != nil {
		return nil, err
	}
	return inspect.Network(n, replicas), nil
}

func (a *app) findVolume(name string) (any, error) {
	store, err := a.volumeStore()
	if err != nil {
		return nil, err
	}
	v, err := store.Get(name)
	if errors.Is(err, volume.ErrNotFound) {
		return nil, errNoObject
	}
	if err != nil {
		return nil, err
	}
	return inspect.Volume(v), nil
}

func (a *app) findImage(name string) (any, error) {
	images, err := a.imageStore()
	if err != nil {
		return nil, err
	}
	defer images.Close()
	if _, err := image.ParseRef(name); err != nil {
		return nil, errNoObject // no image can be called so
	}
	i, err := images.Get(name, "")
	if errors.Is(err, image.ErrNotFound) {
		return nil, errNoObject
	}
	if err != nil {
		return nil, err
	}
	return inspect.Image(i), nil
}
