//go:build linux

package health

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stackvm/stack/guest/wire"
)

// line is a report and when it came, since the start.
type line struct {
	At     time.Duration
	Health wire.Health
	Streak int
}

func TestRun(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	check := wire.Healthcheck{Interval: 5 * s, Timeout: s, Retries: 2}
	starting := check
	starting.StartPeriod, starting.StartInterval = 20*s, 2*s
	patient := check
	patient.StartRetries = 4
	between := func(from, to time.Duration) func(time.Duration) bool {
		return func(now time.Duration) bool { return now >= from && now < to }
	}
	for _, tt := range []struct {
		name  string
		check wire.Healthcheck
		ok    func(time.Duration) bool // at this time since the start
		until time.Duration
		want  []line
	}{
		{"healthy at once", check, between(0, time.Hour), 11 * s, []line{{0, wire.HealthHealthy, 0}}},
		{"healthy soon", check, between(300*ms, time.Hour), 11 * s, []line{{350 * ms, wire.HealthHealthy, 0}}},
		// Early failures do not count: two regular ones do.
		{"never healthy", check, between(0, 0), 11 * s, []line{
			{5 * s, wire.HealthStarting, 1}, {10 * s, wire.HealthUnhealthy, 2},
		}},
		{"falls ill and recovers", check, func(d time.Duration) bool { return d < s || d > 14*s }, 16 * s, []line{
			{0, wire.HealthHealthy, 0}, {5 * s, wire.HealthHealthy, 1}, {10 * s, wire.HealthUnhealthy, 2}, {15 * s, wire.HealthHealthy, 0},
		}},
		{"more retries until first healthy", patient, func(d time.Duration) bool { return d > 14*s && d < 16*s }, 26 * s, []line{
			{5 * s, wire.HealthStarting, 1},
			{10 * s, wire.HealthStarting, 2},
			{15 * s, wire.HealthHealthy, 0},
			{20 * s, wire.HealthHealthy, 1},
			{25 * s, wire.HealthUnhealthy, 2},
		}},
		{"more retries, never healthy", patient, between(0, 0), 21 * s, []line{
			{5 * s, wire.HealthStarting, 1}, {10 * s, wire.HealthStarting, 2}, {15 * s, wire.HealthStarting, 3}, {20 * s, wire.HealthUnhealthy, 4},
		}},
		{"start period forgives", starting, between(19*s, time.Hour), 23 * s, []line{
			{2 * s, wire.HealthStarting, 0},
			{4 * s, wire.HealthStarting, 0},
			{6 * s, wire.HealthStarting, 0},
			{8 * s, wire.HealthStarting, 0},
			{10 * s, wire.HealthStarting, 0},
			{12 * s, wire.HealthStarting, 0},
			{14 * s, wire.HealthStarting, 0},
			{16 * s, wire.HealthStarting, 0},
			{18 * s, wire.HealthStarting, 0},
			{20 * s, wire.HealthHealthy, 0},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), tt.until)
				defer cancel()
				start := time.Now()
				var got []line
				Run(ctx, tt.check, wire.HealthStarting, func(context.Context) Result {
					return Result{OK: tt.ok(time.Since(start))}
				}, func(r Report) {
					got = append(got, line{time.Since(start), r.Health, r.FailingStreak})
				})
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// A probe that hangs is given up after the timeout, and that is a failure.
func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		start := time.Now()
		var got []line
		Run(ctx, wire.Healthcheck{Interval: 5 * time.Second, Timeout: time.Second, Retries: 1}, wire.HealthStarting, func(ctx context.Context) Result {
			<-ctx.Done()
			return Result{}
		}, func(r Report) {
			got = append(got, line{time.Since(start).Round(time.Second), r.Health, r.FailingStreak})
		})
		if len(got) == 0 || got[0].Health != wire.HealthUnhealthy || got[0].At < 6*time.Second {
			t.Errorf("reports %+v: want unhealthy after the first regular run", got)
		}
	})
}
