package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/machine/control"
	"github.com/stackvm/stack/spec"
)

// hookExecs are a service's hooks as its container runs them. What a hook's
// environment holds may be secret: they are kept with the container itself.
func hookExecs(hooks []spec.Hook) []wire.Exec {
	var out []wire.Exec
	for _, h := range hooks {
		e := wire.Exec{Args: h.Command, User: h.User, WorkingDir: h.WorkingDir, Privileged: h.Privileged}
		for _, k := range sortedKeys(h.Environment) {
			e.Env = append(e.Env, k+"="+h.Environment[k])
		}
		out = append(out, e)
	}
	return out
}

// hookOutput is how much of what a failed hook printed is told, in bytes.
const hookOutput = 1 << 10

// postStart runs what follows a start that was asked for; restarts by policy run
// none, as with docker compose. The caller holds r.op.
func (s *Supervisor) postStart(ctx context.Context, r *replica) error {
	resolved, err := s.opt.State.Resolved(s.snapshot(r).ID)
	if err != nil {
		return err
	}
	return s.runHooks(ctx, r, "post_start", resolved.PostStart)
}

// preStop runs what goes before a stop. A container that ends meanwhile has
// stopped, and one whose machine a full disk has paused could not run it. The
// caller holds r.op.
func (s *Supervisor) preStop(ctx context.Context, r *replica) error {
	s.mu.Lock()
	h := r.host
	able := h != nil && !h.full && !h.hasDied()
	s.mu.Unlock()
	if !able {
		return nil
	}
	resolved, err := s.opt.State.Resolved(s.snapshot(r).ID)
	if err != nil {
		return err
	}
	err = s.runHooks(ctx, r, "pre_stop", resolved.PreStop)
	if e, ok := errors.AsType[*wire.Error](err); ok && (e.Code == wire.CodeNotFound || e.Code == wire.CodeConflict) || h.hasDied() {
		return nil
	}
	return err
}

// runHooks runs commands in a container one after the other, until one fails.
func (s *Supervisor) runHooks(ctx context.Context, r *replica, which string, hooks []wire.Exec) error {
	if len(hooks) == 0 {
		return nil
	}
	s.mu.Lock()
	h, rec := r.host, clone(&r.rec)
	s.mu.Unlock()
	if h == nil || h.client.Load() == nil {
		return fmt.Errorf("container %s: %s: its machine does not run", rec.Name, which)
	}
	for i, hook := range hooks {
		hook.ID = rec.ID
		if err := runHook(ctx, h, hook); err != nil {
			return fmt.Errorf("container %s: %s[%d]: %w", rec.Name, which, i, err)
		}
	}
	return nil
}

func runHook(ctx context.Context, h *hosted, hook wire.Exec) error {
	session, _, err := h.client.Load().Exec(ctx, hook)
	if err != nil {
		return err
	}
	var out tail
	exit, err := follow(ctx, session, &out)
	if err == nil && exit.Code != 0 {
		err = fmt.Errorf("%q exited with status %d%s", hook.Args[0], exit.Code, out.said())
	}
	return err
}

// follow writes what a process writes until it ends, which it must have begun to.
func follow(ctx context.Context, session *control.Session, out io.Writer) (wire.ExitStatus, error) {
	defer session.Close()
	defer context.AfterFunc(ctx, func() { session.Close() })() // what wakes a blocked Run
	exit, err := session.Run(out, out)
	switch {
	case ctx.Err() != nil:
		return exit, context.Cause(ctx)
	case err != nil:
		return exit, err
	case exit.Error != "":
		return exit, errors.New(exit.Error)
	}
	return exit, nil
}

// said is the end of an error message that quotes what was written.
func (t *tail) said() string {
	if text := strings.TrimSpace(spec.Printable(string(t.b))); text != "" {
		return ": " + text
	}
	return ""
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - hookOutput; over > 0 {
		t.b = bytes.Clone(t.b[over:])
	}
	return len(p), nil
}
