package supervisor

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/image"
	"github.com/stackvm/stack/runtime/machine"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/spec"
)

// A pre_start hook is a container of its own image in the machine of the replica
// that it goes before. It has that one's network, mounts and namespaces, and a
// scratch disk that goes with it.

// hookImages are the images of a service's hooks.
func (s *Supervisor) hookImages(svc *spec.Service) ([]*image.Image, error) {
	var images []*image.Image
	for _, h := range svc.PreStart {
		img, err := s.opt.Images.Get(h.Container.Image, h.Container.Platform)
		if err != nil {
			return nil, &spec.Error{Pos: h.Container.Keys["image"], Err: fmt.Errorf("service %q: %w", svc.Name, err)}
		}
		images = append(images, img)
	}
	return images, nil
}

// hookMounts are what a service's hooks mount that its machine must have.
func hookMounts(p *spec.Project, svc *spec.Service) ([]state.MountUse, error) {
	var uses []state.MountUse
	for _, h := range svc.PreStart {
		own, err := mountsOf(p, h.Container, image.Config{}, nil, nil)
		if err != nil {
			return nil, err
		}
		for _, use := range own {
			if !use.Anonymous && use.Type != spec.MountTmpfs {
				uses = append(uses, use)
			}
		}
	}
	return uses, nil
}

// hookContainers write down all that the agent needs to make a replica's hooks, as
// containerOf does for the replica itself.
func (s *Supervisor) hookContainers(m making, images []*image.Image, rec *state.Replica, of *wire.Container) ([]wire.Container, error) {
	var out []wire.Container
	for i, h := range m.service.PreStart {
		// What an anonymous volume of its own would keep goes with its disk.
		own := *h.Container
		own.Mounts = slices.DeleteFunc(slices.Clone(own.Mounts), func(m spec.Mount) bool {
			return m.Type == spec.MountVolume && m.Source == ""
		})
		shared := slices.DeleteFunc(slices.Clone(rec.Mounts), func(m state.MountUse) bool { return m.Type == spec.MountTmpfs })
		mounts, err := mountsOf(m.project, &own, image.Config{}, nil, shared)
		if err != nil {
			return nil, err
		}
		as := clone(rec)
		as.Image, as.Mounts, as.Logging, as.ScratchBytes = own.Image, mounts, spec.Logging{Driver: "none"}, cmp.Or(own.StorageSize, rec.ScratchBytes)
		hook := m
		hook.service, hook.image = &own, images[i]
		c, err := s.containerOf(hook, as)
		if err != nil {
			return nil, fmt.Errorf("pre_start[%d]: %w", i, err)
		}
		c.JoinNetwork, c.Hostname, c.Domainname = cmp.Or(of.JoinNetwork, rec.ID), of.Hostname, of.Domainname
		c.ID, c.Name, c.Root.Scratch, c.Health, c.TTY, c.Stdin, c.Log = "", "", "", nil, false, false, false
		out = append(out, c)
	}
	return out, nil
}

// runHook carries out a step that runs a pre_start hook, and tells what it writes.
func (c *change) runHook(ctx context.Context, step planner.Step, r *replica) error {
	source := fmt.Sprintf("%s pre_start[%d] ->", step.Service, step.Hook)
	out := &outputLines{write: func(line string) {
		c.event(api.Event{Kind: api.EventOutput, Output: &api.Output{Service: step.Service, Source: source, Line: line}})
	}}
	err := c.s.preStart(ctx, r, step, out)
	out.end()
	if err == nil {
		c.hasBooted(r)
	}
	return err
}

// preStart runs a hook of a replica that does not run, in its machine, which is
// booted if need be. The hook fails unless it ends with status 0; then the replica
// is not to be started.
func (s *Supervisor) preStart(ctx context.Context, r *replica, step planner.Step, out io.Writer) error {
	if err := r.op.lock(ctx); err != nil {
		return err
	}
	defer r.op.unlock()
	if status, err := s.beforeStart(r); err != nil || isUp(status) {
		return err
	}
	err := s.hook(ctx, r, step, out)
	if err != nil {
		s.failedStart(r, err)
	}
	return err
}

func (s *Supervisor) hook(ctx context.Context, r *replica, step planner.Step, out io.Writer) error {
	h, err := s.hosting(ctx, r)
	if err != nil {
		return err
	}
	rec := s.snapshot(r)
	resolved, err := s.opt.State.Resolved(rec.ID)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("service %q pre_start[%d]", step.Service, step.Hook)
	if step.Hook >= len(resolved.PreStart) {
		return fmt.Errorf("%s: container %s was made without it: make it again with up --force-recreate", what, rec.Name)
	}
	container := resolved.PreStart[step.Hook]
	container.ID, container.Name = state.NewID(), step.Name
	container.Root.Scratch = scratchSerial(container.ID)
	s.shareMounts(h, &container)
	if err := s.joinStorage(ctx, h, rec, &container); err != nil {
		return err
	}
	// Its service's names lead to it, as with compose.
	if err := s.attachReplica(h, rec); err != nil {
		return err
	}
	disk := machine.Disk{Serial: container.Root.Scratch, Kind: machine.DiskScratch, Extents: []machine.Extent{{
		Path: filepath.Join(s.opt.State.ReplicaDir(rec.ID), fmt.Sprintf("pre_start-%d.img", step.Hook)), Bytes: container.Root.ScratchBytes,
	}}}
	var said tail
	exit, err := s.runToEnd(ctx, h, container, rec.Mounts, disk, io.MultiWriter(&said, out))
	switch {
	case err != nil && h.hasDied():
		return fmt.Errorf("%s: %w", what, h.explain(err))
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	case exit.OOM:
		return fmt.Errorf("%s exited with code %d: out of memory%s", what, exit.Code, said.said())
	case exit.Code != 0:
		return fmt.Errorf("%s exited with code %d%s", what, exit.Code, said.said())
	}
	return nil
}

// runToEnd makes a container in a machine, with a scratch disk, and removes both
// when it has ended, or ctx has.
func (s *Supervisor) runToEnd(ctx context.Context, h *hosted, container wire.Container, mounts []state.MountUse, scratch machine.Disk, out io.Writer) (exit wire.ExitStatus, err error) {
	after := context.WithoutCancel(ctx)
	path := scratch.Extents[0].Path
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a supervisor that died
		return exit, err
	}
	if err := s.opt.Scratch.Clone(path, scratch.Extents[0].Bytes); err != nil {
		return exit, fmt.Errorf("making its disk: %w", err)
	}
	defer func() { s.warn("removing a disk", os.Remove(path), "container", container.Name) }()
	if err := h.m.AddDisk(ctx, scratch); err != nil {
		return exit, err
	}
	defer func() {
		if !h.hasDied() {
			s.warn("detaching a disk", h.m.RemoveDisk(after, scratch.Serial), "container", container.Name)
		}
	}()
	s.setHook(h, container.ID, true)
	defer s.setHook(h, container.ID, false)
	client := h.client.Load()
	if err := client.Create(ctx, container); err != nil {
		return exit, err
	}
	defer func() {
		if !h.hasDied() {
			s.warn("ending a hook", s.endHook(h, container.ID), "container", container.Name)
		}
	}()
	s.relaySockets(h, container.ID, mounts)
	session, err := client.Attach(ctx, wire.Attach{ID: container.ID})
	if err != nil {
		return exit, err
	}
	if _, err := client.Start(ctx, container.ID); err != nil {
		session.Close()
		return exit, err
	}
	return follow(ctx, session, out)
}

func (s *Supervisor) setHook(h *hosted, id string, runs bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.hooks[id] = runs; !runs {
		delete(h.hooks, id)
	}
}

// endHook kills a hook's container, if it still runs, and removes it.
func (s *Supervisor) endHook(h *hosted, id string) error {
	client := h.client.Load()
	if client == nil {
		return nil // the machine's agent does not answer: it is ended as a whole
	}
	ctx, cancel := context.WithTimeout(h.ctx, farewellTimeout)
	defer cancel()
	_, err := client.Stop(ctx, wire.Stop{ID: id, Signal: "SIGKILL"})
	if e, ok := errors.AsType[*wire.Error](err); err == nil || ok && e.Code == wire.CodeConflict { // which never ran
		err = client.Remove(ctx, id)
	} else if ok && e.Code == wire.CodeNotFound {
		err = nil
	}
	return err
}

// maxOutputLine bounds what is kept of a line until its end, in bytes.
const maxOutputLine = 16 << 10

// outputLines passes what is written to it on by lines.
type outputLines struct {
	rest  []byte
	write func(line string)
}

func (o *outputLines) Write(p []byte) (int, error) {
	o.rest = append(o.rest, p...)
	for {
		n := bytes.IndexByte(o.rest, '\n')
		if n < 0 && len(o.rest) <= maxOutputLine {
			return len(p), nil
		}
		if n < 0 || n > maxOutputLine {
			o.write(string(o.rest[:maxOutputLine]))
			o.rest = o.rest[maxOutputLine:]
			continue
		}
		o.write(string(o.rest[:n]))
		o.rest = o.rest[n+1:]
	}
}

// end passes the last line on, if it has no end of its own.
func (o *outputLines) end() {
	if len(o.rest) > 0 {
		o.write(string(o.rest))
		o.rest = nil
	}
}
