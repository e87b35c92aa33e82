//go:build linux

package health

import (
	"context"
	"time"

	"github.com/stackvm/stack/guest/wire"
)

// Early runs: the first follows the start at once, the second after firstPause,
// then each pause is twice the one before, up to the interval.
const firstPause = 50 * time.Millisecond

// Result is what one run of the probe said.
type Result struct {
	OK     bool
	Output string
}

// Report is a verdict, and the run that led to it.
type Report struct {
	Health        wire.Health
	Output        string
	FailingStreak int
}

// Run probes until ctx ends, verdict being what is known: starting, or what an
// earlier call last reported. It reports a verdict that changes and a run that
// fails, but not those that fail before docker's first. probe is given the
// timeout by its context and must return when that ends.
func Run(ctx context.Context, c wire.Healthcheck, verdict wire.Health, probe func(context.Context) Result, report func(Report)) {
	c = defaults(c)
	started := time.Now()
	timed := func() Result {
		ctx, cancel := context.WithTimeout(ctx, c.Timeout)
		defer cancel()
		return probe(ctx)
	}
	health := verdict
	interval := func() time.Duration {
		if health == wire.HealthStarting && time.Since(started) < c.StartPeriod {
			return c.StartInterval
		}
		return c.Interval
	}

	regular := started.Add(interval())
	for pause := firstPause; health == wire.HealthStarting && time.Now().Before(regular); pause *= 2 {
		result := timed()
		if ctx.Err() != nil {
			return
		}
		if result.OK {
			health = wire.HealthHealthy
			report(Report{Health: health, Output: result.Output})
			regular = time.Now().Add(c.Interval)
			break
		}
		if !sleep(ctx, min(pause, time.Until(regular))) {
			return
		}
	}
	streak := 0
	for sleep(ctx, time.Until(regular)) {
		result := timed()
		if ctx.Err() != nil {
			return
		}
		before := health
		switch {
		case result.OK:
			health, streak = wire.HealthHealthy, 0
		case health == wire.HealthStarting && time.Since(started) < c.StartPeriod:
			// Nothing is expected of it yet.
		default:
			retries := c.Retries
			if health == wire.HealthStarting {
				retries = c.StartRetries
			}
			if streak++; streak >= retries {
				health = wire.HealthUnhealthy
			}
		}
		if health != before || !result.OK {
			report(Report{Health: health, Output: result.Output, FailingStreak: streak})
		}
		regular = time.Now().Add(interval())
	}
}

// defaults guards against a host that did not apply docker's.
func defaults(c wire.Healthcheck) wire.Healthcheck {
	if c.Interval <= 0 {
		c.Interval = 30 * time.Second
	}
	if c.Timeout <= 0 {
		c.Timeout = 30 * time.Second
	}
	if c.StartInterval <= 0 {
		c.StartInterval = 5 * time.Second
	}
	if c.Retries <= 0 {
		c.Retries = 3
	}
	c.StartRetries = max(c.Retries, c.StartRetries)
	return c
}

// sleep waits for d and reports whether ctx still lives.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
