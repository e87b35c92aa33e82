//go:build linux

package agent

import (
	"errors"
	"sync"
	"time"

	"github.com/stackvm/stack/guest/wire"
)

// events passes what happens on to the host.
type events struct {
	mu          sync.Mutex
	subscribers map[*subscriber]struct{}
}

// subscriber is one host stream's events.
type subscriber struct {
	queue chan wire.Event // closed when it fell too far behind
}

// maxBehind is how many events wait for a slow host before its stream is closed;
// it subscribes anew then, and gets a snapshot.
const maxBehind = 1024

func newEvents() *events { return &events{subscribers: make(map[*subscriber]struct{})} }

// emit never blocks.
func (e *events) emit(event wire.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for s := range e.subscribers {
		select {
		case s.queue <- event:
		default:
			delete(e.subscribers, s)
			close(s.queue)
		}
	}
}

func (e *events) subscribe() *subscriber {
	s := &subscriber{queue: make(chan wire.Event, maxBehind)}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.subscribers[s] = struct{}{}
	return s
}

func (e *events) unsubscribe(s *subscriber) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.subscribers[s]; ok {
		delete(e.subscribers, s)
		close(s.queue)
	}
}

// subscribe sends the present state, then changes, until the stream closes.
// A change during the snapshot may be in both; none is missed.
func (a *Agent) subscribe(c *call) {
	s := a.events.subscribe()
	defer a.events.unsubscribe(s)
	if reply(c.stream, nil, nil) != nil {
		return
	}
	// The host sends nothing more: reading notices that it let go.
	go func() {
		_, _ = c.stream.Read(make([]byte, 1))
		a.events.unsubscribe(s)
	}()
	for _, container := range a.containers.All() {
		for _, event := range container.Snapshot() {
			if wire.WriteMessage(c.stream, event) != nil {
				return
			}
		}
	}
	if wire.WriteMessage(c.stream, wire.Event{Kind: wire.EventReady, At: time.Now()}) != nil {
		return
	}
	for event := range s.queue {
		if err := wire.WriteMessage(c.stream, event); err != nil && !errors.Is(err, wire.ErrMessageTooLarge) {
			return
		}
	}
}
