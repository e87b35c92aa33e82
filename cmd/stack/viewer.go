package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/spec"
)

// viewer shows the output of a project's replicas to whoever is attached, and
// knows when there is nothing more to come.
type viewer struct {
	app      *app
	client   *api.Client
	project  *spec.Project
	services []string
	began    time.Time

	mu     sync.Mutex      // guards what follows
	live   map[string]bool // replicas that run or will be started
	done   bool            // the change is over: live only shrinks
	finish context.CancelFunc
}

// expect takes from the plan which replicas will run.
func (v *viewer) expect(plan *planner.Plan) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range plan.Steps {
		if s.Noun == planner.ReplicaNoun && s.Verb == planner.Start && slices.Contains(v.services, s.Service) {
			v.live[s.Name] = true
		}
	}
}

// names are the attached replicas as they are shown, sorted.
func (v *viewer) names() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var names []string
	for name := range v.live {
		names = append(names, displayName(v.project, name))
	}
	slices.Sort(names)
	return names
}

// settled says that the change is over: what runs now is all there will be.
func (v *viewer) settled() {
	replicas, err := v.client.Replicas(context.Background(), api.Select{Project: v.project.Name, Services: v.services})
	v.mu.Lock()
	defer v.mu.Unlock()
	if err == nil {
		clear(v.live)
		for _, r := range replicas {
			if r.Status == planner.StatusRunning || r.Status == planner.StatusRestarting || r.Status == planner.StatusPaused {
				v.live[r.Name] = true
			}
		}
	}
	v.done = true
	v.checkLocked()
}

func (v *viewer) checkLocked() {
	if v.done && len(v.live) == 0 && v.finish != nil {
		v.finish()
	}
}

// show prints log entries until no replica is left.
func (v *viewer) show(ctx context.Context) error {
	reading, cancel := context.WithCancel(ctx)
	defer cancel()
	v.mu.Lock()
	v.finish = cancel
	names := slices.Sorted(maps.Keys(v.live))
	v.mu.Unlock()
	for i, n := range names {
		names[i] = displayName(v.project, n)
	}
	p := render.NewLogPrinter(v.app.out, v.app.err, names)
	p.Colour = v.app.colour(v.app.out)

	query := api.LogQuery{
		Select: api.Select{Project: v.project.Name, Services: v.services},
		Follow: true, Hold: true, Since: v.began, Tail: -1,
	}
	for e, err := range v.client.Logs(reading, query) {
		if err != nil {
			if reading.Err() != nil {
				return ctx.Err()
			}
			return err
		}
		v.print(p, e)
	}
	return ctx.Err()
}

func (v *viewer) print(p *render.LogPrinter, e api.LogEntry) {
	name := displayName(v.project, e.Replica)
	if e.Mark == nil {
		p.Print(name, e.Stream == "stderr", "", []byte(e.Log))
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch m := e.Mark; {
	case m.Started:
		v.live[e.Replica] = true
	case m.Exited && m.Restarting:
		p.Note(name, fmt.Sprintf("exited with code %d (restarting)", m.ExitCode))
	case m.Exited:
		p.Note(name, fmt.Sprintf("exited with code %d", m.ExitCode))
		delete(v.live, e.Replica)
		v.checkLocked()
	case m.Recreated:
		p.Note(name, "has been recreated")
	}
}

// displayName is a replica's name as compose shows it with logs: without the
// project, unless the service names its container itself.
func displayName(p *spec.Project, replica string) string {
	if p == nil {
		return replica
	}
	return strings.TrimPrefix(strings.TrimPrefix(replica, p.Name+"-"), p.Name+"_")
}
