package planner

import (
	"fmt"
	"slices"

	"github.com/stackvm/stack/spec"
)

// selection checks a Selection against what there is, and tells what it names.
func selection(observed State, desired *spec.Project, services []string) (func(string) bool, error) {
	for _, s := range services {
		_, provided := observed.Providers[s]
		known := provided || desired != nil && desired.Services[s] != nil ||
			slices.ContainsFunc(observed.Replicas, func(r Replica) bool { return r.Service == s })
		if !known {
			return nil, &spec.Error{Err: fmt.Errorf("no such service: %s", s)}
		}
	}
	return func(service string) bool {
		if len(services) > 0 {
			return slices.Contains(services, service)
		}
		return desired == nil || desired.Services[service] != nil
	}, nil
}

// StopAll returns the steps that stop replicas, those that depend on others first.
// desired may be nil.
func StopAll(observed State, desired *spec.Project, project string, sel Selection) (Plan, error) {
	b := &builder{project: project, timeout: seconds(sel.Timeout)}
	selected, err := selection(observed, desired, sel.Services)
	if err != nil {
		return Plan{}, err
	}
	ending := map[string]*node{}
	b.reverse(observed, desired, func(r *Replica, after []*node) *node {
		if r.OneOff || !selected(r.Service) || !holds(r.Status) {
			return nil
		}
		ending[r.ID] = b.replica(Stop, r, "stop", after...)
		return ending[r.ID]
	}, func(service string, after []*node) *node {
		if !selected(service) {
			return nil
		}
		return b.provider(Stop, service, "stop", after)
	})
	b.stopShared(observed, Stop, "nothing mounts from it any more", ending)
	return b.plan()
}

// RemoveAll returns the steps of rm: replicas that do not run are removed; those
// that do, only with Selection.Stop. desired may be nil.
func RemoveAll(observed State, desired *spec.Project, project string, sel Selection) (Plan, error) {
	b := &builder{project: project, timeout: seconds(sel.Timeout)}
	selected, err := selection(observed, desired, sel.Services)
	if err != nil {
		return Plan{}, err
	}
	ending := map[string]*node{}
	b.reverse(observed, desired, func(r *Replica, after []*node) *node {
		if r.OneOff || !selected(r.Service) || holds(r.Status) && !sel.Stop {
			return nil
		}
		var stop *node
		if holds(r.Status) {
			stop = b.replica(Stop, r, "rm --stop", after...)
			after = nil
		}
		rm := b.replica(Remove, r, "rm", append(after, stop)...)
		if sel.Volumes {
			rm.Discard, rm.Destructive = r.Anonymous, len(r.Anonymous) > 0
		}
		ending[r.ID] = rm
		return first(stop, rm)
	}, nil)
	b.stopShared(observed, Stop, "nothing mounts from it any more", ending)
	return b.plan()
}

// StartAll returns the steps that start replicas that exist and do not run, each
// after the conditions of what it depends on. desired may be nil.
func StartAll(observed State, desired *spec.Project, project string, sel Selection) (Plan, error) {
	b := &builder{project: project, timeout: -1}
	selected, err := selection(observed, desired, sel.Services)
	if err != nil {
		return Plan{}, err
	}
	if desired == nil && len(observed.Providers) == 0 && !slices.ContainsFunc(observed.Replicas, func(r Replica) bool { return !r.OneOff }) {
		return Plan{}, fmt.Errorf("no container found for project %q: not found", project) // docker compose's words
	}
	starts := func(r *Replica) bool {
		return selected(r.Service) && !r.OneOff && r.Status != StatusRunning && r.Status != StatusRestarting
	}
	shared, stuck := b.shareRecorded(observed, starts)
	for _, v := range sortedKeys(stuck) {
		return Plan{}, &spec.Error{Err: fmt.Errorf("volume %s is a disk of %s, which runs, and another replica wants it", v, stuck[v]), Hint: "run up, which moves it to the storage machine"}
	}
	deps, order := dependencyOrder(observed, desired)
	slots := map[string][]*slot{}
	for _, service := range order {
		var needs []*node
		for _, dep := range sortedKeys(deps[service]) {
			for _, s := range slots[dep] {
				needs = append(needs, b.condition(s, deps[service][dep], service))
			}
		}
		if !selected(service) {
			continue
		}
		var starting []*slot
		for i := range observed.Replicas {
			r := &observed.Replicas[i]
			if r.Service != service || r.OneOff {
				continue
			}
			s := &slot{service: service, name: r.Name, number: r.Number, was: r}
			if starts(r) {
				starting = append(starting, s)
			}
			slots[service] = append(slots[service], s)
		}
		for i, after := range b.preStartAgain(starting, func(r *Replica) []*node { return append(shared(r), needs...) }) {
			r := starting[i].was
			starting[i].start = b.replica(Start, r, "is "+string(r.Status), after...)
		}
		if len(slots[service]) == 0 && desired != nil && desired.Services[service] != nil && desired.Services[service].Scale > 0 {
			return Plan{}, &spec.Error{Pos: desired.Services[service].Pos, Err: fmt.Errorf("service %q has no container to start", service), Hint: "make it with up or create"}
		}
	}
	if sel.Wait {
		for _, service := range order {
			for _, s := range slots[service] {
				if !s.isUp() {
					b.wait(s, RunningOrHealthy, "--wait", false)
				}
			}
		}
	}
	return b.plan()
}

// RestartAll returns the steps that restart replicas as they are: the file is not
// read again. Services that depend on a restarted one with restart: true are
// restarted after it.
func RestartAll(observed State, desired *spec.Project, project string, sel Selection) (Plan, error) {
	b := &builder{project: project, timeout: seconds(sel.Timeout)}
	selected, err := selection(observed, desired, sel.Services)
	if err != nil {
		return Plan{}, err
	}
	deps, order := dependencyOrder(observed, desired)
	steps := map[string][]*node{}
	for _, service := range order {
		var needs []*node
		follows := false
		for _, dep := range sortedKeys(deps[service]) {
			if deps[service][dep].Restart {
				needs = append(needs, steps[dep]...)
				follows = follows || len(steps[dep]) > 0 && !sel.NoDeps
			}
		}
		if !selected(service) && !follows {
			continue
		}
		for i := range observed.Replicas {
			r := &observed.Replicas[i]
			if r.Service != service || r.OneOff {
				continue
			}
			verb, cause := Restart, "restart"
			switch {
			case !selected(service):
				cause = "what it depends on is restarted"
			case !holds(r.Status):
				verb, cause = Start, "is "+string(r.Status)
			}
			steps[service] = append(steps[service], b.replica(verb, r, cause, needs...))
		}
	}
	return b.plan()
}

// dependencyOrder returns services with what they depend on, in that order.
func dependencyOrder(observed State, desired *spec.Project) (dependencies, []string) {
	deps := ofReplicas(observed.Replicas)
	deps.addProviders(observed.Providers)
	if desired != nil {
		for name, s := range desired.Services {
			deps[name] = s.DependsOn
		}
	}
	deps = deps.acyclic()
	order, _ := deps.order() // no cycle is left
	return deps, order
}
