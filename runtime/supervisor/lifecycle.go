package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/image"
	"github.com/stackvm/stack/runtime/logs"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/runtime/volume"
	"github.com/stackvm/stack/spec"
)

const (
	stopGrace = 10 * time.Second // compose's default stop_grace_period

	// Docker's back-off between restarts.
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = time.Minute
	backoffReset = 10 * time.Second
)

// making is what a new replica is made from.
type making struct {
	project    *spec.Project
	service    *spec.Service
	image      *image.Image
	name       string
	number     int
	slug       string // of a one-off, 64 hex digits
	autoRemove bool
	aliases    bool              // its service's names lead to it
	inherited  map[string]string // anonymous volumes taken over, by target
	replaces   string
	guests     string            // id of the replica whose machine it shares
	provided   map[string]string // by provider: the digest of the variables it gave
	proxies    api.Proxies
	hostCA     bool // it trusts the host's authorities
}

// makeReplica makes a replica: record, disks, addresses. Its machine is not
// booted.
func (s *Supervisor) makeReplica(ctx context.Context, m making) (_ *replica, err error) {
	rec, err := s.newRecord(m.project, m.service, m.image, m.name, m.number)
	if err != nil {
		return nil, err
	}
	rec.OneOff, rec.AutoRemove, rec.Replaces, rec.Guests = m.slug != "", m.autoRemove, m.replaces, m.guests
	rec.Provided = m.provided
	if m.slug != "" {
		rec.Labels[label+"oneoff"], rec.Labels[label+"slug"] = "True", m.slug
	}
	if m.replaces != "" {
		rec.Labels[label+"replace"] = m.replaces
	}
	borrowed, err := s.borrowed(m.project, m.service)
	if err != nil {
		return nil, err
	}
	hookImages, err := s.hookImages(m.service)
	if err != nil {
		return nil, err
	}
	for i, h := range m.service.PreStart {
		rec.PreStart = append(rec.PreStart, state.HookUse{ImageID: hookImages[i].ID, PerReplica: h.PerReplica})
	}
	if rec.Mounts, err = mountsOf(m.project, m.service, m.image.Config, m.inherited, borrowed); err != nil {
		return nil, err
	}
	if rec.HookMounts, err = hookMounts(m.project, m.service); err != nil {
		return nil, err
	}
	if m.slug == "" {
		if rec.Group = s.groupOf(m.project, m.service, m.number); rec.Group != "" {
			rec.GroupBinds = groupBinds(m.project, m.service)
		}
	}
	r, err := s.pin(rec)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.forget(r, m.inherited)
		}
	}()
	makers := []*spec.Service{m.service}
	if rec.Group != "" { // its machine may boot for another's sake
		makers = livingWith(m.project, m.service)
	}
	for _, svc := range makers {
		if err := makeBindSources(svc); err != nil {
			return nil, err
		}
	}
	for i, use := range rec.Mounts {
		if use.Anonymous && m.inherited[use.Target] == "" {
			v := volume.Volume{Name: use.Volume, Project: m.project.Name, Anonymous: true}
			if i < len(m.service.Mounts) { // the others are the image's
				v.Labels = maps.Clone(m.service.Mounts[i].Labels)
			}
			if err := s.makeVolume(v); err != nil {
				return nil, err
			}
		}
	}
	if rec.Endpoints, err = s.endpoints(m.project, m.service, rec, m.aliases); err != nil {
		return nil, err
	}
	container, err := s.containerOf(m, rec)
	if err != nil {
		return nil, err
	}
	rec.Probed = container.Health != nil
	preStart, err := s.hookContainers(m, hookImages, rec, &container)
	if err != nil {
		return nil, err
	}
	if err := s.opt.Scratch.Clone(s.scratchPath(rec.ID), rec.ScratchBytes); err != nil {
		return nil, fmt.Errorf("container %s: making its disk: %w", rec.Name, err)
	}
	if err := s.opt.State.PutResolved(rec.ID, &state.Resolved{
		Container: container, PreStart: preStart, PostStart: hookExecs(m.service.PostStart), PreStop: hookExecs(m.service.PreStop),
	}); err != nil {
		return nil, err
	}
	s.mu.Lock()
	r.rec = *rec
	s.mu.Unlock()
	if err := s.openLog(r); err != nil {
		return nil, err
	}
	s.update(r, func(rec *state.Replica) { rec.Phase = state.Made })
	s.emit(replicaEvent(rec, "create", nil))
	return r, nil
}

// makeBindSources makes the host folders that a service binds and that are not
// there.
func makeBindSources(svc *spec.Service) error {
	for _, mount := range svc.MachineMounts() {
		if mount.Type != spec.MountBind || !mount.CreateHostPath {
			continue
		}
		// What is there may be a file.
		if _, err := os.Stat(mount.Source); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := makeSharedDir(mount.Source); err != nil {
			return &spec.Error{Pos: mount.Pos, Err: fmt.Errorf("service %q: bind source: %w", svc.Name, err)}
		}
	}
	return nil
}

// makeSharedDir makes a directory and the missing ones above it with the mode that an
// engine gives them, for a container's users to look into: the umask is for our own files.
func makeSharedDir(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeSharedDir(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil // another service has it made
		}
		return err
	}
	return os.Chmod(dir, 0o755)
}

// forget removes a replica that has no machine, with everything of its own.
// Its anonymous volumes stay unless keep is not nil and does not name them.
func (s *Supervisor) forget(r *replica, keep map[string]string) {
	rec := s.snapshot(r)
	if rec.Phase == state.Making {
		// Half made: nothing can be in the volumes that were made for it.
		for _, m := range rec.Mounts {
			if m.Anonymous && keep[m.Target] != m.Volume {
				if err := s.opt.Volumes.Remove(m.Volume); err != nil && !errors.Is(err, volume.ErrNotFound) {
					s.warn("removing a volume", err)
				}
			}
		}
	}
	s.mu.Lock()
	r.gone = true
	delete(s.replicas, rec.ID)
	s.notifyLocked(r)
	s.mu.Unlock()
	r.save.Lock() // a write under way would bring it back
	defer r.save.Unlock()
	if r.log != nil {
		r.log.Close()
		s.keepLog(rec)
	}
	s.release(rec.Endpoints, rec.Name)
	s.warn("removing a container", s.opt.State.DeleteReplica(rec.ID), "container", rec.Name)
}

// keepLog keeps the log of a replica that is removed, as far as there is room
// for it. A one-off that removes itself leaves nothing.
func (s *Supervisor) keepLog(rec *state.Replica) {
	if s.opt.RemovedLogs == 0 || rec.AutoRemove {
		return
	}
	s.keptMu.Lock()
	defer s.keptMu.Unlock()
	err := s.opt.State.KeepLog(rec, time.Now())
	if err == nil {
		err = s.opt.State.PruneLogs(s.opt.RemovedLogs)
	}
	s.warn("keeping a log", err, "container", rec.Name)
}

// removeReplica removes a replica, which must not run, and the volumes named in
// discard.
func (s *Supervisor) removeReplica(ctx context.Context, r *replica, discard []string) error {
	if err := r.op.lock(ctx); err != nil {
		return err
	}
	defer r.op.unlock()
	s.mu.Lock()
	rec, host := clone(&r.rec), r.host
	s.mu.Unlock()
	if host != nil {
		if isUp(rec.Status) {
			return fmt.Errorf("container %s is running: stop it first", rec.Name)
		}
		if err := s.endHost(ctx, r, host, 0); err != nil { // booted, never started
			return err
		}
	}
	s.update(r, func(rec *state.Replica) { rec.Phase = state.Removing })
	s.forget(r, nil)
	for _, name := range discard {
		if err := s.opt.Volumes.Remove(name); err != nil && !errors.Is(err, volume.ErrNotFound) {
			return err
		}
		s.emit(objectEvent("volume", "destroy", name, name, rec.Project, "", nil))
	}
	s.emit(replicaEvent(rec, "destroy", nil))
	return nil
}

// prepare boots a replica's machine ahead of its start; it returns at once.
func (s *Supervisor) prepare(r *replica) {
	r.op <- struct{}{} // nobody else knows r yet
	if !s.spawn(func() {
		defer r.op.unlock()
		if err := s.place(s.ctx, r); err != nil {
			s.log.Info("booting a machine", "container", s.snapshot(r).Name, "err", err)
			s.mu.Lock()
			r.bootErr = err
			s.mu.Unlock()
		}
	}) {
		r.op.unlock()
	}
}

// place gives a replica its container in a machine: one of its own, or that of
// the replica it guests with. The caller holds r.op.
func (s *Supervisor) place(ctx context.Context, r *replica) error {
	if err := s.relocate(r); err != nil {
		return err
	}
	rec := s.snapshot(r)
	if r.log != nil {
		if err := r.log.Begin(); err != nil {
			return err
		}
	}
	switch {
	case rec.Guests != "":
		return s.join(ctx, r, rec.Guests)
	case rec.Group != "":
		return s.placeInGroup(ctx, r, rec.Group)
	}
	return s.boot(ctx, r)
}

// join makes a replica's container in the machine of another, which must run.
func (s *Supervisor) join(ctx context.Context, r *replica, of string) error {
	s.mu.Lock()
	var h *hosted
	if o := s.replicas[of]; o != nil && isUp(o.rec.Status) {
		h = o.host
	}
	s.mu.Unlock()
	if h == nil {
		return fmt.Errorf("container %s: %w", s.snapshot(r).Name, errLeaving)
	}
	return s.moveIn(ctx, r, h)
}

// moveIn makes a replica's container in a machine that runs.
func (s *Supervisor) moveIn(ctx context.Context, r *replica, h *hosted) (err error) {
	h.members.Lock()
	defer h.members.Unlock()
	s.mu.Lock()
	if h.client.Load() == nil && h.leaving == nil {
		s.mu.Unlock()
		return fmt.Errorf("container %s: the agent of the machine it shares does not answer", s.snapshot(r).Name)
	}
	if h.leaving != nil || h.hasDied() {
		s.mu.Unlock()
		return fmt.Errorf("container %s: %w", s.snapshot(r).Name, errLeaving)
	}
	h.replicas = append(h.replicas, r)
	h.rec.Replicas = append(slices.Clone(h.rec.Replicas), r.rec.ID)
	s.mu.Unlock()
	endpoints := s.assignVLANs(h, r)
	s.mu.Lock()
	r.host = h
	s.mu.Unlock()
	added := []string{} // of it, not yet anything
	defer func() {
		if err != nil {
			s.leaveMachine(context.WithoutCancel(ctx), h, r, added)
		}
	}()
	if err := s.putMachine(h); err != nil {
		return err
	}
	s.update(r, func(rec *state.Replica) { rec.Machine, rec.Endpoints = h.id, endpoints })
	rec := s.snapshot(r)
	shared := s.othersIn(h, r)
	own := clone(rec)
	own.Mounts, own.HookMounts = slices.DeleteFunc(rec.MachineMounts(), func(m state.MountUse) bool {
		return m.Type == spec.MountVolume && shared[volumeSerial(m.Volume)]
	}), nil
	disks, err := s.disks(ctx, own)
	defer func() {
		for _, d := range disks {
			if d.Lock != nil {
				d.Lock.Close()
			}
		}
	}()
	if err != nil {
		return err
	}
	for _, d := range disks {
		if shared[d.Serial] {
			continue
		}
		if err := h.m.AddDisk(ctx, d); err != nil {
			return fmt.Errorf("container %s: %w", rec.Name, err)
		}
		added = append(added, d.Serial)
	}
	for _, share := range s.shares(rec) {
		if shared[share.Name] {
			continue
		}
		return fmt.Errorf("container %s: it mounts %s, which the machine of the running service was not given: stop that first", rec.Name, share.Path)
	}
	resolved, err := s.opt.State.Resolved(rec.ID)
	if err != nil {
		return err
	}
	container := resolved.Container
	s.interfaces(&container, endpoints)
	if err := s.joinStorage(ctx, h, rec, &container); err != nil {
		return err
	}
	if err := h.client.Load().Create(ctx, container); err != nil {
		return err
	}
	s.relaySockets(h, rec.ID, rec.Mounts)
	return nil
}

// leaveMachine takes a container out of a machine that goes on without it.
func (s *Supervisor) leaveMachine(ctx context.Context, h *hosted, r *replica, disks []string) {
	rec := s.snapshot(r)
	s.unplugReplica(h, r)
	if err := h.client.Load().Remove(ctx, rec.ID); err != nil {
		if e, ok := errors.AsType[*wire.Error](err); !ok || e.Code != wire.CodeNotFound {
			s.warn("removing a container from its machine", err, "container", rec.Name)
		}
	}
	if disks == nil {
		shared := s.othersIn(h, r)
		for _, serial := range sortedKeys(s.serials(rec)) {
			if !shared[serial] {
				disks = append(disks, serial)
			}
		}
	}
	for _, serial := range disks {
		s.warn("detaching a disk", h.m.RemoveDisk(ctx, serial), "container", rec.Name, "disk", serial)
	}
	s.mu.Lock()
	h.replicas = slices.DeleteFunc(h.replicas, func(o *replica) bool { return o == r })
	h.rec.Replicas = slices.DeleteFunc(slices.Clone(h.rec.Replicas), func(id string) bool { return id == rec.ID })
	if r.log != nil {
		h.rec.LogSeq = max(h.rec.LogSeq, r.log.Last())
	}
	vlans := map[uint16]state.VLAN{}
	for n, v := range h.rec.VLANs {
		if v.Replica != rec.ID {
			vlans[n] = v
		}
	}
	h.rec.VLANs = vlans
	if r.host == h {
		r.host = nil
		r.rec.Machine = ""
	}
	s.mu.Unlock()
	s.trimStorage(ctx, h)
	s.drained(r)
	s.persist(r)
	s.warn("recording a machine", s.putMachine(h))
}

// drained notes that no more of what a replica wrote can come.
func (s *Supervisor) drained(r *replica) {
	if r.log != nil {
		s.warn("writing a log", r.log.Settle(), "container", s.snapshot(r).Name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r.drained = true
	s.notifyLocked(r)
}

// start runs a replica, booting its machine if that has not been done.
func (s *Supervisor) start(ctx context.Context, r *replica) error {
	if err := r.op.lock(ctx); err != nil {
		return err
	}
	defer r.op.unlock()
	status, err := s.beforeStart(r)
	switch {
	case err != nil:
		return err
	case status == planner.StatusRunning:
		return nil
	case status == planner.StatusPaused:
		return s.pause(ctx, r, false)
	}
	s.updateLater(r, func(rec *state.Replica) { rec.Stopped, rec.Restarts = false, 0 })
	s.mu.Lock()
	r.backoff = 0
	s.mu.Unlock()
	if err := s.run(ctx, r); err != nil {
		s.failedStart(r, err)
		return err
	}
	return s.postStart(ctx, r)
}

// beforeStart takes a replica from whatever else would start it, and tells why it
// cannot be started, or its status. The caller holds r.op.
func (s *Supervisor) beforeStart(r *replica) (planner.Status, error) {
	s.mu.Lock()
	status, bootErr := r.rec.Status, r.bootErr
	r.bootErr = nil
	if r.pending != nil {
		r.pending()
	}
	s.mu.Unlock()
	if bootErr != nil {
		s.failedStart(r, bootErr)
	}
	return status, bootErr
}

// failedStart records why a replica does not run, and ends what was booted.
func (s *Supervisor) failedStart(r *replica, err error) {
	if s.ctx.Err() != nil {
		return // let go of, not failed
	}
	code := 128
	if e, ok := errors.AsType[*wire.Error](err); ok {
		switch e.Code {
		case wire.CodeNoCommand:
			code = 127
		case wire.CodeCannotExec:
			code = 126
		}
	}
	s.update(r, func(rec *state.Replica) {
		rec.ExitCode, rec.Error = code, firstLines(err.Error())
		if rec.Status != planner.StatusCreated {
			rec.Status, rec.Finished = planner.StatusExited, time.Now()
		}
	})
	s.mu.Lock()
	host := r.host
	s.mu.Unlock()
	if host != nil {
		s.warn("ending a machine", s.endHost(s.ctx, r, host, 0))
	}
}

func firstLines(text string) string {
	const most = 8 << 10
	return text[:min(len(text), most)]
}

// hosting returns the machine that has a replica's container, and places that if
// there is none. The caller holds r.op.
func (s *Supervisor) hosting(ctx context.Context, r *replica) (*hosted, error) {
	s.mu.Lock()
	h := r.host
	s.mu.Unlock()
	if h != nil && h.hasDied() {
		select {
		case <-h.ended:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		h = nil
	}
	if h != nil {
		return h, nil
	}
	if err := s.place(ctx, r); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.host == nil {
		return nil, fmt.Errorf("container %s: its machine ended at once", r.rec.Name)
	}
	return r.host, nil
}

// run starts a replica's container in its machine. The caller holds r.op.
func (s *Supervisor) run(ctx context.Context, r *replica) (err error) {
	h, err := s.hosting(ctx, r)
	if err != nil {
		return err
	}
	rec := s.snapshot(r)
	if err := s.plugReplica(h, r); err != nil {
		s.unplugReplica(h, r)
		return err
	}
	s.mu.Lock()
	r.starting, r.early = true, nil
	r.rec.Health = nil // before the start: the first verdict may come at once
	if rec.Probed {
		r.rec.Health = &state.Health{Status: wire.HealthStarting}
	}
	s.mu.Unlock()
	started, err := h.client.Load().Start(ctx, rec.ID)
	if e, ok := errors.AsType[*wire.Error](err); ok && e.Code == wire.CodeRunning {
		// The start that an earlier supervisor asked for as it died came through
		// after this one had looked.
		err = nil
	}
	s.mu.Lock()
	r.starting = false
	early := r.early
	s.mu.Unlock()
	if err != nil {
		s.unplugReplica(h, r)
		if h.hasDied() {
			err = h.explain(err)
		}
		return fmt.Errorf("container %s: %w", rec.Name, err)
	}
	s.mu.Lock()
	r.run++
	r.lastRun = time.Now()
	r.drained = false
	s.mu.Unlock()
	s.updateLater(r, func(rec *state.Replica) {
		rec.Status, rec.Started, rec.Finished = planner.StatusRunning, cmp.Or(started.At, time.Now()), time.Time{}
		rec.ExitCode, rec.OOM, rec.Error = 0, false, ""
	})
	s.emit(replicaEvent(rec, "start", nil))
	if early != nil {
		s.event(h, *early)
	}
	return nil
}

// event takes what an agent reports.
func (s *Supervisor) event(h *hosted, e wire.Event) {
	s.mu.Lock()
	var r *replica
	for _, o := range h.replicas {
		if o.rec.ID == e.Container {
			r = o
		}
	}
	if r == nil {
		stray := e.Kind == wire.EventState && e.State == wire.StateRunning && !h.hooks[e.Container]
		s.mu.Unlock()
		if stray { // a hook whose supervisor died: nobody waits for it, and it may be run again
			h.loops.Go(func() { s.warn("ending a hook", s.endHook(h, e.Container), "machine", h.rec.Name) })
		}
		return
	}
	if e.Kind == wire.EventState && e.State == wire.StateExited {
		noted := e.Exit != nil && r.noted(*e.Exit)
		if r.starting && !noted {
			r.early = &e
		}
		if r.starting || noted {
			s.mu.Unlock()
			return
		}
	}
	status := r.rec.Status
	stale := !r.ended.IsZero() && !e.At.After(r.ended) // of a run whose end is noted
	s.mu.Unlock()
	switch e.Kind {
	case wire.EventState:
		switch {
		case stale && e.State != wire.StateExited:
		case e.State == wire.StateExited && e.Exit != nil:
			if s.exited(h, r, *e.Exit, "") {
				s.settleExit(r)
			}
		case e.State == wire.StateRunning && status == planner.StatusPaused:
			s.setPaused(r, false)
		case (e.State == wire.StateRunning || e.State == wire.StatePaused) && !isUp(status) && !s.isStarting(r):
			// An earlier supervisor started it and had no time to say so.
			s.adoptRunning(h, r, e.At)
			s.setPaused(r, e.State == wire.StatePaused)
		case e.State == wire.StatePaused:
			s.setPaused(r, true)
		}
	case wire.EventHealth:
		s.health(r, e)
	case wire.EventOOM:
		s.update(r, func(rec *state.Replica) { rec.OOM = true })
		s.emit(replicaEvent(s.snapshot(r), "oom", nil))
	case wire.EventPorts:
		s.listens(r, e)
	}
}

func (s *Supervisor) isStarting(r *replica) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return r.starting
}

func (s *Supervisor) adoptRunning(h *hosted, r *replica, at time.Time) {
	s.mu.Lock()
	r.run++
	r.lastRun, r.drained = at, false
	s.mu.Unlock()
	s.update(r, func(rec *state.Replica) {
		rec.Status, rec.Started, rec.Finished = planner.StatusRunning, at, time.Time{}
		rec.ExitCode, rec.OOM, rec.Error = 0, false, ""
		if rec.Probed && rec.Health == nil {
			rec.Health = &state.Health{Status: wire.HealthStarting}
		}
	})
	s.warn("publishing", s.plugReplica(h, r), "container", s.snapshot(r).Name)
}

func (s *Supervisor) health(r *replica, e wire.Event) {
	before := s.snapshot(r)
	s.updateLater(r, func(rec *state.Replica) {
		rec.Health = &state.Health{Status: e.Health, FailingStreak: e.FailingStreak, Output: e.Output, At: e.At}
	})
	if before.Health != nil && before.Health.Status == e.Health {
		return
	}
	s.emit(replicaEvent(before, "health_status: "+string(e.Health), nil))
	if e.Health == wire.HealthUnhealthy && before.RestartUnhealthy {
		s.spawn(func() { s.restartUnhealthy(r) })
	}
}

// restartUnhealthy restarts a replica, unless it is well or ended meanwhile, or
// its user ends it.
func (s *Supervisor) restartUnhealthy(r *replica) {
	if r.op.lock(s.ctx) != nil { // its start may not be over
		return
	}
	r.op.unlock()
	s.mu.Lock()
	h := r.rec.Health
	sick := !r.gone && r.stopping == 0 && r.rec.Status == planner.StatusRunning && h != nil && h.Status == wire.HealthUnhealthy
	name := r.rec.Name
	s.mu.Unlock()
	if sick {
		s.log.Info("an unhealthy container is restarted", "container", name)
		s.warn("restarting an unhealthy container", s.restart(s.ctx, r, -1), "container", name)
	}
}

// noted reports whether exit is the end that is noted already, of a run before
// the present one. The caller holds Supervisor.mu.
func (r *replica) noted(exit wire.ExitStatus) bool {
	return !exit.At.IsZero() && exit.At.Equal(r.ended)
}

// exited records the end of a replica's run. It reports false when that was
// known.
func (s *Supervisor) exited(h *hosted, r *replica, exit wire.ExitStatus, fault string) bool {
	r.ends.Lock()
	defer r.ends.Unlock()
	s.mu.Lock()
	if !isUp(r.rec.Status) || r.host != h || r.noted(exit) {
		s.mu.Unlock()
		return false
	}
	r.ended = exit.At
	ended := clone(&r.rec)
	ended.Status, ended.ExitCode, ended.OOM = planner.StatusExited, exit.Code, ended.OOM || exit.OOM
	ended.Finished = exit.At
	if ended.Finished.IsZero() || ended.Finished.Before(ended.Started) {
		ended.Finished = time.Now()
	}
	ended.Error, ended.Health, ended.Notice = cmp.Or(fault, exit.Error), nil, ""
	if w := ended.Restart.Window; w > 0 && ended.Finished.Sub(ended.Started) >= w {
		ended.Restarts = 0 // the last restart was a success
	}
	end := logs.End{Code: exit.Code, Seen: time.Now(), Restarting: r.stopping == 0 && wantsRestart(ended)}
	s.mu.Unlock()
	if r.log != nil { // before anybody can learn of the end and look for it there
		s.warn("writing a log", r.log.End(ended.Finished, end, exit.LogSeq), "container", ended.Name)
	}
	s.mu.Lock()
	rec := &r.rec
	rec.Status, rec.ExitCode, rec.OOM, rec.Finished, rec.Restarts = ended.Status, ended.ExitCode, ended.OOM, ended.Finished, ended.Restarts
	rec.Error, rec.Health, rec.Notice = ended.Error, nil, ""
	queued := r.markLocked()
	s.notifyLocked(r)
	snapshot := clone(rec)
	s.mu.Unlock()
	s.flushLater(r, queued)
	s.unplugReplica(h, r)
	attrs := map[string]string{"exitCode": strconv.Itoa(exit.Code)}
	s.emit(replicaEvent(snapshot, "die", attrs))
	return true
}

// settleExit lets the restart policy decide what follows the end of a run.
func (s *Supervisor) settleExit(r *replica) {
	s.mu.Lock()
	run := r.run
	s.mu.Unlock()
	s.spawn(func() { s.afterExit(r, run) })
}

// wantsRestart is the policy's answer.
func wantsRestart(rec *state.Replica) bool {
	if rec.Stopped {
		return false
	}
	switch rec.Restart.Policy {
	case "always", "unless-stopped":
	case "on-failure":
		if rec.ExitCode == 0 {
			return false
		}
	default:
		return false
	}
	return rec.Restart.Max == 0 || rec.Restarts < rec.Restart.Max
}

// afterExit restarts a replica whose run has ended by itself, as often as its
// policy wants, or ends its machine.
func (s *Supervisor) afterExit(r *replica, run int) {
	if r.op.lock(s.ctx) != nil {
		return
	}
	s.mu.Lock()
	if r.gone || r.stopping > 0 || r.run != run || r.rec.Status != planner.StatusExited && r.rec.Status != planner.StatusRestarting {
		s.mu.Unlock()
		r.op.unlock()
		return
	}
	host := r.host
	if !wantsRestart(&r.rec) {
		auto, rec := r.rec.AutoRemove, clone(&r.rec)
		s.mu.Unlock()
		if rec.Status == planner.StatusRestarting {
			s.update(r, func(rec *state.Replica) { rec.Status = planner.StatusExited })
		}
		if host != nil {
			s.warn("ending a machine", s.endHost(s.ctx, r, host, 0), "container", rec.Name)
		}
		r.op.unlock()
		if auto {
			s.warn("removing a container", s.removeReplica(s.ctx, r, anonymous(rec)), "container", rec.Name)
		}
		s.resetIdle()
		return
	}
	if time.Since(r.lastRun) >= backoffReset {
		r.backoff = 0
	}
	r.backoff = min(max(2*r.backoff, firstBackoff), lastBackoff)
	delay := cmp.Or(r.rec.Restart.Delay, r.backoff)
	waiting, cancel := context.WithCancel(s.ctx)
	r.pending = cancel
	s.mu.Unlock()
	defer cancel()
	s.update(r, func(rec *state.Replica) { rec.Status = planner.StatusRestarting })
	r.op.unlock()

	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-waiting.Done():
		return // stopped, removed or started meanwhile
	}
	if r.op.lock(waiting) != nil {
		return
	}
	s.mu.Lock()
	r.pending = nil
	valid := !r.gone && r.stopping == 0 && r.run == run && r.rec.Status == planner.StatusRestarting
	s.mu.Unlock()
	if !valid {
		r.op.unlock()
		return
	}
	s.update(r, func(rec *state.Replica) { rec.Restarts++ })
	err := s.run(s.ctx, r)
	if err != nil && s.ctx.Err() == nil {
		s.log.Warn("restarting a container", "container", s.snapshot(r).Name, "err", err)
		s.update(r, func(rec *state.Replica) { rec.Error, rec.ExitCode = firstLines(err.Error()), 128 })
	}
	r.op.unlock()
	if err != nil && s.ctx.Err() == nil {
		s.spawn(func() { s.afterExit(r, run) })
	}
}

func anonymous(rec *state.Replica) []string {
	var names []string
	for _, m := range rec.Mounts {
		if m.Anonymous {
			names = append(names, m.Volume)
		}
	}
	return names
}

// grace is how long a replica may take to stop; timeout, in seconds, overrides
// it unless negative.
func grace(rec *state.Replica, timeout int) time.Duration {
	switch {
	case timeout >= 0:
		return time.Duration(timeout) * time.Second
	case rec.StopGrace != nil:
		return *rec.StopGrace
	}
	return stopGrace
}

// stop ends a replica's run and its machine. No policy restarts it until it is
// started again.
func (s *Supervisor) stop(ctx context.Context, r *replica, timeout int) error {
	s.mu.Lock()
	r.stopping++
	if r.pending != nil {
		r.pending()
		r.pending = nil
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		r.stopping--
		s.mu.Unlock()
	}()
	if err := r.op.lock(ctx); err != nil {
		return err
	}
	defer r.op.unlock()
	s.mu.Lock()
	host := r.host
	rec := clone(&r.rec)
	s.mu.Unlock()
	if r.gone {
		return nil
	}
	if rec.Status == planner.StatusRunning {
		if err := s.preStop(ctx, r); err != nil {
			return err
		}
	}
	s.update(r, func(rec *state.Replica) { rec.Stopped = true })
	if host != nil {
		if err := s.endHost(ctx, r, host, grace(rec, timeout)); err != nil {
			return err
		}
	}
	s.update(r, func(rec *state.Replica) {
		if rec.Status == planner.StatusRestarting || isUp(rec.Status) {
			rec.Status = planner.StatusExited
			if rec.Finished.IsZero() {
				rec.Finished = time.Now()
			}
		}
	})
	if isUp(rec.Status) {
		s.emit(replicaEvent(rec, "stop", nil))
	}
	s.resetIdle()
	return nil
}

// restart stops a replica and starts it again, in the same machine where that
// runs.
func (s *Supervisor) restart(ctx context.Context, r *replica, timeout int) error {
	again, err := s.restartInside(ctx, r, timeout)
	if err == nil && !again {
		if err = s.stop(ctx, r, timeout); err == nil {
			err = s.start(ctx, r)
		}
	}
	if err == nil {
		s.emit(replicaEvent(s.snapshot(r), "restart", nil))
	}
	return err
}

func (s *Supervisor) restartInside(ctx context.Context, r *replica, timeout int) (done bool, err error) {
	s.mu.Lock()
	r.stopping++
	s.mu.Unlock()
	over := func() {
		s.mu.Lock()
		r.stopping--
		s.mu.Unlock()
	}
	if err := r.op.lock(ctx); err != nil {
		over()
		return false, err
	}
	defer r.op.unlock()
	defer over() // first: a next run that is unhealthy already waits for op, to be restarted unless it is stopped
	s.mu.Lock()
	h, rec := r.host, clone(&r.rec)
	full := h != nil && h.full
	s.mu.Unlock()
	if h == nil || h.client.Load() == nil || h.hasDied() || !isUp(rec.Status) || full {
		return false, nil
	}
	if rec.Status == planner.StatusRunning {
		if err := s.preStop(ctx, r); err != nil {
			return false, err
		}
	}
	exit, err := h.client.Load().Stop(ctx, wire.Stop{ID: rec.ID, Grace: grace(rec, timeout)})
	if err != nil {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		return false, nil // the machine itself is restarted
	}
	s.exited(h, r, exit, "")
	s.update(r, func(rec *state.Replica) { rec.Stopped, rec.Restarts = false, 0 })
	s.mu.Lock()
	r.backoff = 0
	s.mu.Unlock()
	if err := s.run(ctx, r); err != nil {
		s.failedStart(r, err)
		return false, err
	}
	return true, s.postStart(ctx, r)
}

// endHost stops what runs of a replica and takes it out of its machine, which
// ends with its last container. The caller holds r.op.
func (s *Supervisor) endHost(ctx context.Context, r *replica, h *hosted, grace time.Duration) error {
	s.flush(r) // once its machine is gone, nobody else could tell how it ended
	s.mu.Lock()
	rec := clone(&r.rec)
	full := h.full
	s.mu.Unlock()
	if full {
		s.warn("resuming a machine", h.m.Resume(ctx), "machine", h.rec.Name)
	}
	if h.hasDied() || h.client.Load() == nil {
		if full { // adopted while the host's disk was full: nobody could speak to it
			s.kill(h)
		}
		return s.waitEnded(ctx, h, 0)
	}
	limit := grace + farewellTimeout
	if grace < 0 {
		limit = 1 << 62
	}
	if !s.lastIn(h) && isUp(rec.Status) {
		bounded, cancel := context.WithTimeout(ctx, limit)
		exit, err := h.client.Load().Stop(bounded, wire.Stop{ID: rec.ID, Grace: grace})
		cancel()
		if err != nil {
			return fmt.Errorf("stopping container %s: %w", rec.Name, err)
		}
		s.exited(h, r, exit, "")
	}
	h.members.Lock() // several may leave at once, and one of them is the last
	if !s.lastIn(h) {
		s.leaveMachine(ctx, h, r, nil)
		h.members.Unlock()
		return nil
	}
	heard, first := s.leaves(h)
	h.members.Unlock()
	if !first {
		return s.waitEnded(ctx, h, 0)
	}
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	farewell, err := s.shutDown(bounded, h, heard, grace)
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil && !h.hasDied():
		s.warn("a machine did not say farewell", err, "machine", h.rec.Name)
		s.kill(h)
		return nil
	case err != nil:
		return s.waitEnded(ctx, h, 0)
	}
	if exit, ok := farewell.Containers[rec.ID]; ok {
		s.exited(h, r, exit, "")
	}
	return s.waitEnded(ctx, h, farewellTimeout)
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// lastIn tells whether a machine hosts no more than one replica.
func (s *Supervisor) lastIn(h *hosted) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(h.replicas) <= 1
}

// leaves marks a machine as about to end: nobody enters any more. It returns what
// to close once its farewell is read, or could not be; first is false when it is
// being ended already.
func (s *Supervisor) leaves(h *hosted) (heard chan struct{}, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.leaving != nil && (h.farewell != nil || !closed(h.leaving)) { // else that was given up
		return nil, false
	}
	// The machine may be gone before its farewell is read: who clears up waits.
	h.leaving = make(chan struct{})
	return h.leaving, true
}

// shutDown asks a machine to end and hears its farewell; heard is from leaves.
func (s *Supervisor) shutDown(ctx context.Context, h *hosted, heard chan<- struct{}, grace time.Duration) (wire.Farewell, error) {
	defer close(heard)
	farewell, err := h.client.Load().Shutdown(ctx, wire.Shutdown{Grace: grace})
	if err == nil {
		s.mu.Lock()
		h.farewell = &farewell
		s.mu.Unlock()
	}
	return farewell, err
}

// waitEnded waits until a machine is cleared up; one that does not end within
// limit is killed.
func (s *Supervisor) waitEnded(ctx context.Context, h *hosted, limit time.Duration) error {
	var late <-chan time.Time
	if limit > 0 {
		t := time.NewTimer(limit)
		defer t.Stop()
		late = t.C
	}
	select {
	case <-h.ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-late:
		s.kill(h)
		return nil
	}
}

// afterAdoption settles every replica that an earlier supervisor left in a
// state that only it could have ended.
func (s *Supervisor) afterAdoption() {
	s.mu.Lock()
	all := make([]*replica, 0, len(s.replicas))
	for _, r := range s.replicas {
		all = append(all, r)
	}
	s.mu.Unlock()
	lost := map[string]map[string]bool{} // what policies start again, by project
	for _, r := range all {
		rec := s.snapshot(r)
		s.mu.Lock()
		host := r.host
		r.drained = r.drained || host == nil
		s.mu.Unlock()
		switch {
		case rec.Phase == state.Making || rec.Phase == state.Removing:
			s.log.Info("a container that was left half done is removed", "container", rec.Name, "phase", rec.Phase)
			if host != nil {
				s.kill(host)
			}
			keep := map[string]string{}
			s.mu.Lock()
			if old := s.replicas[rec.Replaces]; old != nil {
				for _, m := range old.rec.Mounts {
					keep[m.Target] = m.Volume
				}
			}
			s.mu.Unlock()
			s.forget(r, keep)
		case host != nil && rec.Status == planner.StatusCreated:
			// Booted for a start that never came; a plan boots again.
			s.mu.Lock()
			started := r.rec.Status != planner.StatusCreated
			s.mu.Unlock()
			if !started && rec.Started.IsZero() {
				s.settleBoot(r)
			}
		case host == nil && isUp(rec.Status):
			s.mu.Lock()
			r.rec.Status, r.rec.ExitCode, r.rec.Finished, r.rec.Health = planner.StatusExited, state.LostExitCode, time.Now(), nil
			r.rec.Error = state.LostError
			r.rec.Machine, r.rec.Notice, r.rec.Published, r.rec.HostPorts, r.rec.Unopened = "", "", nil, nil, ""
			restart := wantsRestart(&r.rec)
			s.mu.Unlock()
			s.persist(r)
			switch {
			case restart && rec.OneOff:
				s.settleExit(r)
			case restart:
				if lost[rec.Project] == nil {
					lost[rec.Project] = map[string]bool{}
				}
				lost[rec.Project][rec.ID] = true
			}
		case rec.Status == planner.StatusRestarting, rec.Status == planner.StatusExited && host != nil:
			s.settleExit(r)
		case rec.Status == planner.StatusCreated && rec.OneOff && rec.AutoRemove:
			s.spawn(func() { s.warn("removing a container", s.removeReplica(s.ctx, r, anonymous(rec))) })
		case rec.Machine != "" && host == nil:
			s.update(r, func(rec *state.Replica) { rec.Machine = "" })
		}
	}
	for project, ids := range lost {
		s.spawn(func() { s.warn("starting what was lost", s.resume(s.ctx, project, ids), "project", project) })
	}
}

// settleBoot ends the machine of a replica that was booted and not started.
func (s *Supervisor) settleBoot(r *replica) {
	s.spawn(func() { s.endBooted(r) })
}

// endBooted is settleBoot's work. A machine that is visited is left to the last
// visitor.
func (s *Supervisor) endBooted(r *replica) {
	if r.op.lock(s.ctx) != nil {
		return
	}
	defer r.op.unlock()
	s.mu.Lock()
	host, status, visited := r.host, r.rec.Status, r.visits > 0
	r.bootErr = nil
	s.mu.Unlock()
	if host != nil && !visited && !isUp(status) && status != planner.StatusRestarting {
		s.warn("ending a machine", s.endHost(s.ctx, r, host, 0))
	}
}
