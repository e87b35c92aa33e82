package planner

import (
	"fmt"
	"slices"
	"strings"

	"github.com/stackvm/stack/spec"
)

// notFound is the cause of making what is not there.
func notFound(p spec.Pos) string {
	if s := p.String(); s != "" {
		return "not found (" + s + ")"
	}
	return "not found"
}

// shownChanges is how many changes a cause names.
const shownChanges = 3

// changed says what differs between two services' aspects.
func changed(old, new map[string]string) string {
	if len(old) == 0 {
		return "configuration changed"
	}
	var out []string
	last := ""
	say := func(verb string, keys []string) {
		slices.Sort(keys)
		for _, k := range keys {
			kind, name := describe(k)
			if kind != "" && kind == last {
				kind = ""
			} else {
				last = kind
			}
			out = append(out, strings.TrimSpace(kind+" "+name)+" "+verb)
		}
	}
	var differ, added, removed []string
	for k := range new {
		switch v, ok := old[k]; {
		case !ok:
			added = append(added, k)
		case v != new[k]:
			differ = append(differ, k)
		}
	}
	for k := range old {
		if _, ok := new[k]; !ok {
			removed = append(removed, k)
		}
	}
	say("changed", differ)
	say("added", added)
	say("removed", removed)
	switch n := len(out); {
	case n == 0:
		return "configuration changed"
	case n > shownChanges:
		return strings.Join(out[:shownChanges], ", ") + fmt.Sprintf(" and %d more", n-shownChanges)
	}
	return strings.Join(out, ", ")
}

// describe names an aspect as a user would.
func describe(aspect string) (kind, name string) {
	kind, name, ok := strings.Cut(aspect, ".")
	switch {
	case !ok:
		return "", aspect
	case kind == "environment":
		return "environment", name
	case kind == "volumes":
		return "mount", name
	}
	return strings.TrimSuffix(kind, "s"), fmt.Sprintf("%q", name)
}
