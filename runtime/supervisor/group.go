package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/spec"
)

// A group is the replicas that live in one machine because their services say
// so. Whichever of them starts first has the machine booted, with what all of
// them need at boot; the others enter it; it ends with the last.

// groupOf names the group that a new replica belongs to, or nothing.
func (s *Supervisor) groupOf(p *spec.Project, svc *spec.Service, number int) string {
	m := svc.Machine
	if m == nil || m.Host == "" {
		return ""
	}
	if !svc.Shared() { // the host's own, of which the first is the group's
		if r := s.firstOf(p.Name, svc.Name); r != nil && s.snapshot(r).Number < number {
			return ""
		}
	}
	return p.Name + "/" + m.Host
}

// groupBinds are the host folders of all who live in a machine: it is given
// them when it boots.
func groupBinds(p *spec.Project, svc *spec.Service) []state.MountUse {
	var binds []state.MountUse
	lent := false // somebody may have them read-only
	for _, name := range svc.Machine.Services {
		lent = lent || len(p.Services[name].VolumesFrom) > 0
	}
	for _, name := range svc.Machine.Services {
		for _, m := range p.Services[name].MachineMounts() {
			if m.Type != spec.MountBind {
				continue
			}
			use := state.MountUse{Type: m.Type, Source: m.Source, ReadOnly: m.ReadOnly}
			binds = append(binds, use)
			if use.ReadOnly = true; lent {
				binds = append(binds, use)
			}
		}
	}
	return binds
}

// sharing decides in whose machine a replica will be that is in no group: one of
// a service that shares with another project's container, or a one-off.
func (s *Supervisor) sharing(p *spec.Project, svc *spec.Service, m *making) error {
	if svc.Machine == nil || !svc.Shared() {
		return nil
	}
	if svc.Machine.Container != "" {
		r, err := s.find(svc.Machine.Container)
		if err != nil {
			return &spec.Error{Pos: svc.Machine.Pos, Err: fmt.Errorf("service %q: no such container: %s", svc.Name, svc.Machine.Container)}
		}
		m.guests = s.snapshot(r).ID
		return nil
	}
	if m.slug == "" || svc.Machine.Host == svc.Name {
		return nil
	}
	r, _, err := s.running(api.Select{Project: p.Name, Services: []string{svc.Machine.Host}})
	if err != nil {
		return &spec.Error{Pos: svc.Machine.Pos, Err: fmt.Errorf("service %q shares the machine of service %q: %w", svc.Name, svc.Machine.Host, err)}
	}
	m.guests = s.snapshot(r).ID
	return nil
}

// firstOf returns the replica of a service with the lowest number.
func (s *Supervisor) firstOf(project, service string) *replica {
	s.mu.Lock()
	defer s.mu.Unlock()
	var first *replica
	for _, r := range s.replicas {
		if r.rec.Project == project && r.rec.Service == service && !r.rec.OneOff && r.rec.Phase == state.Made &&
			(first == nil || r.rec.Number < first.rec.Number) {
			first = r
		}
	}
	return first
}

// target returns the replica that a namespace's value means, nil if it means
// none.
func (s *Supervisor) target(project, mode string) (*replica, error) {
	service, container := spec.Reference(mode)
	switch {
	case service != "":
		if r := s.firstOf(project, service); r != nil {
			return r, nil
		}
		return nil, fmt.Errorf("service %q has no container", service)
	case container != "":
		return s.find(container)
	}
	return nil, nil //nolint:nilnil // none is meant
}

// joinNamespaces fills in whose namespaces a container shares. What it shares
// may itself be shared.
func (s *Supervisor) joinNamespaces(p *spec.Project, svc *spec.Service, c *wire.Container) error {
	for _, ns := range []struct {
		key, mode string
		of        func(*wire.Container) *string
	}{
		{"network_mode", svc.NetworkMode, func(c *wire.Container) *string { return &c.JoinNetwork }},
		{"ipc", svc.IPC, func(c *wire.Container) *string { return &c.JoinIPC }},
		{"pid", svc.PID, func(c *wire.Container) *string { return &c.JoinPID }},
	} {
		r, err := s.target(p.Name, ns.mode)
		if r == nil && err == nil {
			continue
		}
		if err != nil {
			return &spec.Error{Pos: svc.Keys[ns.key], Err: fmt.Errorf("service %q: %s: %w", svc.Name, ns.key, err)}
		}
		rec := s.snapshot(r)
		resolved, err := s.opt.State.Resolved(rec.ID)
		if err != nil {
			return fmt.Errorf("service %q: %s: container %s: %w", svc.Name, ns.key, rec.Name, err)
		}
		*ns.of(c) = cmp.Or(*ns.of(&resolved.Container), rec.ID)
		if ns.key == "network_mode" { // /etc/hostname is shared with it
			c.Hostname, c.Domainname = resolved.Container.Hostname, resolved.Container.Domainname
		}
	}
	return nil
}

// borrowed are the mounts that a service takes from others.
func (s *Supervisor) borrowed(p *spec.Project, svc *spec.Service) ([]state.MountUse, error) {
	var uses []state.MountUse
	for _, from := range svc.VolumesFrom {
		mode := "container:" + from.Container
		if from.Service != "" {
			mode = "service:" + from.Service
		}
		r, err := s.target(p.Name, mode)
		if err != nil {
			return nil, &spec.Error{Pos: svc.Keys["volumes_from"], Err: fmt.Errorf("service %q: volumes_from: %w", svc.Name, err)}
		}
		for _, use := range s.snapshot(r).Mounts {
			if use.Type == spec.MountTmpfs {
				continue // its own, as with docker
			}
			if use.Type == spec.MountSocket && !svc.Extension.HostDockerSocket {
				return nil, &spec.Error{
					Pos: svc.Keys["volumes_from"], Err: fmt.Errorf("service %q: volumes_from: that has the docker socket of the host", svc.Name),
					Hint: "say x-stack: {host_docker_socket: true} here too, if that is meant",
				}
			}
			use.Anonymous = false // it goes with the one that had it made
			use.ReadOnly = use.ReadOnly || from.ReadOnly
			uses = append(uses, use)
		}
	}
	return uses, nil
}

// lockGroup lets one replica of a group at a time be placed.
func (s *Supervisor) lockGroup(ctx context.Context, group string) (unlock func(), err error) {
	s.mu.Lock()
	l := s.groups[group]
	if l == nil {
		l = newOpLock()
		s.groups[group] = l
	}
	s.mu.Unlock()
	if err := l.lock(ctx); err != nil {
		return nil, err
	}
	return l.unlock, nil
}

// placeInGroup makes a replica's container in the machine of its group, which it
// boots if there is none. The caller holds r.op.
func (s *Supervisor) placeInGroup(ctx context.Context, r *replica, group string) error {
	unlock, err := s.lockGroup(ctx, group)
	if err != nil {
		return err
	}
	defer unlock()
	for {
		h, ending := s.groupHost(group)
		switch {
		case h == nil:
			return s.boot(ctx, r)
		case ending:
			select {
			case <-h.ended:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		default:
			if err := s.moveIn(ctx, r, h); !errors.Is(err, errLeaving) {
				return err
			}
		}
	}
}

// errLeaving: the machine to be entered is just ending.
var errLeaving = errors.New("the machine it shares no longer runs")

// groupHost is the machine of a group, and whether it is about to end.
func (s *Supervisor) groupHost(group string) (h *hosted, ending bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.replicas {
		if r.rec.Group == group && r.host != nil {
			return r.host, r.host.leaving != nil || r.host.killed || r.host.hasDied()
		}
	}
	return nil, false
}

// serials are the disks that a replica has in its machine. An image that is no
// longer in the store cannot be asked for its disk: what is mounted of it stays
// until the machine ends.
func (s *Supervisor) serials(rec *state.Replica) map[string]bool {
	out := map[string]bool{scratchSerial(rec.ID): true}
	for _, id := range imagesOf(rec) {
		out[imageSerial(id)] = true
	}
	shared := s.sharedVolumes(rec)
	for _, m := range rec.MachineMounts() {
		switch m.Type {
		case spec.MountVolume:
			if _, served := shared[m.Volume]; !served {
				out[volumeSerial(m.Volume)] = true
			}
		case spec.MountImage:
			if img, err := s.opt.Images.Get(m.Source, rec.Platform); err == nil {
				out[imageSerial(img.ID)] = true
			}
		}
	}
	return out
}

// othersIn are the disks and shares that the other replicas of a machine have.
func (s *Supervisor) othersIn(h *hosted, r *replica) map[string]bool {
	s.mu.Lock()
	var others []*state.Replica
	for _, o := range h.replicas {
		if o != r {
			others = append(others, clone(&o.rec))
		}
	}
	s.mu.Unlock()
	out := map[string]bool{}
	for _, o := range others {
		maps.Copy(out, s.serials(o))
		for _, sh := range s.shares(o) {
			out[sh.Name] = true
		}
	}
	return out
}
