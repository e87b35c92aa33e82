package supervisor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-multierror"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/engine"
	"github.com/stackvm/stack/runtime/image"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/runtime/volume"
	"github.com/stackvm/stack/spec"
)

// turns lets one change at a time have a project, in the order of asking.
type turns struct {
	mu      sync.Mutex
	waiting map[string][]*turn // by project; the first has it
	changed chan struct{}
}

type turn struct {
	what string // "up (pid 12)"
	mine chan struct{}
}

func (t *turns) init() { t.waiting = map[string][]*turn{}; t.changed = make(chan struct{}) }

// take waits for the project's turn; queued is told whom it waits for.
func (t *turns) take(ctx context.Context, project, what string, queued func(behind string)) (release func(), err error) {
	me := &turn{what: what, mine: make(chan struct{})}
	t.mu.Lock()
	line := append(t.waiting[project], me)
	t.waiting[project] = line
	behind := line[0]
	t.mu.Unlock()
	release = func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		line := t.waiting[project]
		first := line[0] == me
		line = slices.DeleteFunc(line, func(o *turn) bool { return o == me })
		switch {
		case len(line) == 0:
			delete(t.waiting, project)
		case first:
			close(line[0].mine)
			fallthrough
		default:
			t.waiting[project] = line
		}
		close(t.changed)
		t.changed = make(chan struct{})
	}
	if behind == me {
		return release, nil
	}
	queued(behind.what)
	select {
	case <-me.mine:
		return release, nil
	case <-ctx.Done():
		release()
		return nil, context.Cause(ctx)
	}
}

// busy names the projects that a change is under way for.
func (t *turns) busy() ([]string, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return sortedKeys(t.waiting), t.changed
}

// change is one command being carried out.
type change struct {
	s       *Supervisor
	project *spec.Project // nil: by what was recorded
	name    string
	send    func(api.Event)
	reg     api.Registry
	given   api.Providers
	proxies api.Proxies
	hostCA  bool
	timeout time.Duration // of --wait
	// parallel bounds the steps under way; below 1: no bound.
	parallel int
	began    time.Time

	mu     sync.Mutex
	booted []booted          // with a machine ahead of their start
	told   map[string]string // notices the client has been told, by container name
}

func (c *change) event(e api.Event) {
	e.At = time.Now()
	c.send(e)
}

func (c *change) warn(format string, args ...any) {
	c.event(api.Event{Kind: api.EventWarning, Text: fmt.Sprintf(format, args...)})
}

// report tells of an object that no step of a plan is about.
func (c *change) report(noun planner.Noun, name string, state api.StepState, text string, err error) {
	e := &api.StepEvent{Noun: noun, Name: name, State: state, Text: text}
	if err != nil {
		e.State, e.Error = api.StepFailed, presentable(err).Message
	}
	c.event(api.Event{Kind: api.EventStep, Step: e})
}

// Apply carries a command out and tells send what happens; the last event is
// EventDone. pid is the client's.
func (s *Supervisor) Apply(ctx context.Context, a api.Apply, pid int, send func(api.Event)) {
	c := &change{s: s, project: a.Project, name: a.Name, send: send, reg: a.Registry, given: a.Providers, proxies: a.Proxies, hostCA: a.HostCA, timeout: a.WaitTimeout, parallel: a.Parallel, began: time.Now()}
	if c.project != nil && c.name == "" {
		c.name = c.project.Name
	}
	err := errClosing
	if release, ok := s.hold(); ok {
		defer release()
		err = c.apply(ctx, a, pid)
		s.settleStorage(c.name)
		s.flushProject(c.name) // ps, which reads files, shows what was done
	}
	done := api.Event{Kind: api.EventDone}
	if err != nil {
		done.Error = presentable(err)
	}
	c.event(done)
}

func (s *Supervisor) flushProject(name string) {
	s.mu.Lock()
	var all []*replica
	for _, r := range s.replicas {
		if r.rec.Project == name {
			all = append(all, r)
		}
	}
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, r := range all {
		wg.Go(func() { s.flush(r) })
	}
	wg.Wait()
}

// presentable makes an error ready for the client: every fault on lines of its
// own.
func presentable(err error) *api.Error {
	if e, ok := errors.AsType[*api.Error](err); ok {
		return e
	}
	e := api.AsError(err)
	if one, ok := errors.AsType[*spec.Error](err); ok && err == error(one) { //nolint:errorlint // only one that nothing wraps
		e.Message, e.Hint = (&spec.Error{Pos: one.Pos, Err: one.Err}).Error(), one.Hint
	}
	all := []error{err}
	many, ok := errors.AsType[*multierror.Error](err)
	if ok {
		all = many.Errors
	}
	for _, one := range all {
		if taken, ok := errors.AsType[*portInUse](one); ok {
			e.InUse = append(e.InUse, fmt.Sprintf("%d/%s", taken.at.addr.Port(), taken.at.proto))
		}
	}
	if ok {
		lines := make([]string, len(many.Errors))
		for i, err := range many.Errors {
			lines[i] = err.Error()
		}
		e.Message = strings.Join(lines, "\n")
	}
	return e
}

func (c *change) apply(ctx context.Context, a api.Apply, pid int) error {
	if c.name == "" {
		return &api.Error{Code: api.CodeInvalid, Message: "the request names no project"}
	}
	if !a.DryRun { // which only looks
		release, err := c.s.turns.take(ctx, c.name, fmt.Sprintf("%s (pid %d)", a.Command, pid), func(behind string) {
			c.event(api.Event{Kind: api.EventQueued, Text: "waiting for " + behind})
		})
		if err != nil {
			return err
		}
		defer release()
	}
	if c.project != nil && !a.Adopt {
		if err := OwnCheckout(c.s.opt.State, c.project); err != nil {
			return err
		}
	}
	a.Name, a.Options.Now = c.name, c.began
	plan, err := c.plan(ctx, a)
	if err != nil {
		return &api.Error{Code: api.CodeInvalid, Message: presentable(err).Error()}
	}
	digest := planDigest(plan)
	for _, w := range plan.Warnings {
		c.event(api.Event{Kind: api.EventWarning, Text: w})
	}
	c.event(api.Event{Kind: api.EventPlan, Plan: &plan, Digest: digest})
	if a.DryRun {
		return nil
	}
	if plan.Destructive() && a.Confirm != api.ConfirmAll && a.Confirm != digest {
		return &api.Error{Code: api.CodeConfirm, Message: "the plan destroys data and was not confirmed"}
	}
	c.tellNotices()
	warnings, faults := c.s.preflight(c.project, plan)
	for _, w := range warnings {
		c.event(api.Event{Kind: api.EventWarning, Text: w})
	}
	faults = append(faults, c.resolveImages(ctx, plan)...)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(faults) > 0 {
		e := presentable(&multierror.Error{Errors: faults})
		if len(faults) == 1 {
			e = presentable(faults[0])
		}
		e.Code = api.CodeRefused
		return e
	}
	if (!plan.Empty() || a.Adopt) && (a.Command == api.Up || a.Command == api.Create) {
		if err := c.s.recordProject(c.project); err != nil {
			return err
		}
	}
	if starts(plan) && c.s.opt.Emulated != nil {
		if why := c.s.opt.Emulated(ctx); why != "" {
			c.warn("machines run by emulation, which is slow and no security boundary: %s (see stack doctor)", why)
		}
	}
	for _, name := range plan.Kept {
		c.report(planner.ReplicaNoun, name, api.StepDone, "Running", nil)
	}
	defer c.settleBooted()
	if err := c.run(ctx, plan); err != nil {
		return err
	}
	if a.Command == api.Down && len(a.Down.Services) == 0 {
		c.s.endForwards("its project went down", func(f *forward) bool { return f.rec.Project == c.name })
		return c.s.forgetProject(c.name)
	}
	return nil
}

func starts(plan planner.Plan) bool {
	return slices.ContainsFunc(plan.Steps, func(s planner.Step) bool { return s.Verb == planner.Start })
}

// tellNotices says what holds up replicas that run already.
func (c *change) tellNotices() {
	notices := map[string]string{}
	c.s.mu.Lock()
	for _, r := range c.s.replicas {
		if r.rec.Project == c.name && r.rec.Notices() != "" {
			notices[r.rec.Name] = r.rec.Notices()
		}
	}
	c.s.mu.Unlock()
	c.mu.Lock()
	c.told = notices
	c.mu.Unlock()
	for _, name := range sortedKeys(notices) {
		c.warn("container %s: %s", name, notices[name])
	}
}

// plan observes and asks the planner. Images whose outcome the plan depends on
// are pulled first.
func (c *change) plan(ctx context.Context, a api.Apply) (planner.Plan, error) {
	st, err := c.s.Observe(c.name, c.project)
	if err != nil {
		return planner.Plan{}, err
	}
	plan, err := Plan(st, a)
	if err != nil {
		return plan, err
	}
	if a.Stored != nil {
		if changes := planner.Changes(*a.Stored, plan); len(changes) > 0 {
			return plan, fmt.Errorf("the plan is stale: %s", strings.Join(changes, "; "))
		}
	}
	refresh := plan.Refresh()
	if refresh.Empty() || a.DryRun {
		return plan, nil
	}
	if slices.ContainsFunc(refresh.Steps, func(s planner.Step) bool { return s.Noun == planner.ProviderNoun }) {
		// A provider changes things: what can be refused is refused before.
		if _, faults := c.s.preflight(c.project, plan); len(faults) > 0 {
			return plan, &multierror.Error{Errors: faults}
		}
	}
	if err := c.run(ctx, refresh); err != nil {
		return plan, err
	}
	if st, err = c.s.Observe(c.name, c.project); err != nil {
		return plan, err
	}
	return Plan(st, a)
}

// Plan asks the planner for what a command needs, from what was observed.
func Plan(st planner.State, a api.Apply) (planner.Plan, error) {
	switch a.Command {
	case api.Up, api.Create:
		if a.Project == nil {
			return planner.Plan{}, errors.New("the request has no project")
		}
		a.Options.NoStart = a.Options.NoStart || a.Command == api.Create
		return planner.Diff(a.Project, st, a.Options)
	case api.Down:
		return planner.Down(st, a.Project, a.Name, a.Down)
	case api.Stop:
		return planner.StopAll(st, a.Project, a.Name, a.Selection)
	case api.Start:
		return planner.StartAll(st, a.Project, a.Name, a.Selection)
	case api.Restart:
		return planner.RestartAll(st, a.Project, a.Name, a.Selection)
	case api.Remove:
		return planner.RemoveAll(st, a.Project, a.Name, a.Selection)
	}
	return planner.Plan{}, fmt.Errorf("unknown command %q", a.Command)
}

func planDigest(p planner.Plan) string {
	text, err := json.Marshal(p.Steps)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// Observe returns what there is of a project.
func (s *Supervisor) Observe(name string, p *spec.Project) (planner.State, error) {
	var st planner.State
	s.mu.Lock()
	for _, r := range s.replicas {
		if r.rec.Project == name {
			st.Replicas = append(st.Replicas, r.rec.Observed())
		}
	}
	if o := s.storages[name]; o != nil {
		st.Storage = o.rec.Observed(o.host != nil)
	}
	for _, n := range s.networks {
		if n.rec.Project == name || n.rec.Project == "" || wanted(p, n.rec.Name) {
			st.Networks = append(st.Networks, planner.Network{ID: n.rec.ID, Name: n.rec.Name, Key: n.rec.Key, Hash: n.rec.Hash, Project: n.rec.Project})
		}
	}
	s.mu.Unlock()
	var err error
	if st.Providers, err = s.opt.State.Providers(name); err != nil {
		return st, err
	}
	return observeStores(st, name, p, s.opt.Volumes, s.opt.Images)
}

func wanted(p *spec.Project, network string) bool {
	if p != nil {
		for _, n := range p.Networks {
			if n.Name == network {
				return true
			}
		}
	}
	return false
}

// ImageFinder is what of an image store observing needs.
type ImageFinder interface {
	Get(ref, platform string) (*image.Image, error)
}

// ObserveFiles is Observe without a supervisor: it changes nothing and starts
// nothing.
func ObserveFiles(files *state.Store, volumes Volumes, images ImageFinder, name string, p *spec.Project) (planner.State, error) {
	st, err := files.Observe(name, nil)
	if err != nil {
		return st, err
	}
	if p != nil {
		all, err := files.Networks()
		if err != nil {
			return st, err
		}
		for _, n := range all {
			if n.Project != name && n.Project != "" && wanted(p, n.Name) {
				st.Networks = append(st.Networks, planner.Network{ID: n.ID, Name: n.Name, Key: n.Key, Hash: n.Hash, Project: n.Project})
			}
		}
	}
	return observeStores(st, name, p, volumes, images)
}

func observeStores(st planner.State, name string, p *spec.Project, volumes Volumes, images ImageFinder) (planner.State, error) {
	slices.SortFunc(st.Replicas, func(a, b planner.Replica) int { return strings.Compare(a.Name+a.ID, b.Name+b.ID) })
	slices.SortFunc(st.Networks, func(a, b planner.Network) int { return strings.Compare(a.Name+a.ID, b.Name+b.ID) })
	all, err := volumes.List()
	if err != nil {
		return st, err
	}
	byName := map[string]bool{}
	if p != nil {
		for _, v := range p.Volumes {
			byName[v.Name] = true
		}
	}
	for _, v := range all {
		if v.Project == name || byName[v.Name] {
			st.Volumes = append(st.Volumes, planner.Volume{Name: v.Name, Key: v.Key, Hash: v.Hash, Project: v.Project, Anonymous: v.Anonymous})
		}
	}
	st.Images = map[string]planner.Image{}
	look := func(ref, platform string) error {
		img, err := images.Get(ref, platform)
		switch {
		case errors.Is(err, image.ErrNotFound):
			return nil
		case err != nil:
			return err
		}
		st.Images[ref] = planner.Image{ID: img.ID, Pulled: img.Pulled}
		return nil
	}
	for _, r := range st.Replicas {
		if err := look(r.Image, ""); err != nil {
			return st, fmt.Errorf("container %s: %w", r.Name, err)
		}
	}
	if p == nil {
		return st, nil
	}
	for _, svc := range p.Services {
		for _, c := range svc.Containers() {
			if err := look(c.Image, c.Platform); err != nil {
				return st, &spec.Error{Pos: c.Keys["image"], Err: fmt.Errorf("service %q: %w", c.Name, err)}
			}
		}
		for _, m := range svc.MachineMounts() {
			if m.Type == spec.MountImage {
				if err := look(m.Source, svc.Platform); err != nil {
					return st, &spec.Error{Pos: m.Pos, Err: fmt.Errorf("service %q: %w", svc.Name, err)}
				}
			}
		}
	}
	return st, nil
}

func (s *Supervisor) recordProject(p *spec.Project) error {
	rec := &state.Project{
		Name: p.Name, NameFrom: p.NameFrom, WorkingDir: p.WorkingDir, Files: p.Files, EnvFiles: p.EnvFiles,
		Updated: time.Now(), Desired: p.Redact(),
	}
	if info, err := os.Stat(p.WorkingDir); err == nil {
		rec.DirInode = inode(info)
	}
	return s.opt.State.PutProject(rec)
}

// forgetProject removes the record of a project of which nothing is left.
func (s *Supervisor) forgetProject(name string) error {
	s.mu.Lock()
	for _, r := range s.replicas {
		if r.rec.Project == name {
			s.mu.Unlock()
			return nil
		}
	}
	s.mu.Unlock()
	return s.opt.State.DeleteProject(name)
}

// run has the engine carry a plan out.
func (c *change) run(ctx context.Context, plan planner.Plan) error {
	started := map[int]time.Time{}
	waitCtx := ctx
	if c.timeout > 0 {
		var cancel context.CancelFunc
		waitCtx, cancel = context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("timeout waiting for condition: %v have passed", c.timeout))
		defer cancel()
	}
	return engine.RunAtMost(waitCtx, c.parallel, plan, c.do, func(r engine.Report) {
		step := r.Step
		e := &api.StepEvent{ID: step.ID, Verb: step.Verb, Noun: step.Noun, Name: step.Name, State: api.StepState(r.State), Text: stepText(step, r.State)}
		if r.State == engine.Started {
			started[step.ID] = time.Now()
		} else if at, ok := started[step.ID]; ok {
			e.Elapsed = time.Since(at)
		}
		if r.Err != nil {
			e.Error, e.Text = r.Err.Error(), "Error"
			if r.Tolerated {
				e.Error, e.Text = "", "Skipped"
				c.warn("optional dependency %q failed to start: %v", step.Service, r.Err)
			}
		}
		c.event(api.Event{Kind: api.EventStep, Step: e})
	})
}

// stepText is what compose says of a step.
func stepText(s planner.Step, st engine.State) string {
	doing, done := s.Words()
	switch st {
	case engine.Started:
		return doing
	case engine.Done:
		return done
	case engine.Skipped:
		return "Skipped"
	}
	return "Error"
}

// settleBooted ends the machines that were booted ahead of a start that did not
// come.
func (c *change) settleBooted() {
	c.mu.Lock()
	booted := c.booted
	c.mu.Unlock()
	for _, b := range booted {
		c.s.mu.Lock()
		idle := !b.r.gone && b.r.run == b.run
		c.s.mu.Unlock()
		if idle {
			c.s.settleBoot(b.r)
		}
	}
}

// booted is a replica whose machine runs before it is started for the next time.
type booted struct {
	r   *replica
	run int // its starts until then
}

func (c *change) hasBooted(r *replica) {
	c.s.mu.Lock()
	run := r.run
	c.s.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.booted = append(c.booted, booted{r, run})
}

// do carries out one step.
func (c *change) do(ctx context.Context, step planner.Step) error {
	s := c.s
	ctx, cancel := context.WithCancel(ctx) // a closing supervisor waits for nothing
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	switch step.Noun {
	case planner.ImageNoun:
		if step.Verb == planner.Remove {
			return c.removeImage(step.Name)
		}
		return s.pull(ctx, c.pulled(step), c.reg, c.event)
	case planner.NetworkNoun:
		switch step.Verb {
		case planner.Create:
			return s.createNetwork(c.project, step.Name)
		case planner.Recreate:
			return s.recreateNetwork(c.project, step.Name)
		case planner.Remove:
			err := s.removeNetwork(step.Name)
			if errors.Is(err, errInUse) {
				c.warn("%v", err)
				return nil
			}
			return err
		}
	case planner.VolumeNoun:
		switch step.Verb {
		case planner.Create:
			return c.makeVolume(step.Name)
		case planner.Recreate:
			st := s.servedBy(step.Name)
			if err := s.removeVolume(step.Name); err != nil {
				return err
			}
			if err := c.makeVolume(step.Name); err != nil || st == nil {
				return err
			}
			return s.attachVolume(ctx, c.name, step.Name)
		case planner.Remove:
			return s.removeVolume(step.Name)
		case planner.Attach:
			return s.attachVolume(ctx, c.name, step.Name)
		case planner.Detach:
			return s.detachVolume(ctx, c.name, step.Name)
		}
	case planner.StorageNoun:
		switch step.Verb {
		case planner.Start:
			return s.startStorage(ctx, step.Name)
		case planner.Stop:
			return s.stopStorage(ctx, step.Name)
		case planner.Remove:
			return s.removeStorage(ctx, step.Name)
		}
	case planner.ProviderNoun:
		return c.providerStep(ctx, step)
	case planner.ReplicaNoun, planner.HookNoun:
		return c.replicaStep(ctx, step)
	}
	return fmt.Errorf("step %d: cannot %s a %s", step.ID, step.Verb, step.Noun)
}

func (c *change) makeVolume(name string) error {
	if c.project != nil {
		for _, v := range c.project.Volumes {
			if v.Name == name {
				labels := map[string]string{}
				for k, l := range v.Labels {
					labels[k] = l
				}
				project := c.name
				if v.Key == "" { // named by run -v: no project's, as with docker
					project = ""
				}
				return c.s.makeVolume(volume.Volume{Name: name, Key: v.Key, Project: project, Hash: v.Hash, Labels: labels, Options: v.DriverOpts, Bytes: v.SizeBytes})
			}
		}
	}
	return fmt.Errorf("volume %s: the project does not have it", name)
}

func (c *change) replicaStep(ctx context.Context, step planner.Step) error {
	s := c.s
	if step.Verb == planner.Create {
		return c.create(ctx, step, nil)
	}
	var r *replica
	if step.Replica != "" {
		s.mu.Lock()
		r = s.replicas[step.Replica]
		s.mu.Unlock()
	} else {
		name := step.Name
		if step.Noun == planner.HookNoun {
			name = step.Machine
		}
		r = s.byName(c.name, name)
	}
	if r == nil {
		if step.Verb == planner.Remove || step.Verb == planner.Stop {
			return nil // it went by itself: a one-off with --rm
		}
		return fmt.Errorf("container %s no longer exists", step.Name)
	}
	switch step.Verb {
	case planner.Run:
		return c.runHook(ctx, step, r)
	case planner.Start:
		return s.start(ctx, r)
	case planner.Stop:
		return s.stop(ctx, r, step.TimeoutSeconds)
	case planner.Restart:
		return s.restart(ctx, r, step.TimeoutSeconds)
	case planner.Remove:
		return s.removeReplica(ctx, r, step.Discard)
	case planner.Recreate:
		return c.create(ctx, step, r)
	case planner.Wait:
		return c.wait(ctx, step, r)
	}
	return fmt.Errorf("step %d: cannot %s a container", step.ID, step.Verb)
}

// create makes a replica, in place of old if that is given.
func (c *change) create(ctx context.Context, step planner.Step, old *replica) error {
	s := c.s
	if c.project == nil || c.project.Services[step.Service] == nil {
		return fmt.Errorf("container %s: the project has no service %q", step.Name, step.Service)
	}
	svc, provided, err := s.provided(c.project, c.project.Services[step.Service])
	if err != nil {
		return err
	}
	img, err := s.opt.Images.Get(svc.Image, svc.Platform)
	if err != nil {
		return &spec.Error{Pos: svc.Keys["image"], Err: fmt.Errorf("service %q: %w", svc.Name, err)}
	}
	m := making{project: c.project, service: svc, image: img, name: step.Name, number: step.Number, aliases: true, provided: provided, proxies: c.proxies, hostCA: c.hostCA}
	if err := s.sharing(c.project, svc, &m); err != nil {
		return err
	}
	if old != nil {
		was := s.snapshot(old)
		m.replaces = was.ID
		m.inherited = map[string]string{}
		for _, use := range was.Mounts {
			if use.Anonymous && slices.Contains(step.Inherit, use.Volume) {
				m.inherited[use.Target] = use.Volume
			}
		}
		if err := s.stop(ctx, old, step.TimeoutSeconds); err != nil {
			return err
		}
		defer func() {
			if r := s.byName(c.name, step.Name); r != nil {
				rec := s.snapshot(r)
				s.emit(replicaEvent(rec, "recreate", nil))
			}
		}()
	}
	r, err := s.makeReplica(ctx, m)
	if err != nil {
		return err
	}
	if old != nil {
		if err := s.removeReplica(ctx, old, step.Discard); err != nil {
			return err
		}
	}
	if step.Boot {
		c.hasBooted(r)
		s.prepare(r)
	}
	return nil
}

// wait returns when a replica is as the step asks, and fails when it can no
// longer be.
func (c *change) wait(ctx context.Context, step planner.Step, r *replica) error {
	s := c.s
	c.mu.Lock()
	told, notice := c.told[step.Name], ""
	c.mu.Unlock()
	for {
		paused, cancel := context.WithCancel(ctx)
		err := s.await(paused, r, func() (bool, error) {
			if notice = r.rec.Notices(); notice != told && notice != "" {
				cancel() // to say so without the lock
			}
			return c.settled(step, r)
		})
		cancel()
		if notice != told {
			if told = notice; notice != "" {
				c.warn("container %s: %s", step.Name, notice)
			}
			if errors.Is(err, context.Canceled) && ctx.Err() == nil {
				continue
			}
		}
		return err
	}
}

// settled tells, with s.mu held, whether a replica is as the step asks, and
// fails when it can no longer be.
func (c *change) settled(step planner.Step, r *replica) (bool, error) {
	rec := &r.rec
	ended := rec.Status == planner.StatusExited || rec.Status == planner.StatusDead
	switch {
	case r.gone:
		return false, fmt.Errorf("container %s was removed", rec.Name)
	case ended && r.pendingRestart():
		return false, nil
	}
	switch step.Condition {
	case spec.ConditionStarted:
		return rec.Status == planner.StatusRunning || ended, nil
	case spec.ConditionCompleted:
		if ended && rec.ExitCode != 0 {
			return false, fmt.Errorf("service %q didn't complete successfully: exit %d", step.Service, rec.ExitCode)
		}
		return ended, nil
	case spec.ConditionHealthy:
		switch {
		case ended:
			return false, fmt.Errorf("dependency failed to start: container %s exited (%d)", rec.Name, rec.ExitCode)
		case !rec.Probed:
			return false, fmt.Errorf("dependency failed to start: container %s has no healthcheck configured", rec.Name)
		case rec.Health != nil && rec.Health.Status == wire.HealthUnhealthy:
			return false, fmt.Errorf("dependency failed to start: container %s is unhealthy", rec.Name)
		}
		return rec.Health != nil && rec.Health.Status == wire.HealthHealthy, nil
	case planner.RunningOrHealthy:
		switch {
		case ended && rec.ExitCode != 0:
			return false, fmt.Errorf("container %s exited (%d)", rec.Name, rec.ExitCode)
		case ended:
			return true, nil
		case rec.Status != planner.StatusRunning:
			return false, nil
		case rec.Health != nil && rec.Health.Status == wire.HealthUnhealthy:
			return false, fmt.Errorf("container %s is unhealthy", rec.Name)
		}
		return !rec.Probed || rec.Health != nil && rec.Health.Status == wire.HealthHealthy, nil
	}
	return false, fmt.Errorf("step %d: unknown condition %q", step.ID, step.Condition)
}

// pendingRestart tells, with s.mu held, whether its policy is about to restart a
// replica that has just ended.
func (r *replica) pendingRestart() bool { return r.stopping == 0 && wantsRestart(&r.rec) }

// pulled is the image that a step pulls, with its place in the file.
func (c *change) pulled(step planner.Step) api.PullImage {
	p := api.PullImage{Reference: step.Name, Service: step.Service}
	if c.project != nil {
		for _, name := range sortedKeys(c.project.Services) {
			for _, of := range c.project.Services[name].Containers() {
				if of.Image == step.Name {
					p.Platform, p.Pos, p.Service = of.Platform, of.Keys["image"], name
					return p
				}
			}
		}
	}
	return p
}

func (s *Supervisor) pullOptions(p api.PullImage, reg api.Registry) image.PullOptions {
	opt := image.PullOptions{Platform: p.Platform}
	if s.opt.Release != nil {
		opt.Keychain, opt.Proxy = s.opt.Release(reg)
	}
	return opt
}

// pull fetches one image and tells of its layers.
func (s *Supervisor) pull(ctx context.Context, p api.PullImage, reg api.Registry, send func(api.Event)) error {
	opt := s.pullOptions(p, reg)
	last := map[string]time.Time{}
	opt.Progress = func(pr image.Progress) {
		if pr.Phase == image.Held || pr.Phase == image.Resumed {
			sendHold(p, pr, send)
			return
		}
		// A terminal redraws ten times a second: more is not seen.
		now := time.Now()
		if pr.Phase == image.Downloading && now.Sub(last[pr.Layer]) < 50*time.Millisecond {
			return
		}
		last[pr.Layer] = now
		send(api.Event{Kind: api.EventProgress, Progress: &api.Progress{
			Image: p.Reference, Layer: shortDigest(pr.Layer), Text: phaseText(pr.Phase), Current: pr.Current, Total: pr.Total,
		}})
	}
	img, err := s.opt.Images.Pull(ctx, p.Reference, opt)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		return &spec.Error{Pos: p.Pos, Err: err}
	}
	s.emit(objectEvent("image", "pull", img.ID, p.Reference, "", "", nil))
	return nil
}

// sendHold tells that a registry is given a pause, and its end. One that nobody
// would notice is not worth a line.
func sendHold(p api.PullImage, pr image.Progress, send func(api.Event)) {
	e := &api.Progress{Image: p.Reference, Text: "Pulling"}
	switch hold := pr.Hold; {
	case pr.Phase != image.Held:
	case hold.For < time.Second:
		return
	default:
		e.Text = "Waiting"
		e.Details = fmt.Sprintf("%s: %s answers %d %s", hold.For.Round(time.Second), hold.Host, hold.Status, http.StatusText(hold.Status))
	}
	send(api.Event{Kind: api.EventProgress, Progress: e})
}

func shortDigest(d string) string {
	_, hex, ok := strings.Cut(d, ":")
	if !ok {
		hex = d
	}
	return hex[:min(12, len(hex))]
}

func phaseText(p image.Phase) string {
	switch p {
	case image.Waiting:
		return "Waiting"
	case image.Downloading:
		return "Downloading"
	case image.Extracting:
		return "Extracting"
	case image.Done:
		return "Pull complete"
	case image.Exists:
		return "Already exists"
	}
	return string(p)
}

// Pull fetches images side by side.
func (s *Supervisor) Pull(ctx context.Context, p api.Pull, send func(api.Event)) {
	var plan planner.Plan
	images := map[string]api.PullImage{}
	for _, img := range p.Images {
		if _, ok := images[img.Reference]; ok {
			continue
		}
		images[img.Reference] = img
		plan.Steps = append(plan.Steps, planner.Step{ID: len(plan.Steps) + 1, Verb: planner.Pull, Noun: planner.ImageNoun, Name: img.Reference, Service: img.Service, Optional: p.IgnoreFailures})
	}
	c := &change{s: s, send: send, reg: p.Registry}
	err := engine.RunAtMost(ctx, p.Parallel, plan, func(ctx context.Context, step planner.Step) error {
		return s.pull(ctx, images[step.Name], p.Registry, c.event)
	}, func(r engine.Report) {
		e := &api.StepEvent{ID: r.Step.ID, Verb: r.Step.Verb, Noun: r.Step.Noun, Name: r.Step.Name, State: api.StepState(r.State), Text: stepText(r.Step, r.State)}
		if r.Err != nil {
			e.Error, e.Text = r.Err.Error(), "Error"
			if r.Tolerated {
				c.warn("%v", r.Err)
			}
		}
		c.event(api.Event{Kind: api.EventStep, Step: e})
	})
	done := api.Event{Kind: api.EventDone}
	if err != nil {
		done.Error = presentable(err)
	}
	c.event(done)
}

// startTimeout is how long a one-off may wait to be started by whoever had it
// made.
const startTimeout = time.Minute

// expire clears up a one-off that its maker has not started: it died.
func (s *Supervisor) expire(r *replica) {
	ctx, cancel := context.WithTimeout(s.ctx, startTimeout)
	defer cancel()
	err := s.await(ctx, r, func() (bool, error) { return r.gone || r.rec.Status != planner.StatusCreated, nil })
	if err == nil || s.ctx.Err() != nil {
		return
	}
	if rec := s.snapshot(r); rec.AutoRemove {
		s.warn("removing a container", s.removeReplica(s.ctx, r, anonymous(rec)), "container", rec.Name)
		return
	}
	s.settleBoot(r)
}

// awaitDependencies returns once what a service depends on is as its conditions
// say. An optional dependency that fails is a warning.
func (c *change) awaitDependencies(ctx context.Context, svc *spec.Service) error {
	for _, dep := range sortedKeys(svc.DependsOn) {
		how := svc.DependsOn[dep]
		replicas, err := c.s.selected(api.Select{Project: c.name, Services: []string{dep}})
		if err != nil {
			return err
		}
		for _, r := range replicas {
			step := planner.Step{Service: dep, Name: c.s.snapshot(r).Name, Condition: how.Condition}
			err := c.wait(ctx, step, r)
			if err != nil && !how.Required && ctx.Err() == nil {
				c.warn("optional dependency %q failed to start: %v", dep, err)
				continue
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// holder is the id of a running replica that has one of these volumes, of service
// if there is one, or empty.
func (s *Supervisor) holder(volumes map[string]bool, service string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, own := "", false
	for id, r := range s.replicas {
		has := slices.ContainsFunc(r.rec.MachineMounts(), func(m state.MountUse) bool { return m.Volume != "" && volumes[m.Volume] })
		if !has || r.rec.Status != planner.StatusRunning || r.host == nil {
			continue
		}
		if is := r.rec.Service == service; found == "" || is && !own || is == own && id < found {
			found, own = id, is
		}
	}
	return found
}

// Run makes a one-off replica. Where a running replica has a volume that it uses,
// the one-off gets its container in that replica's machine.
func (s *Supervisor) Run(ctx context.Context, req api.Run, send func(api.Event)) {
	c := &change{s: s, project: req.Project, send: send, reg: req.Registry, proxies: req.Proxies, hostCA: req.HostCA, began: time.Now()}
	err := func() error {
		if req.Project == nil || req.Set == nil {
			return &api.Error{Code: api.CodeInvalid, Message: "the request has no project or service"}
		}
		c.name = req.Project.Name
		svc, provided, err := s.provided(req.Project, req.Set)
		if err != nil {
			return err
		}
		if svc.Provider != nil {
			return &spec.Error{Pos: svc.Keys["provider"], Err: fmt.Errorf("service %q has a provider: it is no container that could be run", svc.Name)}
		}
		if !req.NoDeps {
			if err := c.awaitDependencies(ctx, svc); err != nil {
				return err
			}
		}
		img, err := s.opt.Images.Get(svc.Image, svc.Platform)
		policy := req.Pull
		if policy == "" || policy == "policy" {
			policy = svc.PullPolicy
		}
		var have *planner.Image
		switch {
		case err == nil:
			have = &planner.Image{ID: img.ID, Pulled: img.Pulled}
		case !errors.Is(err, image.ErrNotFound):
			return err
		}
		if planner.Fetches(policy, have, c.began) {
			if err = s.pull(ctx, api.PullImage{Reference: svc.Image, Platform: svc.Platform, Service: svc.Name, Pos: svc.Keys["image"]}, req.Registry, c.event); err == nil {
				img, err = s.opt.Images.Get(svc.Image, svc.Platform)
			}
		} else if have == nil {
			return &spec.Error{Pos: svc.Keys["image"], Err: err}
		}
		if err != nil {
			return err
		}
		release, err := s.turns.take(ctx, c.name, "run", func(behind string) {
			c.event(api.Event{Kind: api.EventQueued, Text: "waiting for " + behind})
		})
		if err != nil {
			return err
		}
		defer release()
		for _, key := range sortedKeys(svc.Networks) {
			if n := req.Project.Networks[key]; n != nil && !n.External && s.network(n.Name) == nil {
				c.report(planner.NetworkNoun, n.Name, api.StepStarted, "Creating", nil)
				err := s.createNetwork(req.Project, n.Name)
				c.report(planner.NetworkNoun, n.Name, api.StepDone, "Created", err)
				if err != nil {
					return err
				}
			}
		}
		volumes := map[string]bool{}
		for _, m := range svc.Mounts {
			if m.Type != spec.MountVolume || m.Source == "" {
				continue
			}
			v := req.Project.Volumes[m.Source]
			if v == nil {
				continue
			}
			volumes[v.Name] = true
			if !v.External {
				if _, err := s.opt.Volumes.Get(v.Name); errors.Is(err, volume.ErrNotFound) {
					c.report(planner.VolumeNoun, v.Name, api.StepStarted, "Creating", nil)
					err := c.makeVolume(v.Name)
					c.report(planner.VolumeNoun, v.Name, api.StepDone, "Created", err)
					if err != nil {
						return err
					}
				}
			}
		}
		if faults := checkMounts(svc); len(faults) > 0 {
			return faults[0]
		}
		m := making{project: req.Project, service: svc, image: img, name: req.Name, slug: state.NewID(), autoRemove: req.AutoRemove, aliases: req.UseAliases, provided: provided, proxies: req.Proxies, hostCA: req.HostCA}
		if err := s.sharing(req.Project, svc, &m); err != nil {
			return err
		}
		if m.name == "" {
			m.name = fmt.Sprintf("%s-%s-run-%s", req.Project.Name, svc.Name, m.slug[:12])
		}
		if held := s.nameHolder(m.name, ""); held != "" {
			return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("container name %q is already in use by %s", m.name, held), Hint: "give this one another --name, or remove that container"}
		}
		if m.guests == "" {
			m.guests = s.holder(volumes, req.Service)
		}
		c.report(planner.ReplicaNoun, m.name, api.StepStarted, "Creating", nil)
		r, err := s.makeReplica(ctx, m)
		c.report(planner.ReplicaNoun, m.name, api.StepDone, "Created", err)
		if err != nil {
			return err
		}
		rec := s.snapshot(r)
		c.event(api.Event{Kind: api.EventCreated, Replica: &api.ReplicaRef{ID: rec.ID, Name: rec.Name}})
		s.prepare(r)
		s.spawn(func() { s.expire(r) })
		return nil
	}()
	done := api.Event{Kind: api.EventDone}
	if err != nil {
		done.Error = presentable(err)
	}
	c.event(done)
}
