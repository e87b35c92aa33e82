package planner

import (
	"bytes"
	"testing"
	"time"

	"github.com/stackvm/stack/spec"
)

// FuzzParse: a stored plan may be anything. What is accepted has edges that only
// point back, and prints and reads again the same.
func FuzzParse(f *testing.F) {
	p, err := Diff(&spec.Project{Name: "p", Services: map[string]*spec.Service{"a": {Name: "a", Image: "x", Scale: 2}}}, State{}, Options{})
	if err != nil {
		f.Fatal(err)
	}
	data, err := p.JSON()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":1,"steps":[{"id":1,"after":[1]}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse(data)
		if err != nil {
			return
		}
		for _, s := range p.Steps {
			for _, a := range s.After {
				if a < 1 || a >= s.ID {
					t.Errorf("step %d comes after %d", s.ID, a)
				}
			}
		}
		_, _ = p.String(), p.DOT()
		one, err := p.JSON()
		if err != nil {
			t.Fatal(err)
		}
		q, err := Parse(one)
		if err != nil {
			t.Fatal(err)
		}
		if two, _ := q.JSON(); !bytes.Equal(one, two) {
			t.Errorf("%s\n%s", one, two)
		}
	})
}

// FuzzPeriod: periods are never negative, and days and weeks count.
func FuzzPeriod(f *testing.F) {
	for _, s := range []string{"1d", "2w3d4h", "12h", "", "w", "-1d", "9999999999w"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := parsePeriod(s); err == nil && d < 0 {
			t.Errorf("%q is %v", s, d)
		}
	})
}

func TestPeriod(t *testing.T) {
	for s, want := range map[string]time.Duration{"1w2d3h": (9*24 + 3) * time.Hour, "90m": 90 * time.Minute, "1d": 24 * time.Hour} {
		if got, err := parsePeriod(s); err != nil || got != want {
			t.Errorf("%s is %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"x", "1d-3h", "-1w"} {
		if got, err := parsePeriod(s); err == nil {
			t.Errorf("%s is %v", s, got)
		}
	}
}

// TestOrderNamesACycle: whoever made a cycle is told which.
func TestOrderNamesACycle(t *testing.T) {
	need := func(names ...string) map[string]spec.Dependency {
		out := map[string]spec.Dependency{}
		for _, n := range names {
			out[n] = spec.Dependency{}
		}
		return out
	}
	d := dependencies{"a": need("b"), "b": need("c"), "c": need("d", "b"), "d": need()}
	if _, err := d.order(); err == nil || err.Error() != "dependency cycle detected: b -> c -> b" {
		t.Errorf("got %v", err)
	}
	if order, err := d.acyclic().order(); err != nil || len(order) != 4 {
		t.Errorf("without the cycle: %v, %v", order, err)
	}
}
