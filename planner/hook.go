package planner

import (
	"slices"
	"strconv"

	"github.com/stackvm/stack/spec"
)

func hooksOf(svc *spec.Service) []Hook {
	var hooks []Hook
	for _, h := range svc.PreStart {
		hooks = append(hooks, Hook{PerReplica: h.PerReplica})
	}
	return hooks
}

// preStart plans the pre_start hooks of a service of which these replicas are
// started, each hook after the one before it: once, in the machine of the first
// replica, or in each one's. after holds what each start comes after, to which its
// last hook is added.
func (b *builder) preStart(hooks []Hook, starting []*slot, after [][]*node, cause func(hook int) string) {
	var at []int // those that are started, and not only taken out of a pause
	for i, s := range starting {
		if s.made != nil || s.was.Status != StatusPaused {
			at = append(at, i)
		}
	}
	if len(at) == 0 {
		return
	}
	ran := make([]*node, len(starting)) // the last hook before each start
	for i, h := range hooks {
		run := func(in int, name string, needs ...*node) *node {
			s := starting[in]
			return b.add(Step{
				Verb: Run, Noun: HookNoun, Name: name + "-pre_start-" + strconv.Itoa(i), Cause: cause(i),
				Service: s.service, Number: s.number, Hook: i, Replica: s.id(), Machine: s.name,
			}, append(slices.Clone(after[in]), needs...)...)
		}
		if !h.PerReplica {
			once := run(at[0], b.project+"-"+starting[at[0]].service, ran...)
			for _, in := range at {
				ran[in] = once
			}
			continue
		}
		for _, in := range at {
			ran[in] = run(in, starting[in].name, ran[in])
		}
	}
	for _, in := range at {
		after[in] = append(slices.Clone(after[in]), ran[in])
	}
}

// preStartAgain is preStart for replicas as they were made; needs are what each of
// them comes after in any case. It returns what each start comes after.
func (b *builder) preStartAgain(starting []*slot, needs func(*Replica) []*node) [][]*node {
	after := make([][]*node, len(starting))
	for i, s := range starting {
		after[i] = needs(s.was)
	}
	if len(starting) > 0 {
		b.preStart(starting[0].was.PreStart, starting, after, func(int) string { return "pre_start" })
	}
	return after
}
