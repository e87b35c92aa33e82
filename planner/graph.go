package planner

import (
	"container/heap"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/stackvm/stack/spec"
)

// node is a step in the making. Edges point to nodes, which get their numbers
// when all are there.
type node struct {
	Step
	index int // order of insertion: among ready steps, the earlier comes first
	after []*node
	needs int     // for ordering
	users []*node // likewise
}

// needs adds edges; nil nodes are steps that are not needed.
func (n *node) need(others ...*node) {
	n.after = slices.Grow(n.after, len(others))
	for _, o := range others {
		if o != nil && o != n && !slices.Contains(n.after, o) {
			n.after = append(n.after, o)
		}
	}
}

// builder collects steps.
type builder struct {
	project  string
	timeout  int
	nodes    []*node
	block    []node // to take nodes from
	waits    map[string]*node
	warnings []string
}

func (b *builder) add(s Step, after ...*node) *node {
	if s.TimeoutSeconds == 0 {
		s.TimeoutSeconds = -1
	}
	if len(b.block) == 0 { // a plan has thousands of them
		b.block = make([]node, 64)
	}
	n := &b.block[0]
	b.block = b.block[1:]
	n.Step, n.index = s, len(b.nodes)
	n.need(after...)
	b.nodes = append(b.nodes, n)
	return n
}

// replica adds a step on a replica that exists.
func (b *builder) replica(v Verb, r *Replica, cause string, after ...*node) *node {
	n := b.add(Step{Verb: v, Noun: ReplicaNoun, Name: r.Name, Cause: cause, Service: r.Service, Number: r.Number, Replica: r.ID}, after...)
	if v == Stop || v == Recreate || v == Restart || v == Remove {
		n.TimeoutSeconds = b.timeout
	}
	return n
}

// wait returns the step that waits for a condition of a replica, one for all
// who wait for it.
func (b *builder) wait(s *slot, condition, cause string, optional bool) *node {
	key := condition + " " + s.name
	n := b.waits[key]
	if n == nil {
		n = b.add(Step{
			Verb: Wait, Noun: ReplicaNoun, Name: s.name, Cause: cause, Service: s.service, Number: s.number,
			Replica: s.id(), Condition: condition, Optional: optional,
		}, s.start)
		if b.waits == nil {
			b.waits = map[string]*node{}
		}
		b.waits[key] = n
	}
	n.Optional = n.Optional && optional
	return n
}

func (b *builder) warn(format string, args ...any) {
	b.warnings = append(b.warnings, fmt.Sprintf(format, args...))
}

// sortedKeys returns a map's keys in order, in one allocation: a plan of a
// thousand services sorts thousands of small maps.
func sortedKeys[V any](m map[string]V) []string {
	if len(m) == 0 {
		return nil
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// ready is a heap of steps whose needs are all placed.
type ready []*node

func (r ready) Len() int           { return len(r) }
func (r ready) Less(i, j int) bool { return r[i].index < r[j].index }
func (r ready) Swap(i, j int)      { r[i], r[j] = r[j], r[i] }
func (r *ready) Push(x any)        { *r = append(*r, x.(*node)) }
func (r *ready) Pop() any {
	old := *r
	n := old[len(old)-1]
	*r = old[:len(old)-1]
	return n
}

// plan orders the steps and numbers them.
func (b *builder) plan() (Plan, error) {
	var q ready
	edges := 0
	for _, n := range b.nodes {
		edges += len(n.after)
	}
	ids := make([]int, 0, edges)
	for _, n := range b.nodes {
		n.needs = len(n.after)
		for _, a := range n.after {
			a.users = append(a.users, n)
		}
		if n.needs == 0 {
			q = append(q, n) // by index already
		}
	}
	p := Plan{Version: Version, Project: b.project, Warnings: b.warnings, Steps: make([]Step, 0, len(b.nodes))}
	for q.Len() > 0 {
		n := heap.Pop(&q).(*node)
		n.ID = len(p.Steps) + 1
		if len(n.after) > 0 {
			from := len(ids)
			for _, a := range n.after {
				ids = append(ids, a.ID)
			}
			n.After = ids[from:len(ids):len(ids)]
			slices.Sort(n.After)
		}
		p.Steps = append(p.Steps, n.Step)
		for _, u := range n.users {
			if u.needs--; u.needs == 0 {
				heap.Push(&q, u)
			}
		}
	}
	if len(p.Steps) != len(b.nodes) {
		return Plan{}, fmt.Errorf("steps wait for each other: %s", b.stuck())
	}
	return p, nil
}

// stuck names the steps of a cycle.
func (b *builder) stuck() string {
	edges := map[string][]string{}
	for _, n := range b.nodes {
		if n.ID == 0 {
			for _, a := range n.after {
				if a.ID == 0 {
					edges[n.title()] = append(edges[n.title()], a.title())
				}
			}
		}
	}
	return strings.Join(findCycle(edges), " -> ")
}

// dependencies is what each service depends on.
type dependencies map[string]map[string]spec.Dependency

func ofProject(p *spec.Project) dependencies {
	d := dependencies{}
	for name, s := range p.Services {
		d[name] = s.DependsOn
	}
	return d
}

// ofReplicas is what replicas were recorded to depend on when they were made.
func ofReplicas(replicas []Replica) dependencies {
	d := dependencies{}
	for _, r := range replicas {
		if d[r.Service] == nil {
			d[r.Service] = map[string]spec.Dependency{}
		}
		for dep, condition := range r.DependsOn {
			d[r.Service][dep] = spec.Dependency{Condition: condition, Required: true}
		}
	}
	return d
}

// addProviders adds what providers were recorded to depend on.
func (d dependencies) addProviders(providers map[string]Provider) {
	for name, p := range providers {
		if d[name] == nil {
			d[name] = map[string]spec.Dependency{}
		}
		for dep, condition := range p.DependsOn {
			d[name][dep] = spec.Dependency{Condition: condition, Required: true}
		}
	}
}

// order returns services so that each comes after those it depends on, by name
// where that leaves a choice. Services that only others name are left out. An
// error names the services of a cycle.
func (d dependencies) order() ([]string, error) {
	users, needs := make(map[string][]string, len(d)), make(map[string]int, len(d))
	var q []string // sorted; a binary search keeps it so
	for _, s := range sortedKeys(d) {
		for dep := range d[s] {
			if _, ok := d[dep]; ok {
				users[dep] = append(users[dep], s)
				needs[s]++
			}
		}
		if needs[s] == 0 {
			q = append(q, s)
		}
	}
	out := make([]string, 0, len(d))
	for len(q) > 0 {
		s := q[0]
		q = q[1:]
		out = append(out, s)
		for _, u := range users[s] {
			if needs[u]--; needs[u] == 0 {
				at, _ := slices.BinarySearch(q, u)
				q = slices.Insert(q, at, u)
			}
		}
	}
	if len(out) < len(d) {
		edges := map[string][]string{}
		for s := range d {
			edges[s] = sortedKeys(d[s])
		}
		return nil, fmt.Errorf("dependency cycle detected: %s", strings.Join(findCycle(edges), " -> "))
	}
	return out, nil
}

// findCycle returns one cycle of a graph, its first node repeated at the end.
func findCycle(edges map[string][]string) []string {
	state := map[string]int{} // 1: on the path, 2: done
	var path []string
	var visit func(string) []string
	visit = func(s string) []string {
		switch state[s] {
		case 1:
			return append(slices.Clone(path[slices.Index(path, s):]), s)
		case 2:
			return nil
		}
		state[s], path = 1, append(path, s)
		for _, next := range edges[s] {
			if c := visit(next); c != nil {
				return c
			}
		}
		state[s], path = 2, path[:len(path)-1]
		return nil
	}
	for _, s := range sortedKeys(edges) {
		if c := visit(s); c != nil {
			return c
		}
	}
	return nil
}

// acyclic leaves out the dependencies that close a cycle: records of several
// generations may contradict each other, and a project must always come down.
func (d dependencies) acyclic() dependencies {
	out := dependencies{}
	for s, deps := range d {
		out[s] = maps.Clone(deps)
	}
	for {
		edges := map[string][]string{}
		for s := range out {
			edges[s] = sortedKeys(out[s])
		}
		c := findCycle(edges)
		if c == nil {
			return out
		}
		delete(out[c[0]], c[1])
	}
}
