package main

import (
	"context"
	"fmt"
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
	attached []string // services whose output is shown
	watched  []string // services whose end is the end of the command
	began    time.Time
	follow   following

	abort chan struct{} // closed at the end of a container that is to end all

	mu       sync.Mutex      // guards what follows
	starting []string        // attached replicas that the change starts
	live     map[string]bool // watched replicas that run or will be started, or whose end has not been read
	aborted  bool
	first    int            // status of the container that ended all
	codes    map[string]int // by service: status of the first of its containers that ended
	done     bool           // the change is over: live only shrinks
	finish   context.CancelFunc
	printer  *render.LogPrinter // nil until output is shown
	early    []*api.Output      // of hooks, until then
}

func newViewer(a *app, c *api.Client, p *spec.Project, u *upFlags, began time.Time) (*viewer, error) {
	shown, err := attached(p, u.opt.Services, u.show)
	if err != nil {
		return nil, err
	}
	if s := u.show.exitCodeFrom; s != "" && p.Services[s] == nil {
		return nil, fmt.Errorf("no such service: %s", s)
	}
	return &viewer{
		app: a, client: c, project: p, attached: shown, watched: watched(p, u.opt.Services, shown, u.show), began: began, follow: u.show,
		abort: make(chan struct{}), live: map[string]bool{}, codes: map[string]int{},
	}, nil
}

// expect takes from the plan which replicas will run.
func (v *viewer) expect(plan *planner.Plan) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range plan.Steps {
		if s.Noun != planner.ReplicaNoun || s.Verb != planner.Start {
			continue
		}
		if slices.Contains(v.watched, s.Service) {
			v.live[s.Name] = true
		}
		if slices.Contains(v.attached, s.Service) {
			v.starting = append(v.starting, s.Name)
		}
	}
}

// runs tells whether a replica has a machine, or will have one again.
func runs(s planner.Status) bool {
	return s == planner.StatusRunning || s == planner.StatusRestarting || s == planner.StatusPaused
}

// names are the attached replicas that run or will, as they are shown, sorted.
func (v *viewer) names(ctx context.Context) []string {
	replicas, err := v.client.Replicas(ctx, api.Select{Project: v.project.Name, Services: v.attached})
	v.mu.Lock()
	names := slices.Clone(v.starting)
	v.mu.Unlock()
	if err == nil && len(v.attached) > 0 { // an error is shown when the logs are asked for
		for _, r := range replicas {
			if runs(r.Status) {
				names = append(names, r.Name)
			}
		}
	}
	for i, n := range names {
		names[i] = displayName(v.project.Name, n)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// settled says that the change is over: what runs now is all there will be. What
// has ended since the command began stays until its end has been read.
func (v *viewer) settled(ctx context.Context) {
	replicas, err := v.client.Replicas(ctx, api.Select{Project: v.project.Name, Services: v.watched})
	v.mu.Lock()
	defer v.mu.Unlock()
	if err == nil {
		expected := v.live
		v.live = map[string]bool{}
		for _, r := range replicas {
			if len(v.watched) > 0 && (runs(r.Status) || expected[r.Name] && r.Status != planner.StatusCreated && r.Finished.After(v.began)) {
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
	p := render.NewLogPrinter(v.app.out, v.app.err, v.names(ctx))
	p.Colour = !v.follow.noColour && v.app.colour(v.app.out)
	p.NoPrefix = v.follow.noPrefix
	v.mu.Lock()
	v.printer = p
	for _, o := range v.early {
		v.printLocked(o)
	}
	v.finish = cancel
	v.checkLocked()
	v.mu.Unlock()

	services := slices.Concat(v.attached, v.watched)
	if v.follow.exitCodeFrom != "" {
		services = append(services, v.follow.exitCodeFrom)
	}
	slices.Sort(services)
	query := api.LogQuery{
		Select: api.Select{Project: v.project.Name, Services: slices.Compact(services)},
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

// output shows what a hook of an attached service wrote, which no log keeps.
func (v *viewer) output(o *api.Output) {
	if !slices.Contains(v.attached, o.Service) {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.printer == nil {
		v.early = append(v.early, o)
		return
	}
	v.printLocked(o)
}

func (v *viewer) printLocked(o *api.Output) {
	v.printer.Print(o.Source, false, "", []byte(o.Line))
}

func (v *viewer) print(p *render.LogPrinter, e api.LogEntry) {
	name := displayName(v.project.Name, e.Replica)
	shown := slices.Contains(v.attached, e.Service)
	if e.Mark == nil {
		if !shown {
			return
		}
		stamp := ""
		if v.follow.timestamps {
			stamp = e.Time.UTC().Format(time.RFC3339Nano)
		}
		p.Print(name, e.Stream == "stderr", stamp, []byte(e.Log))
		return
	}
	m := e.Mark
	if !m.Exited {
		return
	}
	if shown {
		text := fmt.Sprintf("exited with code %d", m.ExitCode)
		if m.Restarting {
			text += " (restarting)"
		}
		p.Note(name, text)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, known := v.codes[e.Service]; !known {
		v.codes[e.Service] = m.ExitCode
	}
	if !slices.Contains(v.watched, e.Service) {
		return
	}
	if !v.aborted && (v.follow.onExit || v.follow.onFailure && m.ExitCode != 0) {
		v.aborted, v.first = true, m.ExitCode
		close(v.abort)
	}
	if !m.Restarting {
		delete(v.live, e.Replica)
		v.checkLocked()
	}
}

// status is the exit status after an abort: of the service that was named, else
// of the container that caused it.
func (v *viewer) status(ctx context.Context) error {
	v.mu.Lock()
	code := v.first
	from := v.follow.exitCodeFrom
	named, known := v.codes[from]
	v.mu.Unlock()
	if known {
		code = named
	} else if from != "" { // its end was not read
		replicas, err := v.client.Replicas(ctx, api.Select{Project: v.project.Name, Services: []string{from}})
		if err != nil {
			return err
		}
		if len(replicas) > 0 {
			code = replicas[0].ExitCode
		}
	}
	if code == 0 {
		return nil
	}
	return exitStatus(code)
}

// displayName is a replica's name as compose shows it with logs: without the
// project, unless the service names its container itself.
func displayName(project, replica string) string {
	return strings.TrimPrefix(strings.TrimPrefix(replica, project+"-"), project+"_")
}
