//go:build linux

package container

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/stackvm/stack/guest/agent/cgroup"
	"github.com/stackvm/stack/guest/agent/disk"
	"github.com/stackvm/stack/guest/agent/launch"
	"github.com/stackvm/stack/guest/agent/logs"
	"github.com/stackvm/stack/guest/agent/share"
	"github.com/stackvm/stack/guest/agent/storage"
	"github.com/stackvm/stack/guest/wire"
)

// Dir is where containers' trees are assembled, one directory each.
const Dir = "/run/containers"

// Machine is what containers share.
type Machine struct {
	Launcher *launch.Launcher
	Disks    *disk.Store
	Shares   *share.Client
	Storage  *storage.Client
	Logs     *logs.Queue
	Memory   *cgroup.Watcher
	// Emit reports a change; it is called in the order of changes of a container
	// and must not block.
	Emit func(wire.Event)
}

// Set is the containers of the machine.
type Set struct {
	machine Machine
	// listens is made for the first container that tells of its ports: its programs
	// cost the machine's every socket a little.
	listens func() (*cgroup.Listens, error)

	mu         sync.Mutex
	containers map[string]*Container
	closed     bool // the machine is shutting down: nothing is made or started
}

// NewSet returns an empty set.
func NewSet(m Machine) *Set {
	return &Set{machine: m, listens: sync.OnceValues(cgroup.NewListens), containers: make(map[string]*Container)}
}

// Get returns the container with the id.
func (s *Set) Get(id string) (*Container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[id]
	if c == nil || !c.made {
		return nil, &wire.Error{Code: wire.CodeNotFound, Message: fmt.Sprintf("no container %.12q in this machine", id)}
	}
	return c, nil
}

// All returns the containers, ordered by id.
func (s *Set) All() []*Container {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*Container, 0, len(s.containers))
	for _, c := range s.containers {
		if c.made {
			all = append(all, c)
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].spec.ID < all[j].spec.ID })
	return all
}

// errClosing is what is refused once the machine shuts down.
var errClosing = &wire.Error{Code: wire.CodeConflict, Message: "the machine is shutting down"}

// Create makes a container. On error nothing of it is left.
func (s *Set) Create(ctx context.Context, spec *wire.Container) error {
	if err := validate(spec); err != nil {
		return err
	}
	c := &Container{set: s, spec: *spec, state: wire.StateCreated, ended: make(chan struct{})}
	s.mu.Lock()
	switch {
	case s.closed:
		s.mu.Unlock()
		return errClosing
	case s.containers[spec.ID] != nil:
		s.mu.Unlock()
		return &wire.Error{Code: wire.CodeConflict, Message: fmt.Sprintf("container %s exists already", spec.Name)}
	}
	s.containers[spec.ID] = c
	s.mu.Unlock()

	err := c.make(ctx)
	s.mu.Lock()
	if err != nil {
		delete(s.containers, spec.ID)
	} else {
		c.made = true
	}
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("creating container %s: %w", spec.Name, err)
	}
	s.machine.Emit(wire.Event{Kind: wire.EventState, Container: spec.ID, At: time.Now(), State: wire.StateCreated})
	return nil
}

// Remove unmounts and forgets a container that does not run.
func (s *Set) Remove(id string) error {
	c, err := s.Get(id)
	if err != nil {
		return err
	}
	c.changing.Lock()
	defer c.changing.Unlock()
	c.mu.Lock()
	running := c.run != nil
	c.mu.Unlock()
	if running {
		return &wire.Error{Code: wire.CodeConflict, Message: fmt.Sprintf("container %s is running", c.spec.Name)}
	}
	s.mu.Lock()
	if s.containers[id] != c {
		s.mu.Unlock()
		return &wire.Error{Code: wire.CodeNotFound, Message: fmt.Sprintf("no container %.12q in this machine", id)}
	}
	delete(s.containers, id)
	s.mu.Unlock()
	if err := c.unmake(); err != nil {
		return fmt.Errorf("removing container %s: %w", c.spec.Name, err)
	}
	return nil
}

// Close stops every container, each with its own grace, and unmounts all. It
// returns how they ended, and the errors of what could not be unmounted or
// synced.
func (s *Set) Close(grace time.Duration) (map[string]wire.ExitStatus, error) {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	ended := make(map[string]wire.ExitStatus)
	var (
		mu   sync.Mutex
		errs []error
		wg   sync.WaitGroup
	)
	all := s.All()
	for _, c := range all {
		wg.Go(func() {
			status, err := c.Stop(context.Background(), "", grace)
			mu.Lock()
			defer mu.Unlock()
			var coded *wire.Error
			if err == nil {
				ended[c.spec.ID] = status
			} else if !errors.As(err, &coded) { // one that never ran is none
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	for _, c := range all {
		if err := s.Remove(c.spec.ID); err != nil {
			errs = append(errs, err)
		}
	}
	return ended, errors.Join(errs...)
}
