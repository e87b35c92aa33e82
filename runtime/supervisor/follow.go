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

// source is one replica's log being read.
type source struct {
	rec    *state.Replica
	reader interface {
		Next() (logs.Record, error)
		Close() error
	} // nil without a log
	next  *logs.Record // read and not yet sent
	since time.Time    // what ended before is not told
}

// Logs sends the entries that q selects, merged by time as far as they are
// there, until there are no more; flush is called after each burst.
func (s *Supervisor) Logs(ctx context.Context, q api.LogQuery, send func(api.LogEntry) error, flush func()) error {
	sources := map[string]*source{}
	asked := time.Now()
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
				src = &source{}
				if first {
					src.since = cmp.Or(q.Since, asked)
				}
				switch log := r.log.(type) {
				case *logs.Recent:
					src.reader = log.Read(q.Since, q.Hold)
				case *logs.Writer:
					f := logs.Filter{Since: q.Since, Until: q.Until, Tail: -1, Ends: true}
					if first {
						f.Tail = q.Tail
					}
					if src.reader, err = logs.Open(s.opt.State.LogPath(rec.ID), f); err != nil {
						return err
					}
				}
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
		for _, id := range sortedKeys(sources) {
			src := sources[id]
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
		if err := src.tell(send); err != nil {
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

// tell sends what was read.
func (src *source) tell(send func(api.LogEntry) error) error {
	if end := src.next.End; end != nil {
		return src.mark(src.next.Time, *end, send)
	}
	return send(api.LogEntry{Replica: src.rec.Name, Service: src.rec.Service, Number: src.rec.Number, Record: *src.next})
}

// mark sends how a run ended, unless that was before anybody asked.
func (src *source) mark(at time.Time, end logs.End, send func(api.LogEntry) error) error {
	if end.Seen.Before(src.since) {
		return nil
	}
	return send(api.LogEntry{
		Replica: src.rec.Name, Service: src.rec.Service, Number: src.rec.Number, Record: logs.Record{Time: at},
		Mark: &api.LogMark{Exited: true, ExitCode: end.Code, Restarting: end.Restarting},
	})
}
