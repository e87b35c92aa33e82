//go:build linux

package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/stackvm/stack/guest/wire"
)

// Pause freezes the container's processes until Unpause, Stop or a signal that
// ends it; its probe rests meanwhile.
func (c *Container) Pause() error {
	c.changing.Lock()
	defer c.changing.Unlock()
	r, paused := c.paused()
	switch {
	case r == nil:
		return c.notRunning()
	case paused:
		return &wire.Error{Code: wire.CodeConflict, Message: fmt.Sprintf("container %s is already paused", c.spec.Name)}
	}
	r.probing.rest(false)
	err := c.group.Freeze()
	c.mu.Lock()
	ended := c.run != r
	if err == nil && !ended {
		c.state = wire.StatePaused
		c.set.machine.Emit(wire.Event{Kind: wire.EventState, Container: c.spec.ID, At: time.Now(), State: wire.StatePaused})
	}
	c.mu.Unlock()
	switch {
	case ended:
		return errors.Join(c.notRunning(), c.group.Thaw())
	case err != nil:
		c.resumeProbe(r)
		return fmt.Errorf("pausing container %s: %w", c.spec.Name, err)
	}
	return nil
}

// Unpause lets a paused container run on.
func (c *Container) Unpause() error {
	c.changing.Lock()
	defer c.changing.Unlock()
	r, paused := c.paused()
	switch {
	case r == nil:
		return c.notRunning()
	case !paused:
		return &wire.Error{Code: wire.CodeConflict, Message: fmt.Sprintf("container %s is not paused", c.spec.Name)}
	}
	if err := c.thaw(r); err != nil {
		return fmt.Errorf("unpausing container %s: %w", c.spec.Name, err)
	}
	return nil
}

// paused returns the present run, nil when there is none, and whether it is
// paused.
func (c *Container) paused() (*run, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.run, c.run != nil && c.state == wire.StatePaused
}

// thaw lets a run go on if it is paused. The caller holds c.changing.
func (c *Container) thaw(r *run) error {
	if now, paused := c.paused(); now != r || !paused {
		return nil
	}
	if err := c.group.Thaw(); err != nil {
		return err
	}
	c.mu.Lock()
	if c.run == r {
		c.state = wire.StateRunning
		c.set.machine.Emit(wire.Event{Kind: wire.EventState, Container: c.spec.ID, At: time.Now(), State: wire.StateRunning})
	}
	c.mu.Unlock()
	c.resumeProbe(r)
	return nil
}

// wake is thaw for who has just sent a signal that ends the run, and must get on
// whatever happens.
func (c *Container) wake(r *run) {
	c.changing.Lock()
	defer c.changing.Unlock()
	if err := c.thaw(r); err != nil {
		fmt.Fprintf(os.Stderr, "agent: container %s: unpausing: %v\n", c.spec.Name, err)
	}
}

// probing is the probe of a run; it rests while the run is paused.
type probing struct {
	mu   sync.Mutex
	stop func() // ends the goroutine and waits for it; nil while there is none
	over bool   // the run has ended
}

// resumeProbe starts the probe of a run, if it has one that does not run.
func (c *Container) resumeProbe(r *run) {
	check := c.spec.Health
	if check == nil || len(check.Test) == 0 {
		return
	}
	r.probing.mu.Lock()
	defer r.probing.mu.Unlock()
	if r.probing.over || r.probing.stop != nil {
		return
	}
	c.mu.Lock()
	verdict := c.health.Health
	c.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.watchHealth(ctx, *check, verdict)
	}()
	r.probing.stop = func() { cancel(); <-ended }
}

// rest ends the probe, for good when the run is over.
func (p *probing) rest(over bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = p.over || over
	if p.stop != nil {
		p.stop()
		p.stop = nil
	}
}
