package supervisor

import (
	"context"
	"fmt"
	"sync"

	"github.com/hashicorp/go-multierror"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
)

// isUp tells whether a container's processes are there, paused or not.
func isUp(s planner.Status) bool { return s == planner.StatusRunning || s == planner.StatusPaused }

// pauseReplicas freezes the selected replicas that are up, or lets them go on.
//
// The container is frozen by its cgroup, not the machine by its processors: its
// agent goes on to answer, so that a supervisor which is restarted can adopt the
// machine, logs are written, and containers that share it are left alone. As in
// docker, connections stay open and clocks go on.
func (s *Supervisor) pauseReplicas(ctx context.Context, p api.Pause) (api.Paused, error) {
	found, err := s.selected(p.Select)
	if err != nil {
		return api.Paused{}, err
	}
	faults := make([]error, len(found))
	done := make([]*api.ReplicaRef, len(found))
	var wg sync.WaitGroup
	for i, r := range found {
		if rec := s.snapshot(r); isUp(rec.Status) || p.Replica != "" {
			wg.Go(func() {
				if faults[i] = s.pause(ctx, r, !p.Resume); faults[i] == nil {
					done[i] = &api.ReplicaRef{ID: rec.ID, Name: rec.Name}
				}
			})
		}
	}
	wg.Wait()
	answer := api.Paused{Replicas: []api.ReplicaRef{}}
	for _, ref := range done {
		if ref != nil {
			answer.Replicas = append(answer.Replicas, *ref)
		}
	}
	var all *multierror.Error
	if all = multierror.Append(all, faults...); all.ErrorOrNil() != nil {
		answer.Error = presentable(all)
		answer.Error.Code = api.CodeConflict
	}
	return answer, nil
}

// pause freezes a replica, or lets it go on.
func (s *Supervisor) pause(ctx context.Context, r *replica, paused bool) error {
	h, rec, mute := s.asked(r)
	switch {
	case h == nil || !isUp(rec.Status):
		return fmt.Errorf("container %s is not running", rec.Name)
	case mute != nil:
		return mute
	}
	ask := h.client.Load().Unpause
	if paused {
		ask = h.client.Load().Pause
	}
	if err := ask(ctx, rec.ID); err != nil {
		return machineFault(err)
	}
	// The agent's events, which come by another stream, say so in their order: one
	// of before must not be taken for one of after.
	err := s.await(ctx, r, func() (bool, error) {
		return !isUp(r.rec.Status) || (r.rec.Status == planner.StatusPaused) == paused, nil
	})
	s.flush(r) // ps reads the record
	return err
}

// setPaused records that a replica stands still, or goes on.
func (s *Supervisor) setPaused(r *replica, paused bool) {
	from, to, action := planner.StatusPaused, planner.StatusRunning, "unpause"
	if paused {
		from, to, action = to, from, "pause"
	}
	s.mu.Lock()
	changed := r.rec.Status == from
	if changed {
		r.rec.Status = to
		r.markLocked()
		s.emit(replicaEvent(&r.rec, action, nil)) // told before anybody goes on
		s.notifyLocked(r)
	}
	s.mu.Unlock()
	if changed {
		s.persist(r)
	}
}
