package supervisor

import (
	"cmp"
	"context"
	"errors"
	"io"
	"reflect"
	"slices"
	"time"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/logs"
	"github.com/stackvm/stack/runtime/state"
)

// ending is how one run of a replica ended.
type ending struct {
	run        int
	code       int
	at         time.Time // by the machine's clock, as its log records
	seen       time.Time // by the host's
	restarting bool
}

const (
	keptEndings = 32
	// A machine that goes on after its container's end has no last log record;
	// what was printed before the end has arrived by then.
	drainTime = 300 * time.Millisecond
)

// source is one replica's log being read.
type source struct {
	s      *Supervisor
	r      *replica
	rec    *state.Replica
	reader *logs.Reader
	next   *logs.Record // read and not yet sent
	marked int          // the last run whose end was told
}

// Logs sends the entries that q selects, merged by time as far as they are
// there, until there are no more; flush is called after each burst.
func (s *Supervisor) Logs(ctx context.Context, q api.LogQuery, send func(api.LogEntry) error, flush func()) error {
	sources := map[string]*source{}
	defer func() {
		for _, src := range sources {
			if src.reader != nil {
				src.reader.Close()
			}
		}
	}()
	for first := true; ; first = false {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		found, err := s.selected(q.Select)
		if err != nil {
			if !first { // removed meanwhile
				return nil
			}
			return err
		}
		wake := []<-chan struct{}{ctx.Done(), changed, s.ctx.Done()}
		present := map[string]bool{}
		live := false
		for _, r := range found {
			rec := s.snapshot(r)
			present[rec.ID] = true
			src := sources[rec.ID]
			if src == nil {
				src = &source{s: s, r: r}
				if r.log != nil {
					f := logs.Filter{Since: q.Since, Until: q.Until, Tail: -1}
					if first {
						f.Tail = q.Tail
					}
					if src.reader, err = logs.Open(s.opt.State.LogPath(rec.ID), f); err != nil {
						return err
					}
				}
				s.mu.Lock()
				for _, e := range r.endings {
					if first && e.seen.Before(cmp.Or(q.Since, time.Now())) {
						src.marked = e.run // it ended before anybody asked
					}
				}
				s.mu.Unlock()
				sources[rec.ID] = src
			}
			src.rec = rec
			if r.log != nil {
				wake = append(wake, r.log.Changed()) // before reading: nothing is missed
			}
			live = live || s.isLive(r)
		}
		// What is removed is read to its end first: its files are open.
		if err := merge(sources, send); err != nil {
			return err
		}
		var soon <-chan time.Time // when an end can be told
		for _, id := range sortedKeys(sources) {
			src := sources[id]
			wait, err := src.marks(time.Time{}, send)
			if err != nil {
				return err
			}
			if wait > 0 && soon == nil {
				soon = time.After(wait)
			}
			if !present[id] {
				if src.reader != nil {
					src.reader.Close()
				}
				delete(sources, id)
			}
		}
		flush()
		if !q.Follow || !live && !q.Hold || !q.Until.IsZero() && time.Now().After(q.Until) {
			return nil
		}
		var cases []reflect.SelectCase
		for _, ch := range wake {
			cases = append(cases, reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(ch)})
		}
		if soon != nil {
			cases = append(cases, reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(soon)})
		}
		if i, _, _ := reflect.Select(cases); i == 0 || i == 2 {
			return nil
		}
	}
}

// isLive tells whether more may come from a replica: it runs, will run, or has
// not been drained.
func (s *Supervisor) isLive(r *replica) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.rec.Status {
	case planner.StatusRunning, planner.StatusRestarting, planner.StatusPaused:
		return true
	}
	return !r.drained || r.host != nil
}

// merge sends what all sources have, the earliest first.
func merge(sources map[string]*source, send func(api.LogEntry) error) error {
	var open []*source
	fill := func(src *source) (bool, error) {
		rec, err := src.reader.Next()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		src.next = &rec
		return true, nil
	}
	for _, id := range sortedKeys(sources) {
		src := sources[id]
		if src.reader == nil {
			continue
		}
		more, err := fill(src)
		if err != nil {
			return err
		}
		if more {
			open = append(open, src)
		}
	}
	for len(open) > 0 {
		i := 0
		for j, src := range open {
			if src.next.Time.Before(open[i].next.Time) {
				i = j
			}
		}
		src := open[i]
		if _, err := src.marks(src.next.Time, send); err != nil {
			return err
		}
		if err := send(api.LogEntry{Replica: src.rec.Name, Service: src.rec.Service, Number: src.rec.Number, Record: *src.next}); err != nil {
			return err
		}
		more, err := fill(src)
		if err != nil {
			return err
		}
		if !more {
			open = slices.Delete(open, i, i+1)
		}
	}
	return nil
}

// marks tells of the ends of runs that nothing printed before can follow: those
// before the record of time next, or, with none at hand, those whose machine has
// ended or that are some time ago. It returns how long until there is another.
func (src *source) marks(next time.Time, send func(api.LogEntry) error) (wait time.Duration, err error) {
	src.s.mu.Lock()
	rec, drained := clone(&src.r.rec), src.r.drained
	var due []ending
	for _, e := range src.r.endings {
		left := drainTime - time.Since(e.seen)
		switch {
		case e.run <= src.marked:
		case !next.IsZero() && e.at.Before(next), next.IsZero() && (drained || left <= 0):
			due = append(due, e)
		case next.IsZero() && wait == 0:
			wait = left
		}
	}
	src.s.mu.Unlock()
	for _, e := range due {
		src.marked = e.run
		if err := send(api.LogEntry{
			Replica: rec.Name, Service: rec.Service, Number: rec.Number, Record: logs.Record{Time: e.at},
			Mark: &api.LogMark{Exited: true, ExitCode: e.code, Restarting: e.restarting},
		}); err != nil {
			return wait, err
		}
	}
	return wait, nil
}
