package planner

import (
	"fmt"
	"slices"
	"time"

	"github.com/stackvm/stack/spec"
)

// stored completes a plan with what tells it from a later one.
func (p *Plan) stored(desired *spec.Project, opt Options, services []string) {
	opt.Now = time.Time{}
	p.Options = &opt
	p.Desired = map[string]string{}
	for _, name := range services {
		p.Desired["service "+name] = desired.Services[name].Hash
	}
	for name, n := range desired.Networks {
		p.Desired["network "+name] = n.Hash
	}
	for name, v := range desired.Volumes {
		p.Desired["volume "+name] = v.Hash
	}
}

// Changes says, one line each, why carrying out now, a plan of this moment, is
// not what old promised: what the file asks for otherwise, and the steps that
// have come and gone. Causes and numbers may differ.
func Changes(old, now Plan) []string {
	var out []string
	if old.Project != now.Project {
		out = append(out, fmt.Sprintf("it is for project %q, not %q", old.Project, now.Project))
	}
	keys := sortedKeys(old.Desired)
	for _, k := range sortedKeys(now.Desired) {
		if _, known := old.Desired[k]; !known {
			keys = append(keys, k)
		}
	}
	for _, k := range keys {
		was, before := old.Desired[k]
		is, after := now.Desired[k]
		switch {
		case !before:
			out = append(out, k+" is new in the compose file")
		case !after:
			out = append(out, k+" is gone from the compose file")
		case was != is:
			out = append(out, k+" has changed in the compose file")
		}
	}
	before, after := essences(old), essences(now)
	for i, s := range old.Steps {
		if !slices.Contains(after, before[i]) {
			out = append(out, "step gone: "+s.title())
		}
	}
	for i, s := range now.Steps {
		if !slices.Contains(before, after[i]) {
			out = append(out, "step come: "+s.title())
		}
	}
	return out
}

// essences are steps as text, without what may change from plan to plan and
// still be the same step: numbers stand for what they point at.
func essences(p Plan) []string {
	out := make([]string, len(p.Steps))
	for i, s := range p.Steps {
		after := make([]string, 0, len(s.After))
		for _, n := range s.After {
			if n > 0 && n <= len(p.Steps) {
				after = append(after, p.Steps[n-1].title())
			}
		}
		slices.Sort(after)
		s.ID, s.After, s.Cause = 0, nil, ""
		out[i] = fmt.Sprintf("%+v after %q", s, after)
	}
	return out
}
