package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/image"
	"github.com/stackvm/stack/runtime/logs"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/runtime/supervisor"
	"github.com/stackvm/stack/runtime/volume"
	"github.com/stackvm/stack/spec"
)

// noImages is a store that does not exist yet.
type noImages struct{}

func (noImages) Get(string, string) (*image.Image, error) { return nil, image.ErrNotFound }

// planOffline is a change's plan without a supervisor: what is recorded is what there
// is.
func (a *app) planOffline(change api.Apply) (planner.Plan, error) {
	st, err := a.observe(change.Name, change.Project)
	if err != nil {
		return planner.Plan{}, err
	}
	plan, err := supervisor.Plan(st, change)
	for _, w := range plan.Warnings {
		fmt.Fprintln(a.err, "warning:", w)
	}
	return plan, err
}

// observe returns what is recorded of a project. It starts and makes nothing.
func (a *app) observe(name string, p *spec.Project) (planner.State, error) {
	dirs, err := a.dirs()
	if err != nil {
		return planner.State{}, err
	}
	var images supervisor.ImageFinder = noImages{}
	if _, err := os.Stat(imagesDir(dirs)); err == nil { // opening makes one
		store, err := a.imageStore()
		if err != nil {
			return planner.State{}, err
		}
		defer store.Close()
		images = store
	}
	return supervisor.ObserveFiles(state.Open(dirs.State), volume.Open(volumesDir(dirs), nil), images, name, p)
}

// logEntries reads logs from the supervisor, which knows what is still to come,
// or without one from the files.
func (a *app) logEntries(ctx context.Context, q api.LogQuery, replicas []*state.Replica) iter.Seq2[api.LogEntry, error] {
	c, err := a.dial(ctx)
	switch {
	case err == nil:
		return c.Logs(ctx, q)
	case !errors.Is(err, api.ErrNoSupervisor):
		return func(yield func(api.LogEntry, error) bool) { yield(api.LogEntry{}, err) }
	}
	return a.storedEntries(q, func(store *state.Store) ([]storedLog, error) {
		var all []storedLog
		for _, r := range replicas {
			all = append(all, storedLog{store.LogPath(r.ID), r.Name, r.Service, r.Number})
		}
		return all, nil
	})
}

// storedLog is the log of a replica in files.
type storedLog struct {
	path, replica, service string
	number                 int
}

// storedEntries reads logs from files, merged by time.
func (a *app) storedEntries(q api.LogQuery, list func(*state.Store) ([]storedLog, error)) iter.Seq2[api.LogEntry, error] {
	return func(yield func(api.LogEntry, error) bool) {
		var all []storedLog
		store, err := a.store()
		if err == nil {
			all, err = list(store)
		}
		if err != nil {
			yield(api.LogEntry{}, err)
			return
		}
		var readers []*logs.Reader
		defer func() {
			for _, r := range readers {
				r.Close()
			}
		}()
		var read []storedLog
		for _, l := range all {
			if q.Index != 0 && l.number != q.Index {
				continue
			}
			reader, err := logs.Open(l.path, logs.Filter{Since: q.Since, Until: q.Until, Tail: q.Tail})
			if err != nil {
				if errors.Is(err, os.ErrNotExist) {
					continue // it never ran
				}
				yield(api.LogEntry{}, err)
				return
			}
			readers, read = append(readers, reader), append(read, l)
		}
		for rec, err := range logs.Merge(readers) {
			if err != nil {
				yield(api.LogEntry{}, err)
				return
			}
			l := read[rec.Reader]
			if !yield(api.LogEntry{Replica: l.replica, Service: l.service, Number: l.number, Record: rec.Record}, nil) {
				return
			}
		}
	}
}
