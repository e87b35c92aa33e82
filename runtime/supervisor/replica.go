package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/logs"
	"github.com/stackvm/stack/runtime/state"
)

// replica is one container, running or not.
type replica struct {
	op   opLock     // one start, stop or removal at a time
	ends sync.Mutex // one end of a run at a time; taken before save
	save sync.Mutex // one write of the record at a time
	open sync.Mutex // one change of what is open on the host for it at a time; taken before save
	log  output     // nil while half made, or if it cannot be opened

	// Guarded by Supervisor.mu.
	rec     state.Replica
	host    *hosted // nil without a machine
	bootErr error   // of a boot ahead of the start
	visits  int     // how many read or write its files, in a machine of no run too
	// stopping is how many stops and removals of a user are under way: no
	// policy restarts it.
	stopping int
	// pending ends the wait before a restart.
	pending context.CancelFunc
	gone    bool
	dirty   bool     // the record has changed since it was last written
	ports   []string // ids of what is published for it
	plugged bool     // its container has its place on the networks
	// listening is what its container listens on, of one with the host's network;
	// openDue is set while somebody is about to open and close ports for it.
	listening []wire.ListeningPort
	unlisted  int // how many more there are
	openDue   bool
	run       int // counts its starts
	// starting is set while the machine is asked to start it: how it ends before
	// the answer is kept in early.
	starting bool
	early    *wire.Event
	// ended is when, by the machine's clock, the last run ended whose end is noted.
	// A stop's answer and an event both tell of it, in any order.
	ended   time.Time
	changed chan struct{} // closed and replaced at every change
	lastRun time.Time     // start of the present or last run
	backoff time.Duration // before the next restart
	drained bool          // the logs of its last run are written
}

// output is where the lines of a replica go, and the ends of its runs: to a file, or
// with the logging driver none no further than to who is attached.
type output interface {
	Append(records ...*wire.LogRecord) error
	Last() uint64
	Begin() error
	End(at time.Time, e logs.End, seq uint64) error
	Settle() error
	Changed() <-chan struct{}
	Close() error
}

// opLock is a mutex that can be waited for with a context.
type opLock chan struct{}

func newOpLock() opLock { return make(opLock, 1) }

func (l opLock) lock(ctx context.Context) error {
	select {
	case l <- struct{}{}:
		return nil
	default:
	}
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l opLock) unlock() { <-l }

func newReplica(rec state.Replica) *replica {
	return &replica{op: newOpLock(), rec: rec, changed: make(chan struct{}), drained: true}
}

// loadReplicas brings replicas back, and clears up those half made or half
// removed.
func (s *Supervisor) loadReplicas(records []*state.Replica) {
	byID := map[string]*state.Replica{}
	for _, rec := range records {
		byID[rec.ID] = rec
	}
	for _, rec := range records {
		if rec.Phase == state.Making && rec.Replaces != "" && byID[rec.Replaces] == nil {
			// What it replaces is gone, its data is in this one's hands.
			if _, err := s.opt.State.Resolved(rec.ID); err == nil {
				rec.Phase = state.Made
				s.warn("recording a replica", s.opt.State.PutReplica(rec), "replica", rec.Name)
			}
		}
		r := newReplica(*rec)
		if !rec.Started.IsZero() { // an earlier supervisor's runs count as one
			r.run, r.lastRun = 1, rec.Started
		}
		r.drained = rec.Machine == ""
		r.listening = rec.HostPorts // until its agent tells
		s.replicas[rec.ID] = r
		if rec.Phase == state.Made {
			if err := s.openLog(r); err != nil {
				s.warn("opening a log", err, "replica", rec.Name)
			}
		}
	}
}

// openLog opens the log of a replica that has one.
func (s *Supervisor) openLog(r *replica) error {
	if r.log != nil {
		return nil
	}
	if r.rec.Logging.Driver == "none" {
		r.log = new(logs.Recent)
		return nil
	}
	rotation, err := s.opt.Rotation.With(r.rec.Logging.Options)
	if err != nil {
		return err
	}
	w, err := logs.OpenWriter(s.opt.State.LogPath(r.rec.ID), rotation)
	if err != nil {
		return err
	}
	r.log = w
	return nil
}

// update changes a replica's record and writes it down. The change is visible
// at once, on disk when update returns.
func (s *Supervisor) update(r *replica, change func(*state.Replica)) {
	s.mu.Lock()
	change(&r.rec)
	r.markLocked()
	s.notifyLocked(r)
	s.mu.Unlock()
	s.persist(r)
}

// updateLater is update for what an agent would tell the next supervisor as
// well: it is on disk a moment later, so that a sync of the host's disk holds up
// no start. flush makes sure.
func (s *Supervisor) updateLater(r *replica, change func(*state.Replica)) {
	s.mu.Lock()
	change(&r.rec)
	queued := r.markLocked()
	s.notifyLocked(r)
	s.mu.Unlock()
	s.flushLater(r, queued)
}

// markLocked notes that the record is to be written, before anybody is woken who
// flushes it, and reports whether that was so already.
func (r *replica) markLocked() (queued bool) {
	queued, r.dirty = r.dirty, true
	return queued
}

// flushLater flushes what was marked, unless somebody is about to.
func (s *Supervisor) flushLater(r *replica, queued bool) {
	if !queued && !s.spawn(func() { s.flush(r) }) {
		s.flush(r)
	}
}

// flush writes down what updateLater has changed.
func (s *Supervisor) flush(r *replica) {
	s.mu.Lock()
	dirty := r.dirty
	s.mu.Unlock()
	if dirty {
		s.persist(r)
	}
	r.save.Lock() // a write under way
	defer r.save.Unlock()
}

// persist writes down the record as it is.
func (s *Supervisor) persist(r *replica) {
	r.save.Lock()
	defer r.save.Unlock()
	s.mu.Lock()
	r.dirty = false
	rec, gone := clone(&r.rec), r.gone
	s.mu.Unlock()
	if gone {
		return
	}
	if err := s.opt.State.PutReplica(rec); err != nil {
		// The machine goes on; what is lost is what a restarted supervisor knows.
		s.log.Error("recording a replica", "replica", rec.Name, "err", err)
	}
}

// notifyLocked wakes who waits for a change of r.
func (s *Supervisor) notifyLocked(r *replica) {
	close(r.changed)
	r.changed = make(chan struct{})
	close(s.changed)
	s.changed = make(chan struct{})
}

func clone(rec *state.Replica) *state.Replica {
	c := *rec
	c.Endpoints = slices.Clone(rec.Endpoints)
	c.Published = slices.Clone(rec.Published)
	c.HostPorts = slices.Clone(rec.HostPorts)
	if rec.Health != nil {
		h := *rec.Health
		c.Health = &h
	}
	return &c
}

// snapshot is a copy of a replica's record.
func (s *Supervisor) snapshot(r *replica) *state.Replica {
	s.mu.Lock()
	defer s.mu.Unlock()
	return clone(&r.rec)
}

// await returns once check says so. check runs with s.mu held.
func (s *Supervisor) await(ctx context.Context, r *replica, check func() (bool, error)) error {
	for {
		s.mu.Lock()
		ok, err := check()
		changed := r.changed
		s.mu.Unlock()
		if ok || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// find returns the replica with this id, id's beginning or name.
func (s *Supervisor) find(name string) (*replica, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.replicas[name]; r != nil {
		return r, nil
	}
	var found *replica
	for id, r := range s.replicas {
		if r.rec.Name == name && r.rec.Phase == state.Made {
			return r, nil
		}
		if len(name) >= 4 && strings.HasPrefix(id, name) {
			if found != nil {
				return nil, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("no such container: %s (several ids begin so)", name)}
			}
			found = r
		}
	}
	if found == nil {
		return nil, &api.Error{Code: api.CodeNotFound, Message: "no such container: " + name}
	}
	return found, nil
}

// selected returns the replicas that a selection means, by service and number.
func (s *Supervisor) selected(sel api.Select) ([]*replica, error) {
	if sel.Replica != "" {
		r, err := s.find(sel.Replica)
		if err != nil {
			return nil, err
		}
		return []*replica{r}, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []*replica
	for _, r := range s.replicas {
		switch rec := &r.rec; {
		case rec.Phase != state.Made, sel.Project != "" && rec.Project != sel.Project, rec.OneOff && !sel.OneOff:
		case len(sel.Services) > 0 && !slices.Contains(sel.Services, rec.Service):
		case sel.Index > 0 && rec.Number != sel.Index:
		default:
			found = append(found, r)
		}
	}
	slices.SortFunc(found, func(a, b *replica) int {
		if a.rec.OneOff != b.rec.OneOff { // what is meant first, where one is meant
			return map[bool]int{false: -1, true: 1}[a.rec.OneOff]
		}
		return cmp.Or(cmp.Compare(a.rec.Service, b.rec.Service), cmp.Compare(a.rec.Number, b.rec.Number), cmp.Compare(a.rec.Name, b.rec.Name))
	})
	return found, nil
}

// running returns the one running replica that a selection means: of a service
// the one with the lowest number, unless an index is given.
func (s *Supervisor) running(sel api.Select) (*replica, *hosted, error) {
	found, err := s.selected(sel)
	if err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var stopped *replica
	for _, r := range found {
		if isUp(r.rec.Status) && r.host != nil {
			return r, r.host, r.muteLocked()
		}
		if stopped == nil {
			stopped = r
		}
	}
	switch {
	case sel.Replica != "" && stopped != nil:
		return nil, nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("container %s is not running", stopped.rec.Name)}
	case len(sel.Services) == 1 && sel.Index > 0:
		return nil, nil, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("service %q is not running container #%d", sel.Services[0], sel.Index)}
	case len(sel.Services) == 1:
		return nil, nil, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("service %q is not running", sel.Services[0])}
	}
	return nil, nil, &api.Error{Code: api.CodeNotFound, Message: "nothing is running"}
}

// asked returns a replica's machine, nil without one, its record, and why its
// agent cannot be asked anything now.
func (s *Supervisor) asked(r *replica) (h *hosted, rec *state.Replica, mute error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.host != nil {
		mute = r.muteLocked()
	}
	return r.host, clone(&r.rec), mute
}

// muteLocked is the error of a replica whose machine cannot be spoken to.
func (r *replica) muteLocked() error {
	if r.host.client.Load() != nil {
		return nil
	}
	return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("container %s cannot be reached: its machine is %s", r.rec.Name, cmp.Or(r.rec.Notice, "booting"))}
}

// byName returns a project's replica by its name, half made ones not.
func (s *Supervisor) byName(project, name string) *replica {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.replicas {
		if r.rec.Project == project && r.rec.Name == name && r.rec.Phase == state.Made {
			return r
		}
	}
	return nil
}

func notExist(err error) bool {
	return errors.Is(err, state.ErrNotFound) || errors.Is(err, fs.ErrNotExist)
}
