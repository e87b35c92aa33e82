//go:build linux

package container

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/stackvm/stack/guest/agent/health"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// maxProbeOutput is how much of a probe's output is kept, in bytes; docker's.
const maxProbeOutput = 4096

// watchHealth is the goroutine of a running container's probe.
func (c *Container) watchHealth(ctx context.Context, check wire.Healthcheck, verdict wire.Health) {
	health.Run(ctx, check, verdict, func(ctx context.Context) health.Result { return c.probe(ctx, check) }, c.reportHealth)
}

func (c *Container) reportHealth(r health.Report) {
	event := wire.Event{
		Kind: wire.EventHealth, Container: c.spec.ID, At: time.Now(),
		Health: r.Health, Output: r.Output, FailingStreak: r.FailingStreak,
	}
	c.mu.Lock()
	c.health = event
	c.mu.Unlock()
	c.set.machine.Emit(event)
}

// probe runs the probe's command once.
func (c *Container) probe(ctx context.Context, check wire.Healthcheck) health.Result {
	x, err := c.Exec(&wire.Exec{ID: c.spec.ID, Args: check.Test})
	if err != nil {
		return health.Result{Output: clip(err.Error())}
	}
	var mu sync.Mutex // both streams write
	var output strings.Builder
	x.stdio.pump(func(wire.FrameKind) func([]byte) {
		return func(p []byte) {
			mu.Lock()
			defer mu.Unlock()
			output.Write(p[:min(len(p), maxProbeOutput-output.Len())])
		}
	})
	stop := context.AfterFunc(ctx, func() { _ = x.proc.SignalGroup(unix.SIGKILL) })
	status := x.finish()
	timedOut := !stop()
	mu.Lock()
	defer mu.Unlock()
	if timedOut {
		return health.Result{Output: clip(fmt.Sprintf("Health check exceeded timeout (%s): %s", check.Timeout, output.String()))}
	}
	return health.Result{OK: status.Code == 0, Output: clip(output.String())}
}

// clip makes text fit an event, and a string of JSON.
func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxProbeOutput)], "\uFFFD") }
