package supervisor

import (
	"context"
	"slices"
	"sync"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/state"
)

// wantsBoot tells whether a replica is to run after the host was started: what
// docker does when its daemon starts. One that a user stopped stays down, unless
// its policy is "always"; one that never ran is not started either.
func wantsBoot(rec *state.Replica) bool {
	return rec.Phase == state.Made && !rec.OneOff && !rec.Started.IsZero() &&
		(rec.Status == planner.StatusExited || rec.Status == planner.StatusRestarting) &&
		(rec.Restart.Policy == "always" || wantsRestart(rec))
}

// autostart starts what is to run after the host was started, and tells what of
// that runs now.
func (s *Supervisor) autostart(ctx context.Context, _ *nothing) (api.Autostarted, error) {
	var done api.Autostarted
	wanted := map[string]map[string]bool{}
	s.mu.Lock()
	for id, r := range s.replicas {
		// What policies take care of already is waited for as well.
		if wantsBoot(&r.rec) || r.rec.Status == planner.StatusRunning {
			if wanted[r.rec.Project] == nil {
				wanted[r.rec.Project] = map[string]bool{}
			}
			wanted[r.rec.Project][id] = true
		}
	}
	s.mu.Unlock()
	var wg sync.WaitGroup
	for project, ids := range wanted {
		wg.Go(func() { s.warn("starting what was lost", s.resume(ctx, project, ids), "project", project) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return done, context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ids := range wanted {
		for id := range ids {
			r := s.replicas[id]
			switch {
			case r == nil: // removed meanwhile
			case r.rec.Status == planner.StatusRunning:
				done.Running = append(done.Running, r.rec.Name)
			default:
				done.Failed = append(done.Failed, r.rec.Name)
			}
		}
	}
	slices.Sort(done.Running)
	slices.Sort(done.Failed)
	return done, nil
}

// resume starts the replicas of a project with these ids that are to run and do
// not, in the order of what they depend on. What could not be started is left to
// its policy, which tries again.
func (s *Supervisor) resume(ctx context.Context, project string, ids map[string]bool) error {
	release, err := s.turns.take(ctx, project, "autostart", func(string) {})
	if err != nil {
		return err
	}
	defer release()
	var st planner.State
	s.mu.Lock()
	wanted := map[string]bool{}
	for id, r := range s.replicas {
		if r.rec.Project == project {
			st.Replicas = append(st.Replicas, r.rec.Observed())
			wanted[id] = ids[id] && wantsBoot(&r.rec)
		}
	}
	s.mu.Unlock()
	plan, err := planner.Resume(st, project, func(r *planner.Replica) bool { return wanted[r.ID] })
	if err != nil {
		return err
	}
	c := &change{s: s, name: project, send: func(e api.Event) {
		if e.Kind == api.EventWarning {
			s.log.Warn("starting what was lost", "project", project, "what", e.Text)
		}
	}}
	err = c.run(ctx, plan)
	s.flushProject(project)
	if s.ctx.Err() != nil {
		return err
	}
	for id := range wanted {
		s.mu.Lock()
		r := s.replicas[id]
		again := wanted[id] && r != nil && r.rec.Status == planner.StatusExited && wantsRestart(&r.rec)
		s.mu.Unlock()
		if again {
			s.settleExit(r)
		}
	}
	return err
}
