package state

import (
	"cmp"
	"maps"
	"slices"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/spec"
)

// What is said of a replica whose machine ended while nobody was there.
const (
	LostExitCode = 255
	LostError    = "its machine ended while no supervisor ran"
)

// Observe returns the replicas and networks of a project as the planner sees
// them, from files alone; with project "" those of every project. Volumes and
// Images are for the caller to add, from their stores. Networks of no project
// are included: an external one may be meant.
//
// alive tells whether a machine's process still runs; nil asks the host. A
// replica that is recorded as running in a machine that does not is reported
// dead: nobody has been there to see it end.
func (s *Store) Observe(project string, alive func(*Machine) bool) (planner.State, error) {
	if alive == nil {
		alive = func(m *Machine) bool { return ProcessAlive(m.Record.PID, m.Record.StartTime, m.Record.HostBoot) }
	}
	var st planner.State
	replicas, err := s.Replicas()
	if err != nil {
		return st, err
	}
	for _, r := range replicas {
		if project == "" || r.Project == project {
			s.settle(r, alive)
			st.Replicas = append(st.Replicas, r.Observed())
		}
	}
	if st.Providers, err = s.Providers(project); err != nil {
		return st, err
	}
	networks, err := s.Networks()
	if err != nil {
		return st, err
	}
	for _, n := range networks {
		if n.Phase == Made && (project == "" || n.Project == project || n.Project == "") {
			st.Networks = append(st.Networks, planner.Network{ID: n.ID, Name: n.Name, Key: n.Key, Hash: n.Hash, Project: n.Project})
		}
	}
	storages, err := s.Storages()
	if err != nil {
		return st, err
	}
	for _, o := range storages {
		if o.Project != project {
			continue
		}
		machines, err := s.Machines()
		if err != nil {
			return st, err
		}
		st.Storage = o.Observed(slices.ContainsFunc(machines, func(m *Machine) bool { return m.Serves == o.ID && alive(m) }))
	}
	return st, nil
}

// Observed is the storage machine as the planner sees it.
func (s *Storage) Observed(running bool) planner.Storage {
	return planner.Storage{Name: s.Project, Volumes: slices.Sorted(maps.Keys(s.Volumes)), Running: running}
}

// Settled returns the replicas of a project, or of all for "", with statuses
// corrected as Observe does: what ps and ls show.
func (s *Store) Settled(project string) ([]*Replica, error) {
	replicas, err := s.Replicas()
	var kept []*Replica
	for _, r := range replicas {
		if project == "" || r.Project == project {
			s.settle(r, func(m *Machine) bool { return ProcessAlive(m.Record.PID, m.Record.StartTime, m.Record.HostBoot) })
			kept = append(kept, r)
		}
	}
	return kept, err
}

func (s *Store) settle(r *Replica, alive func(*Machine) bool) {
	if r.Phase != Made {
		r.Status = planner.StatusDead
		return
	}
	switch r.Status {
	case planner.StatusRunning, planner.StatusPaused, planner.StatusRestarting:
	default:
		return
	}
	// Between two runs of a restarting replica there may be no machine.
	if r.Status == planner.StatusRestarting && r.Machine == "" {
		return
	}
	if m, err := s.Machine(r.Machine); err == nil && alive(m) {
		return
	}
	r.Status, r.ExitCode, r.Health, r.Published, r.HostPorts, r.Unopened = planner.StatusExited, LostExitCode, nil, nil, nil, ""
	if r.Error == "" {
		r.Error = LostError
	}
}

// Observed is the replica as the planner sees it.
func (r *Replica) Observed() planner.Replica {
	o := planner.Replica{
		ID: r.ID, Name: r.Name, Service: r.Service, Number: r.Number, OneOff: r.OneOff,
		Status: r.Status, ExitCode: r.ExitCode, Created: r.Created,
		Provided: r.Provided, Hash: r.Hash, Aspects: r.Aspects, Image: r.Image, ImageID: r.ImageID, DependsOn: r.DependsOn,
		Group: cmp.Or(r.Group, r.Guests),
	}
	if r.Health != nil && (r.Status == planner.StatusRunning || r.Status == planner.StatusPaused) {
		o.Health = string(r.Health.Status)
	}
	for _, e := range r.Endpoints {
		o.Networks = append(o.Networks, e.Network)
	}
	for _, h := range r.PreStart {
		o.PreStart = append(o.PreStart, planner.Hook{PerReplica: h.PerReplica})
	}
	for _, m := range r.MachineMounts() {
		switch {
		case m.Type != spec.MountVolume:
		case m.Anonymous:
			o.Anonymous = append(o.Anonymous, m.Volume)
		default:
			o.Volumes = append(o.Volumes, m.Volume)
		}
	}
	slices.Sort(o.Networks)
	slices.Sort(o.Volumes)
	o.Networks, o.Volumes = slices.Compact(o.Networks), slices.Compact(o.Volumes)
	return o
}
