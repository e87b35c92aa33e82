package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/machine/control"
	"github.com/stackvm/stack/runtime/state"
)

// frames is a client's end of an attached stream.
type frames struct {
	mu sync.Mutex
	c  net.Conn
}

func (f *frames) write(kind wire.FrameKind, b []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return wire.WriteFrame(f.c, kind, b)
}

type frameWriter struct {
	f    *frames
	kind wire.FrameKind
}

func (w frameWriter) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if err := w.f.write(w.kind, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// pump carries frames between a client and a session until the process has
// ended or the client has gone. exit is asked how the process ended when the
// session breaks off first.
func (s *Supervisor) pump(ctx context.Context, cancel context.CancelFunc, c net.Conn, session *control.Session, exit func(context.Context) (wire.ExitStatus, error)) {
	defer session.Close()
	defer c.Close()
	f := &frames{c: c}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer c.Close() // ends the reader
	wg.Go(func() {
		defer cancel()
		var buf []byte
		for {
			kind, b, err := wire.ReadFrame(c, &buf)
			if err != nil {
				return
			}
			switch kind {
			case wire.FrameStdin:
				_, err = session.Write(b)
			case wire.FrameStdinEOF:
				err = session.CloseStdin()
			case wire.FrameResize:
				var size wire.WindowSize
				if err = json.Unmarshal(b, &size); err == nil {
					err = session.Resize(size)
				}
			case wire.FrameSignal:
				err = session.Signal(string(b))
			}
			if err != nil && ctx.Err() != nil {
				return
			}
		}
	})
	status, err := session.Run(frameWriter{f, wire.FrameStdout}, frameWriter{f, wire.FrameStderr})
	if err != nil {
		if ctx.Err() != nil {
			return
		}
		if status, err = exit(ctx); err != nil {
			s.warn("an attached stream broke off", err)
			return
		}
	}
	text, err := json.Marshal(status)
	if err == nil {
		_ = f.write(wire.FrameExit, text) // the client may have gone
	}
}

// machineFault turns what an agent answered into what the client may branch on.
func machineFault(err error) error {
	e, ok := errors.AsType[*wire.Error](err)
	if !ok {
		return err
	}
	out := &api.Error{Message: e.Message}
	switch e.Code {
	case wire.CodeNotFound:
		out.Code = api.CodeNotFound
	case wire.CodeConflict:
		out.Code = api.CodeConflict
	case wire.CodeNoCommand:
		out.Code, out.ExitCode = api.CodeCommand, 127
	case wire.CodeCannotExec:
		out.Code, out.ExitCode = api.CodeCommand, 126
	case wire.CodeInvalid:
		out.Code = api.CodeInvalid
	}
	return out
}

// exec starts a command in a replica; the session is nil when detached.
func (s *Supervisor) exec(ctx context.Context, e api.Exec) (*control.Session, error) {
	r, h, err := s.running(e.Select)
	if err != nil {
		return nil, err
	}
	rec := s.snapshot(r)
	if rec.Status == planner.StatusPaused {
		return nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("container %s is paused, unpause the container before exec", rec.Name)}
	}
	e.Exec.ID = rec.ID
	session, _, err := h.client.Load().Exec(ctx, e.Exec)
	if err != nil {
		return nil, machineFault(err)
	}
	action := "exec_start: " + strings.Join(e.Exec.Args, " ")
	s.emit(replicaEvent(rec, action, nil))
	return session, nil
}

// attach connects to a replica, starting it if asked to.
func (s *Supervisor) attach(ctx context.Context, a api.Attach) (*replica, *control.Session, error) {
	var r *replica
	var h *hosted
	var err error
	if !a.Start {
		if r, h, err = s.running(a.Select); err != nil {
			return nil, nil, err
		}
		if s.snapshot(r).Status == planner.StatusPaused {
			return nil, nil, &api.Error{Code: api.CodeConflict, Message: "cannot attach to a paused container, unpause it first"}
		}
	} else {
		if r, err = s.find(a.Replica); err != nil {
			return nil, nil, err
		}
		if h, err = s.placed(ctx, r); err != nil {
			return nil, nil, err
		}
	}
	rec := s.snapshot(r)
	session, err := h.client.Load().Attach(ctx, wire.Attach{ID: rec.ID, Stdin: a.Stdin, Size: a.Size})
	if err != nil {
		return nil, nil, machineFault(err)
	}
	if a.Start {
		if err := s.start(ctx, r); err != nil {
			session.Close()
			if rec.AutoRemove {
				s.spawn(func() { s.warn("removing a container", s.removeReplica(s.ctx, r, anonymous(rec))) })
			}
			return nil, nil, machineFault(err)
		}
	}
	return r, session, nil
}

// placed returns the machine that a created replica's container is in, booting
// it if that has not been done.
func (s *Supervisor) placed(ctx context.Context, r *replica) (*hosted, error) {
	if err := r.op.lock(ctx); err != nil {
		return nil, err
	}
	defer r.op.unlock()
	s.mu.Lock()
	h, bootErr, rec := r.host, r.bootErr, clone(&r.rec)
	r.bootErr = nil
	s.mu.Unlock()
	switch {
	case bootErr != nil:
		if rec.AutoRemove {
			s.spawn(func() { s.warn("removing a container", s.removeReplica(s.ctx, r, anonymous(rec))) })
		}
		return nil, bootErr
	case isUp(rec.Status):
		return nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("container %s is running already", rec.Name)}
	case h != nil && !h.hasDied():
		return h, nil
	}
	// Not the client's to cancel: a machine half booted helps nobody.
	if err := s.place(s.ctx, r); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.host == nil {
		return nil, fmt.Errorf("container %s: its machine ended at once", rec.Name)
	}
	return r.host, nil
}

// ended returns how a replica's run ended, once it has for good.
func (s *Supervisor) ended(ctx context.Context, r *replica) (wire.ExitStatus, error) {
	var status wire.ExitStatus
	err := s.await(ctx, r, func() (bool, error) {
		rec := &r.rec
		status = wire.ExitStatus{Code: rec.ExitCode, OOM: rec.OOM, At: rec.Finished, Error: rec.Error}
		over := rec.Status == planner.StatusExited || rec.Status == planner.StatusDead
		return r.gone || over && !r.pendingRestart(), nil
	})
	return status, err
}

// killReplicas signals the selected running replicas. Those that are killed for good
// have ended when it returns, as with docker.
func (s *Supervisor) killReplicas(ctx context.Context, k api.Kill) ([]api.ReplicaRef, error) {
	signal := k.Signal
	if signal == "" {
		signal = "SIGKILL"
	}
	found, err := s.selected(k.Select)
	if err != nil {
		return nil, err
	}
	killed := []api.ReplicaRef{}
	name := strings.TrimPrefix(strings.ToUpper(signal), "SIG")
	fatal := name == "KILL" || name == "9"
	type run struct {
		r      *replica
		number int
	}
	var ending []run
	for _, r := range found {
		h, rec, mute := s.asked(r)
		if !isUp(rec.Status) || h == nil {
			if k.Replica != "" {
				return nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("container %s is not running", rec.Name)}
			}
			continue
		}
		if mute != nil {
			return killed, mute
		}
		if fatal || name == strings.TrimPrefix(rec.StopSignal, "SIG") {
			s.update(r, func(rec *state.Replica) { rec.Stopped = true }) // meant to end: no policy brings it back
		}
		if err := h.client.Load().Signal(ctx, wire.Signal{ID: rec.ID, Signal: signal}); err != nil {
			if e, ok := errors.AsType[*wire.Error](err); ok && e.Code == wire.CodeConflict {
				continue // it has just ended
			}
			return killed, machineFault(err)
		}
		s.emit(replicaEvent(rec, "kill", map[string]string{"signal": signal}))
		killed = append(killed, api.ReplicaRef{ID: rec.ID, Name: rec.Name})
		if fatal {
			s.mu.Lock()
			ending = append(ending, run{r, r.run})
			s.mu.Unlock()
		}
	}
	for _, k := range ending {
		err := s.await(ctx, k.r, func() (bool, error) { return k.r.gone || k.r.run != k.number || !isUp(k.r.rec.Status), nil })
		if err != nil {
			return killed, err
		}
		s.flush(k.r) // ps reads files
	}
	return killed, nil
}

// each asks the machines of the selected running replicas side by side.
func each[T any](ctx context.Context, s *Supervisor, sel api.Select, ask func(context.Context, *state.Replica, *hosted) (T, error)) ([]T, error) {
	found, err := s.selected(sel)
	if err != nil {
		return nil, err
	}
	type answer struct {
		v   T
		err error
		ok  bool // false: it does not run, or no longer
	}
	answers := make([]answer, len(found))
	var wg sync.WaitGroup
	for i, r := range found {
		h, rec, mute := s.asked(r)
		if !isUp(rec.Status) || h == nil {
			continue
		}
		if mute != nil {
			answers[i] = answer{err: mute, ok: true}
			continue
		}
		wg.Go(func() {
			v, err := ask(ctx, rec, h)
			gone := err != nil && ctx.Err() == nil && s.snapshot(r).Status != planner.StatusRunning
			answers[i] = answer{v, err, !gone}
		})
	}
	wg.Wait()
	out := []T{}
	for _, a := range answers {
		switch {
		case !a.ok:
		case a.err != nil:
			return nil, machineFault(a.err)
		default:
			out = append(out, a.v)
		}
	}
	return out, nil
}

func (s *Supervisor) top(ctx context.Context, sel api.Select) ([]api.Top, error) {
	return each(ctx, s, sel, func(ctx context.Context, rec *state.Replica, h *hosted) (api.Top, error) {
		t, err := h.client.Load().Top(ctx, rec.ID)
		return api.Top{Replica: api.ReplicaRef{ID: rec.ID, Name: rec.Name}, Service: rec.Service, Number: rec.Number, Top: t}, err
	})
}

func (s *Supervisor) stats(ctx context.Context, sel api.Select) ([]api.Stats, error) {
	return each(ctx, s, sel, func(ctx context.Context, rec *state.Replica, h *hosted) (api.Stats, error) {
		st, err := h.client.Load().Stats(ctx)
		return api.Stats{
			Replica: api.ReplicaRef{ID: rec.ID, Name: rec.Name}, Service: rec.Service, At: st.At,
			ContainerStats: st.Containers[rec.ID], CPUs: rec.VCPUs, MachineMemory: st.MemTotal,
		}, err
	})
}

// archive finds the machine that has the files of a container. One that does not
// run gets its machine for as long as it takes: done, which is never nil, ends
// that.
func (s *Supervisor) archive(ctx context.Context, a api.Archive) (h *hosted, w wire.Archive, done func(), err error) {
	done = func() {}
	r, h, err := s.running(a.Select)
	if err != nil && a.Replica != "" {
		var findErr error
		if r, findErr = s.find(a.Replica); findErr != nil {
			return nil, w, done, findErr
		}
		if status := s.snapshot(r).Status; status != planner.StatusCreated && status != planner.StatusExited {
			return nil, w, done, err
		}
		// Counted before it is placed: who ends such machines looks at the count
		// while nobody can be placing it.
		s.mu.Lock()
		r.visits++
		s.mu.Unlock()
		leave := func() {
			s.mu.Lock()
			r.visits--
			s.mu.Unlock()
			s.settleBoot(r)
		}
		if h, err = s.placed(ctx, r); err == nil {
			done = leave
		} else {
			leave()
		}
	}
	if err != nil {
		return nil, w, done, err
	}
	return h, wire.Archive{ID: s.snapshot(r).ID, Path: a.Path, FollowLink: a.FollowLink, CopyUIDGID: a.CopyUIDGID, Whole: a.Whole}, done, nil
}

// doneReader calls done once its stream is closed.
type doneReader struct {
	io.ReadCloser
	done func()
}

func (d doneReader) Close() error {
	defer d.done()
	return d.ReadCloser.Close()
}

func (s *Supervisor) get(ctx context.Context, a api.Archive) (wire.ArchiveStat, io.ReadCloser, error) {
	h, w, done, err := s.archive(ctx, a)
	if err != nil {
		return wire.ArchiveStat{}, nil, err
	}
	st, r, err := h.client.Load().Get(ctx, w)
	if err != nil {
		done()
		return st, nil, machineFault(err)
	}
	return st, doneReader{r, done}, nil
}

func (s *Supervisor) put(ctx context.Context, a api.Archive, tar io.Reader) error {
	h, w, done, err := s.archive(ctx, a)
	if err != nil {
		return err
	}
	defer done()
	return machineFault(h.client.Load().Put(ctx, w, tar))
}

func (s *Supervisor) stat(ctx context.Context, a api.Archive) (wire.ArchiveStat, error) {
	h, w, done, err := s.archive(ctx, a)
	if err != nil {
		return wire.ArchiveStat{}, err
	}
	defer done()
	st, err := h.client.Load().Stat(ctx, w)
	return st, machineFault(err)
}
