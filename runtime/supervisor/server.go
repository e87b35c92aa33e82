package supervisor

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/state"
)

// Serve answers requests on l, which asks for token, until the supervisor is
// done or l fails. It returns after every request has been answered, or cut off
// when that takes long.
func (s *Supervisor) Serve(l *net.UnixListener, token string) error {
	base, cut := context.WithCancel(s.ctx)
	defer cut()
	srv := &http.Server{
		Handler:           api.RequireToken(token, s.handler()),
		ConnContext:       api.ConnContext,
		BaseContext:       func(net.Listener) context.Context { return base },
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-s.done:
		case <-s.ctx.Done():
		case <-stopped:
		}
		cut() // streams end; their clients ask the next supervisor
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(api.Listener{UnixListener: l})
	close(stopped)
	wg.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// refuseFor is how long a supervisor that cannot start tells so, counted from
// the last who asked.
const refuseFor = 5 * time.Second

// Refuse answers every request on l with cause, until nobody has asked for some
// seconds.
func Refuse(l *net.UnixListener, token string, cause error) error {
	idle := time.NewTimer(refuseFor)
	defer idle.Stop()
	srv := &http.Server{
		Handler: api.RequireToken(token, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			idle.Reset(refuseFor)
			e := presentable(cause)
			e.Code, e.Message = api.CodeRefused, "the supervisor cannot start: "+e.Message
			api.WriteError(w, 0, e)
		})),
		ReadHeaderTimeout: 10 * time.Second,
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(api.Listener{UnixListener: l}) }() // ends with Close
	select {
	case <-idle.C:
		err := srv.Close()
		if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
			err = errors.Join(err, serveErr)
		}
		return err
	case err := <-served:
		return err
	}
}

// answer reads a request and answers with what do returns.
func answer[Q, A any](do func(context.Context, Q) (A, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q Q
		if err := api.ReadRequest(r, &q); err != nil {
			api.WriteError(w, 0, err)
			return
		}
		a, err := do(r.Context(), q)
		if err != nil {
			api.WriteError(w, 0, err)
			return
		}
		api.WriteJSON(w, a)
	}
}

type nothing struct{}

// progress reads a request and answers with the events of do.
func progress[Q any](do func(ctx context.Context, q Q, pid int, send func(api.Event))) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q Q
		if err := api.ReadRequest(r, &q); err != nil {
			api.WriteError(w, 0, err)
			return
		}
		stream := api.NewStream[api.Event](w)
		do(r.Context(), q, api.PeerPID(r.Context()), func(e api.Event) { _ = stream.Send(e) })
	}
}

func (s *Supervisor) handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(path string, h http.HandlerFunc) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			if !s.enter() {
				panic(http.ErrAbortHandler) // the client asks the next supervisor
			}
			defer s.leave()
			h(w, r)
		})
	}
	handle(api.PathInfo, answer(func(context.Context, *nothing) (api.Info, error) { return s.info(), nil }))
	handle(api.PathApply, progress(s.Apply))
	handle(api.PathPlan, progress(func(ctx context.Context, a api.Apply, pid int, send func(api.Event)) {
		a.DryRun = true
		s.Apply(ctx, a, pid, send)
	}))
	handle(api.PathPull, progress(func(ctx context.Context, p api.Pull, _ int, send func(api.Event)) { s.Pull(ctx, p, send) }))
	handle(api.PathImageRemove, answer(func(_ context.Context, r api.RemoveImage) (api.RemovedImage, error) {
		done, err := s.removeImage(r)
		return api.RemovedImage{Untagged: done.Untagged, Deleted: done.Deleted}, err
	}))
	handle(api.PathRun, progress(func(ctx context.Context, r api.Run, _ int, send func(api.Event)) { s.Run(ctx, r, send) }))
	handle(api.PathReplicas, answer(func(_ context.Context, sel api.Select) ([]*state.Replica, error) {
		found, err := s.selected(sel)
		out := make([]*state.Replica, len(found))
		for i, r := range found {
			out[i] = s.snapshot(r)
		}
		return out, err
	}))
	handle(api.PathStart, answer(func(ctx context.Context, sel api.Select) (nothing, error) {
		r, err := s.find(sel.Replica)
		if err == nil {
			err = machineFault(s.start(ctx, r))
		}
		return nothing{}, err
	}))
	handle(api.PathWait, answer(func(ctx context.Context, sel api.Select) (any, error) {
		r, err := s.find(sel.Replica)
		if err != nil {
			return nil, err
		}
		return s.ended(ctx, r)
	}))
	handle(api.PathDelete, answer(func(ctx context.Context, sel api.Select) (nothing, error) {
		r, err := s.find(sel.Replica)
		if err == nil {
			err = s.stop(ctx, r, 0)
		}
		if err == nil {
			err = s.removeReplica(ctx, r, anonymous(s.snapshot(r)))
		}
		return nothing{}, err
	}))
	handle(api.PathPrunable, answer(s.prunable))
	handle(api.PathPrune, answer(s.prune))
	handle(api.PathAutostart, answer(s.autostart))
	handle(api.PathEnd, answer(func(ctx context.Context, _ *nothing) (nothing, error) {
		s.EndAll(ctx)
		return nothing{}, nil
	}))
	handle(api.PathVolumeCreate, answer(s.createVolume))
	handle(api.PathVolumeRemove, answer(s.deleteVolume))
	handle(api.PathVolumeExport, s.serveExport)
	handle(api.PathVolumeImport, s.serveImport)
	handle(api.PathNetworkNew, answer(s.newNetwork))
	handle(api.PathNetworkGone, answer(s.deleteNetwork))
	handle(api.PathForward, s.serveForward)
	handle(api.PathForwards, answer(s.listForwards))
	handle(api.PathUnforward, answer(s.removeForwards))
	handle(api.PathKill, answer(s.killReplicas))
	handle(api.PathPause, answer(s.pauseReplicas))
	handle(api.PathTop, answer(s.top))
	handle(api.PathStats, answer(s.stats))
	handle(api.PathStat, answer(s.stat))
	handle(api.PathGet, s.serveGet)
	handle(api.PathPut, s.servePut)
	handle(api.PathExec, s.serveExec)
	handle(api.PathAttach, s.serveAttach)
	handle(api.PathLogs, s.serveLogs)
	handle(api.PathEvents, s.serveEvents)
	handle(api.PathUpgrade, answer(func(ctx context.Context, u api.Upgrade) (nothing, error) { return nothing{}, s.upgrade(ctx, u) }))
	handle(api.PathShutdown, answer(func(_ context.Context, _ *nothing) (nothing, error) { return nothing{}, s.shutdown() }))
	return mux
}

func (s *Supervisor) info() api.Info {
	busy, _ := s.turns.busy()
	s.mu.Lock()
	defer s.mu.Unlock()
	return api.Info{
		API: api.Version, Build: s.opt.Build, PID: os.Getpid(), Keeper: os.Getppid(), Started: s.started, Machines: len(s.hosts), Busy: busy,
	}
}

func (s *Supervisor) serveGet(w http.ResponseWriter, r *http.Request) {
	var a api.Archive
	if err := api.ReadRequest(r, &a); err != nil {
		api.WriteError(w, 0, err)
		return
	}
	st, tar, err := s.get(r.Context(), a)
	if err == nil {
		err = api.SetArchive(w.Header(), st)
	}
	if err != nil {
		api.WriteError(w, 0, err)
		return
	}
	defer tar.Close()
	w.Header().Set("Trailer", api.TrailerError)
	w.Header().Set("Content-Type", "application/x-tar")
	if _, err := io.Copy(w, tar); err != nil {
		w.Header().Set(api.TrailerError, err.Error())
	}
}

func (s *Supervisor) servePut(w http.ResponseWriter, r *http.Request) {
	a, err := api.HeaderOf[api.Archive](r)
	if err == nil {
		err = s.put(r.Context(), a, r.Body)
	}
	if err != nil {
		api.WriteError(w, 0, err)
		return
	}
	api.WriteJSON(w, nothing{})
}

func (s *Supervisor) serveExport(w http.ResponseWriter, r *http.Request) {
	var ref api.VolumeRef
	if err := api.ReadRequest(r, &ref); err != nil {
		api.WriteError(w, 0, err)
		return
	}
	tar, done, err := s.exportVolume(r.Context(), ref.Name)
	if err != nil {
		api.WriteError(w, 0, err)
		return
	}
	w.Header().Set("Trailer", api.TrailerError)
	w.Header().Set("Content-Type", "application/x-tar")
	_, err = io.Copy(w, tar)
	if err = errors.Join(err, tar.Close(), done()); err != nil {
		w.Header().Set(api.TrailerError, err.Error())
	}
}

func (s *Supervisor) serveImport(w http.ResponseWriter, r *http.Request) {
	req, err := api.HeaderOf[api.VolumeImport](r)
	if err == nil {
		err = s.importVolume(r.Context(), req, r.Body)
	}
	if err != nil {
		api.WriteError(w, 0, err)
		return
	}
	api.WriteJSON(w, nothing{})
}

func (s *Supervisor) serveExec(w http.ResponseWriter, r *http.Request) {
	var e api.Exec
	if err := api.ReadRequest(r, &e); err != nil {
		api.WriteError(w, 0, err)
		return
	}
	// The request's context ends when its handler hijacks and returns, not
	// before: the session is this handler's.
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	session, err := s.exec(ctx, e)
	if err != nil {
		api.WriteError(w, 0, err)
		return
	}
	if session == nil {
		api.WriteJSON(w, nothing{})
		return
	}
	c, err := api.Hijack(w)
	if err != nil {
		session.Close()
		return
	}
	defer s.session()()
	s.pump(ctx, cancel, c, session, func(context.Context) (wire.ExitStatus, error) {
		return wire.ExitStatus{}, errors.New("the machine ended")
	})
}

func (s *Supervisor) serveAttach(w http.ResponseWriter, r *http.Request) {
	var a api.Attach
	if err := api.ReadRequest(r, &a); err != nil {
		api.WriteError(w, 0, err)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	to, session, err := s.attach(ctx, a)
	if err != nil {
		api.WriteError(w, 0, err)
		return
	}
	c, err := api.Hijack(w)
	if err != nil {
		session.Close()
		return
	}
	defer s.session()()
	s.pump(ctx, cancel, c, session, func(ctx context.Context) (wire.ExitStatus, error) { return s.ended(ctx, to) })
}

// session counts attached streams: an upgrade would break them.
func (s *Supervisor) session() (end func()) {
	s.mu.Lock()
	s.sessions++
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		s.sessions--
		s.mu.Unlock()
	}
}

func (s *Supervisor) serveLogs(w http.ResponseWriter, r *http.Request) {
	var q api.LogQuery
	if err := api.ReadRequest(r, &q); err != nil {
		api.WriteError(w, 0, err)
		return
	}
	if q.Replica != "" {
		if _, err := s.find(q.Replica); err != nil {
			api.WriteError(w, 0, err)
			return
		}
	}
	stream := api.NewStream[api.LogEntry](w)
	if err := s.Logs(r.Context(), q, stream.Write, stream.Flush); err != nil {
		s.warn("reading logs", err)
		return
	}
	if r.Context().Err() == nil {
		_ = stream.Send(api.LogEntry{End: true}) // the client may have gone
	}
}

func (s *Supervisor) serveEvents(w http.ResponseWriter, r *http.Request) {
	var q api.EventsQuery
	if err := api.ReadRequest(r, &q); err != nil {
		api.WriteError(w, 0, err)
		return
	}
	stream := api.NewStream[api.ObjectEvent](w)
	past, sub := s.events.subscribe(q.Since)
	defer s.events.unsubscribe(sub)
	send := func(events []api.ObjectEvent) bool {
		for _, e := range events {
			if matches(q, e) && stream.Write(e) != nil {
				return false
			}
		}
		stream.Flush()
		return true
	}
	if !send(past) {
		return
	}
	var until <-chan time.Time
	if !q.Until.IsZero() {
		t := time.NewTimer(time.Until(q.Until))
		defer t.Stop()
		until = t.C
	}
	for {
		select {
		case <-sub.ready:
			events, more := sub.take()
			if !send(events) || !more {
				return
			}
		case <-until:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func matches(q api.EventsQuery, e api.ObjectEvent) bool {
	if q.Project != "" && e.Project != q.Project || !q.Until.IsZero() && e.Time.After(q.Until) {
		return false
	}
	if len(q.Services) == 0 {
		return true
	}
	for _, name := range q.Services {
		if e.Service == name {
			return true
		}
	}
	return false
}

// upgrade hands over to another build once no plan is under way; it refuses
// while somebody is attached to something.
func (s *Supervisor) upgrade(ctx context.Context, u api.Upgrade) error {
	if s.opt.Handover == nil {
		return &api.Error{Code: api.CodeConflict, Message: "this supervisor has no keeper to hand over to"}
	}
	for {
		busy, changed := s.turns.busy()
		s.mu.Lock()
		switch {
		case s.ending:
			s.mu.Unlock()
			return nil
		case s.sessions > 0:
			n := s.sessions
			s.mu.Unlock()
			return &api.Error{Code: api.CodeConflict, Message: "the supervisor cannot be replaced while commands are attached to containers: " + plural(n, "session")}
		case len(busy) == 0:
			s.ending = true
			s.mu.Unlock()
			if err := s.opt.Handover(u.Executable); err != nil {
				s.mu.Lock()
				s.ending = false
				s.mu.Unlock()
				return err
			}
			s.mu.Lock()
			s.handed = true
			close(s.done)
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// shutdown ends a supervisor that supervises nothing.
func (s *Supervisor) shutdown() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests-- // this one
	defer func() { s.requests++ }()
	if !s.unusedLocked() {
		return &api.Error{Code: api.CodeConflict, Message: "machines are running: " + plural(len(s.hosts), "machine")}
	}
	if !s.ending {
		s.ending = true
		close(s.done)
	}
	return nil
}

// EndAll stops every machine, as a host that shuts down wants it: what ran is
// not recorded as stopped by its user.
func (s *Supervisor) EndAll(ctx context.Context) {
	s.mu.Lock()
	var all []*replica
	for _, r := range s.replicas {
		r.stopping++
		if r.pending != nil {
			r.pending()
			r.pending = nil
		}
		all = append(all, r)
	}
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, r := range all {
		wg.Go(func() {
			if r.op.lock(ctx) != nil {
				return
			}
			defer r.op.unlock()
			s.mu.Lock()
			h, rec := r.host, clone(&r.rec)
			s.mu.Unlock()
			if h != nil {
				s.warn("stopping a container", s.endHost(ctx, r, h, grace(rec, -1)), "container", rec.Name)
			}
			if rec.Status == planner.StatusRestarting {
				s.update(r, func(rec *state.Replica) { rec.Status = planner.StatusExited })
			}
		})
	}
	wg.Wait()
	s.stopStorages(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ending {
		s.ending = true
		close(s.done)
	}
}
