package planner

import (
	"slices"

	"github.com/stackvm/stack/spec"
)

// Down returns the steps that take a project down: replicas, those that depend
// on others first, then the networks, and what else DownOptions ask for. With
// no desired project everything recorded is the project's, and the order is the
// one recorded when the replicas were made.
func Down(observed State, desired *spec.Project, project string, opt DownOptions) (Plan, error) {
	b := &builder{project: project, timeout: seconds(opt.Timeout)}
	inFile := func(service string) bool { return desired == nil || desired.Services[service] != nil }
	if _, err := selection(observed, desired, opt.Services); err != nil {
		return Plan{}, err
	}
	selected := func(service string) bool { return len(opt.Services) == 0 || slices.Contains(opt.Services, service) }

	going := map[string]*node{} // by replica id
	b.reverse(observed, desired, func(r *Replica, after []*node) *node {
		switch {
		case r.OneOff && !(opt.RemoveOrphans && selected(r.Service)):
			return nil
		case !selected(r.Service), !inFile(r.Service) && !opt.RemoveOrphans:
			return nil
		}
		var stop *node
		if holds(r.Status) {
			stop = b.replica(Stop, r, "down", after...)
			after = nil
		}
		rm := b.replica(Remove, r, "down", append(after, stop)...)
		if opt.Volumes {
			rm.Discard, rm.Destructive = r.Anonymous, len(r.Anonymous) > 0
		}
		going[r.ID] = rm
		return first(stop, rm)
	}, func(service string, after []*node) *node {
		if !selected(service) || !inFile(service) && !opt.RemoveOrphans {
			return nil
		}
		return b.provider(Remove, service, "down", after)
	})

	users := func(uses func(*Replica) []string, name string) (gone []*node, left []string) {
		for i := range observed.Replicas {
			if r := &observed.Replicas[i]; slices.Contains(uses(r), name) {
				if n := going[r.ID]; n != nil {
					gone = append(gone, n)
				} else {
					left = append(left, r.Name)
				}
			}
		}
		return gone, left
	}
	for _, n := range slices.SortedFunc(slices.Values(observed.Networks), func(a, b Network) int { return cmpString(a.Name, b.Name) }) {
		if n.Project != project {
			continue
		}
		gone, left := users(func(r *Replica) []string { return r.Networks }, n.Name)
		switch {
		case len(left) > 0 && len(gone) > 0 || len(left) > 0 && len(opt.Services) == 0:
			b.warn("network %s is kept: %s uses it", n.Name, left[0])
		case len(left) == 0 && (len(gone) > 0 || len(opt.Services) == 0):
			b.add(Step{Verb: Remove, Noun: NetworkNoun, Name: n.Name, Cause: "down"}, gone...)
		}
	}
	storage := b.stopShared(observed, Remove, "down", going)
	if opt.Volumes {
		for _, v := range slices.SortedFunc(slices.Values(observed.Volumes), func(a, b Volume) int { return cmpString(a.Name, b.Name) }) {
			if v.Project != project {
				continue
			}
			gone, left := users(func(r *Replica) []string { return r.Volumes }, v.Name)
			switch {
			case v.Anonymous:
				// It goes with its replica; one that an earlier down left without any, now.
				theirs, kept := users(func(r *Replica) []string { return r.Anonymous }, v.Name)
				if len(theirs)+len(kept)+len(left) == 0 && len(opt.Services) == 0 {
					b.add(Step{Verb: Remove, Noun: VolumeNoun, Name: v.Name, Cause: "down --volumes", Destructive: true}, gone...)
				}
			case len(left) > 0 && len(gone) > 0 || len(left) > 0 && len(opt.Services) == 0:
				b.warn("volume %s is kept: %s uses it", v.Name, left[0])
			case len(left) == 0 && (len(gone) > 0 || len(opt.Services) == 0):
				b.add(Step{Verb: Remove, Noun: VolumeNoun, Name: v.Name, Cause: "down --volumes", Destructive: true}, append(gone, storage)...)
			}
		}
	}
	if opt.Images != "" {
		b.removeImages(observed, desired, opt, going)
	}
	return b.plan()
}

// removeImages plans down --rmi: all images of the project's services, or only
// those that have no name but the one given by default.
func (b *builder) removeImages(observed State, desired *spec.Project, opt DownOptions, going map[string]*node) {
	refs := map[string][]*node{}
	local := func(ref, service string) bool { return ref == b.project+"-"+service }
	note := func(ref, service string, n *node) {
		if _, there := observed.Images[ref]; there && (opt.Images == "all" || local(ref, service)) {
			refs[ref] = append(refs[ref], n)
		}
	}
	for i := range observed.Replicas {
		if r := &observed.Replicas[i]; going[r.ID] != nil {
			note(r.Image, r.Service, going[r.ID])
		}
	}
	if desired != nil && len(opt.Services) == 0 {
		for name, s := range desired.Services {
			note(s.Image, name, nil)
		}
	}
	for _, ref := range sortedKeys(refs) {
		b.add(Step{Verb: Remove, Noun: ImageNoun, Name: ref, Cause: "down --rmi " + opt.Images}, refs[ref]...)
	}
}

// reverse visits replicas so that what depends on others comes before them. fn
// gets the steps that must come first and returns the one that later visits
// wait for; a service without one passes on what it would have waited for.
// provider, which may be nil, is the same for services that providers brought up.
func (b *builder) reverse(observed State, desired *spec.Project, fn func(*Replica, []*node) *node, provider func(service string, after []*node) *node) {
	deps, order := dependencyOrder(observed, desired)
	slices.Reverse(order)
	byService := map[string][]*Replica{}
	for i := range observed.Replicas {
		r := &observed.Replicas[i]
		byService[r.Service] = append(byService[r.Service], r)
	}
	before := map[string][]*node{}
	for _, service := range order {
		rs := byService[service]
		slices.SortStableFunc(rs, func(a, b *Replica) int { return compareReplicas(a, b) })
		var done []*node
		for _, r := range rs {
			if n := fn(r, slices.Clone(before[service])); n != nil {
				done = append(done, n)
			}
		}
		if _, ok := observed.Providers[service]; ok && provider != nil {
			if n := provider(service, slices.Clone(before[service])); n != nil {
				done = append(done, n)
			}
		}
		if len(done) == 0 {
			done = before[service]
		}
		for dep := range deps[service] {
			for _, n := range done {
				if !slices.Contains(before[dep], n) {
					before[dep] = append(before[dep], n)
				}
			}
		}
	}
}

func compareReplicas(a, b *Replica) int {
	if c := compareBool(a.OneOff, b.OneOff); c != 0 {
		return c
	}
	if a.Number != b.Number {
		return a.Number - b.Number
	}
	return cmpString(a.Name, b.Name)
}

func cmpString(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
