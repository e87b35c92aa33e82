package planner

import (
	"testing"
	"time"
)

// TestFetches: what every form of a pull policy wants of an image that is there,
// by its age, and of one that is not.
func TestFetches(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tc := range []struct {
		policy  string
		missing bool
		within  time.Duration // kept while it is no older; negative: however old it is
	}{
		{"", true, -1},
		{"missing", true, -1},
		{"if_not_present", true, -1},
		{"build", true, -1},
		{"never", false, -1},
		{"always", true, 0},
		{"refresh", true, 0},
		{"daily", true, 24 * time.Hour},
		{"weekly", true, 7 * 24 * time.Hour},
		{"every_1w2d3h4m5s", true, (9*24+3)*time.Hour + 4*time.Minute + 5*time.Second},
		{"every_30m", true, 30 * time.Minute},
	} {
		if got := Fetches(tc.policy, nil, now); got != tc.missing {
			t.Errorf("%q, not there: %t", tc.policy, got)
		}
		at := max(tc.within, 0)
		if Fetches(tc.policy, &Image{Pulled: now.Add(-at)}, now) {
			t.Errorf("%q fetches what is %v old", tc.policy, at)
		}
		if got := Fetches(tc.policy, &Image{Pulled: now.Add(-at - 1)}, now); got != (tc.within >= 0) {
			t.Errorf("%q, just older than %v: %t", tc.policy, at, got)
		}
		if Fetches(tc.policy, &Image{Pulled: now}, time.Time{}) {
			t.Errorf("%q without a time fetches what is there", tc.policy)
		}
	}
}

func TestLatest(t *testing.T) {
	for ref, want := range map[string]bool{
		"nginx": true, "nginx:latest": true, "localhost:5000/nginx": true, "localhost:5000/nginx:latest": true,
		"nginx:1": false, "localhost:5000/a/b:2": false, "nginx@sha256:aa": false, "nginx:latest@sha256:aa": false,
	} {
		if got := latest(ref); got != want {
			t.Errorf("%s: %t", ref, got)
		}
	}
}
