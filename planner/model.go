package planner

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/stackvm/stack/spec"
)

// Apply carries a plan out on a model: it returns what observing would find
// after every step went well. Tests of planners and engines compare with it.
// Wait steps hold at once: a replica that is waited for becomes healthy, or
// exits with 0.
func Apply(s State, p Plan, desired *spec.Project, now time.Time) State {
	m := model{
		s:       State{Replicas: slices.Clone(s.Replicas), Networks: slices.Clone(s.Networks), Volumes: slices.Clone(s.Volumes), Images: maps.Clone(s.Images), Storage: s.Storage},
		desired: desired, now: now, project: p.Project,
	}
	m.s.Providers = maps.Clone(s.Providers)
	if m.s.Providers == nil {
		m.s.Providers = map[string]Provider{}
	}
	if m.s.Images == nil {
		m.s.Images = map[string]Image{}
	}
	for _, step := range p.Steps {
		switch step.Noun {
		case ImageNoun:
			m.image(step)
		case NetworkNoun:
			m.network(step)
		case VolumeNoun:
			if step.Verb == Attach || step.Verb == Detach {
				m.serve(step.Name, step.Verb == Attach)
				continue
			}
			m.volume(step)
		case StorageNoun:
			m.s.Storage.Name, m.s.Storage.Running = step.Name, step.Verb == Start
			if step.Verb == Remove {
				m.s.Storage = Storage{}
			}
		case ReplicaNoun:
			m.replica(step)
		case ProviderNoun:
			m.provider(step)
		}
	}
	return m.s
}

type model struct {
	s       State
	desired *spec.Project
	project string
	now     time.Time
}

func (m *model) image(step Step) {
	if step.Verb == Remove {
		delete(m.s.Images, step.Name)
		return
	}
	id := "id of " + step.Name
	if old, ok := m.s.Images[step.Name]; ok {
		id = old.ID
	}
	m.s.Images[step.Name] = Image{ID: id, Pulled: m.now}
}

func (m *model) network(step Step) {
	m.s.Networks = slices.DeleteFunc(m.s.Networks, func(n Network) bool { return n.Name == step.Name })
	if step.Verb == Remove {
		return
	}
	for key, n := range m.desired.Networks {
		if n.Name == step.Name {
			m.s.Networks = append(m.s.Networks, Network{ID: fmt.Sprintf("network %d", step.ID), Name: n.Name, Key: key, Hash: n.Hash, Project: m.project})
		}
	}
}

func (m *model) volume(step Step) {
	m.s.Volumes = slices.DeleteFunc(m.s.Volumes, func(v Volume) bool { return v.Name == step.Name })
	if step.Verb == Remove {
		m.serve(step.Name, false)
		return
	}
	for key, v := range m.desired.Volumes {
		if v.Name == step.Name {
			m.s.Volumes = append(m.s.Volumes, Volume{Name: v.Name, Key: key, Hash: v.Hash, Project: m.project})
		}
	}
}

func (m *model) provider(step Step) {
	switch step.Verb {
	case Run:
		m.s.Providers[step.Name] = Provider{Ran: m.now, Variables: m.s.Providers[step.Name].Variables}
	case Remove:
		delete(m.s.Providers, step.Name)
	}
}

// serve gives a volume to the storage machine, or takes it back.
func (m *model) serve(volume string, has bool) {
	st := &m.s.Storage
	st.Volumes = slices.DeleteFunc(slices.Clone(st.Volumes), func(v string) bool { return v == volume })
	if has {
		st.Name, st.Volumes = m.project, append(st.Volumes, volume)
		slices.Sort(st.Volumes)
	}
}

func (m *model) replica(step Step) {
	if step.Verb == Create {
		m.s.Replicas = append(m.s.Replicas, m.made(step))
		return
	}
	// Steps that follow a create or recreate of the plan know only the name.
	i := slices.IndexFunc(m.s.Replicas, func(r Replica) bool {
		return r.ID == step.Replica || step.Replica == "" && r.Name == step.Name
	})
	if i < 0 {
		return
	}
	r := &m.s.Replicas[i]
	switch step.Verb {
	case Start, Restart:
		r.Status, r.Health = StatusRunning, ""
		if svc := m.service(step.Service); svc != nil && svc.Healthcheck != nil && !svc.Healthcheck.Disable {
			r.Health = "starting"
		}
	case Wait:
		switch {
		case step.Condition == spec.ConditionCompleted:
			r.Status, r.ExitCode, r.Health = StatusExited, 0, ""
		case step.Condition == spec.ConditionHealthy || r.Health != "":
			r.Health = "healthy"
		}
		if r.Status == StatusRestarting && step.Condition != spec.ConditionStarted {
			r.Status = StatusRunning
		}
	case Stop:
		r.Status, r.ExitCode, r.Health = StatusExited, 143, ""
	case Recreate:
		m.discard(step.Discard)
		m.s.Replicas[i] = m.made(step)
	case Remove:
		m.discard(step.Discard)
		m.s.Replicas = slices.Delete(m.s.Replicas, i, i+1)
	}
}

func (m *model) discard(names []string) {
	m.s.Volumes = slices.DeleteFunc(m.s.Volumes, func(v Volume) bool { return slices.Contains(names, v.Name) })
}

func (m *model) service(name string) *spec.Service {
	if m.desired == nil {
		return nil
	}
	return m.desired.Services[name]
}

// made is the replica that a create or recreate makes.
func (m *model) made(step Step) Replica {
	svc := m.desired.Services[step.Service]
	r := Replica{
		ID: fmt.Sprintf("%s made by step %d at %d", step.Name, step.ID, m.now.UnixNano()), Name: step.Name, Service: step.Service, Number: step.Number,
		Status: StatusCreated, Created: m.now, Hash: svc.Hash, Aspects: svc.Aspects,
		Image: svc.Image, ImageID: m.s.Images[svc.Image].ID, Anonymous: slices.Clone(step.Inherit),
		DependsOn: map[string]string{},
	}
	for dep, how := range svc.DependsOn {
		r.DependsOn[dep] = how.Condition
	}
	r.PreStart, r.Provided = hooksOf(svc), map[string]string{}
	for dep := range svc.DependsOn {
		if p, ok := m.s.Providers[dep]; ok {
			r.Provided[dep] = p.Variables
		}
	}
	for key := range svc.Networks {
		r.Networks = append(r.Networks, m.desired.Networks[key].Name)
	}
	anonymous := 0
	for _, mount := range svc.MachineMounts() {
		if mount.Type == spec.MountVolume && mount.Source != "" {
			r.Volumes = append(r.Volumes, m.desired.Volumes[mount.Source].Name)
		}
	}
	for _, mount := range svc.Mounts {
		if mount.Type == spec.MountVolume && mount.Source == "" {
			if anonymous++; anonymous > len(r.Anonymous) {
				name := fmt.Sprintf("%s %s", r.ID, mount.Target)
				r.Anonymous = append(r.Anonymous, name)
				m.s.Volumes = append(m.s.Volumes, Volume{Name: name, Project: m.project, Anonymous: true})
			}
		}
	}
	slices.Sort(r.Networks)
	slices.Sort(r.Volumes)
	r.Volumes = slices.Compact(r.Volumes)
	return r
}
