package planner

// Resume returns the steps that start again the replicas that wanted tells,
// after the host or its supervisor has lost them: each after what it depends on,
// as far as that is started too or runs. A replica that cannot be started, or
// does not become what another waits for, keeps none of the others down.
func Resume(observed State, project string, wanted func(*Replica) bool) (Plan, error) {
	b := &builder{project: project, timeout: -1}
	shared, _ := b.shareRecorded(observed, func(r *Replica) bool { return !r.OneOff && wanted(r) })
	deps, order := dependencyOrder(observed, nil)
	slots := map[string][]*slot{}
	for _, service := range order {
		var needs []*node
		for _, dep := range sortedKeys(deps[service]) {
			how := deps[service][dep]
			how.Required = false
			for _, s := range slots[dep] {
				if s.start != nil {
					needs = append(needs, b.condition(s, how, service))
				}
			}
		}
		for i := range observed.Replicas {
			r := &observed.Replicas[i]
			if r.Service != service || r.OneOff {
				continue
			}
			s := &slot{service: service, name: r.Name, number: r.Number, was: r}
			if wanted(r) {
				s.start = b.replica(Start, r, "its restart policy", append(shared(r), needs...)...)
				s.start.Optional = true
			}
			slots[service] = append(slots[service], s)
		}
	}
	return b.plan()
}
