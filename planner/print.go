package planner

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/stackvm/stack/spec"
)

func (s Step) title() string { return string(s.Verb) + " " + string(s.Noun) + " " + oneLine(s.Name) }

// oneLine is a name or cause as it may stand in a line: both can quote a file.
func oneLine(s string) string { return strings.ReplaceAll(spec.Printable(s), "\n", " ") }

// String prints the plan for people: one line a step, with what it waits for.
func (p Plan) String() string {
	if p.Empty() {
		return "nothing to do\n"
	}
	var title, cause int
	for _, s := range p.Steps {
		title, cause = max(title, len(s.title())), max(cause, len(oneLine(s.Cause)))
	}
	number := len(strconv.Itoa(len(p.Steps)))
	var b strings.Builder
	for _, s := range p.Steps {
		var tail []string
		if len(s.After) > 0 {
			tail = append(tail, "after "+strings.Trim(strings.ReplaceAll(fmt.Sprint(s.After), " ", ", "), "[]"))
		}
		if s.Machine != "" {
			tail = append(tail, "in the machine of "+oneLine(s.Machine))
		}
		if s.Destructive {
			tail = append(tail, "destroys data")
		}
		line := fmt.Sprintf("%*d %-*s   %-*s   %s", number, s.ID, title, s.title(), cause, oneLine(s.Cause), strings.Join(tail, "; "))
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}

// JSON returns the plan in its versioned form (docs/plan.md).
func (p Plan) JSON() ([]byte, error) {
	if p.Steps == nil {
		p.Steps = []Step{}
	}
	return json.MarshalIndent(p, "", "  ")
}

// Parse reads what JSON wrote, and checks what carrying it out relies on.
func Parse(data []byte) (Plan, error) {
	var p Plan
	if err := json.Unmarshal(data, &p); err != nil {
		return Plan{}, fmt.Errorf("reading a plan: %w", err)
	}
	if p.Version != Version {
		return Plan{}, fmt.Errorf("reading a plan: version %d is not version %d", p.Version, Version)
	}
	for i, s := range p.Steps {
		if s.ID != i+1 {
			return Plan{}, fmt.Errorf("reading a plan: step %d has the number %d", i+1, s.ID)
		}
		for _, a := range s.After {
			if a < 1 || a >= s.ID {
				return Plan{}, fmt.Errorf("reading a plan: step %d comes after step %d", s.ID, a)
			}
		}
	}
	return p, nil
}

// DOT returns the plan as a graph for graphviz.
func (p Plan) DOT() string {
	var b strings.Builder
	fmt.Fprintf(&b, "digraph %s {\n\trankdir=LR\n\tnode [shape=box]\n", strconv.Quote(p.Project))
	for _, s := range p.Steps {
		style := ""
		if s.Destructive {
			style = ", color=red"
		}
		fmt.Fprintf(&b, "\t%d [label=%s%s]\n", s.ID, strconv.Quote(s.title()+"\n"+s.Cause), style)
		for _, a := range s.After {
			fmt.Fprintf(&b, "\t%d -> %d\n", a, s.ID)
		}
	}
	b.WriteString("}\n")
	return b.String()
}
