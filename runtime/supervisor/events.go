package supervisor

import (
	"maps"
	"sync"
	"time"

	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/state"
)

// history is how many past events are kept for who asks for them.
const history = 4096

// bus hands object events to whoever listens.
type bus struct {
	mu     sync.Mutex
	past   []api.ObjectEvent
	subs   map[*subscription]struct{}
	closed bool
}

// subscription is an unbounded queue: a slow listener holds up nobody.
type subscription struct {
	mu     sync.Mutex
	queue  []api.ObjectEvent
	ready  chan struct{} // holds one token while the queue is not empty, or closed
	closed bool
}

// maxQueue bounds what a listener that does not read costs; it is cut off.
const maxQueue = 1 << 16

func (q *subscription) push(e api.ObjectEvent) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	if q.queue = append(q.queue, e); len(q.queue) > maxQueue {
		q.queue, q.closed = nil, true
	}
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// take returns what has come, and false when no more will.
func (q *subscription) take() ([]api.ObjectEvent, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	events := q.queue
	q.queue = nil
	return events, !q.closed
}

func (q *subscription) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

func (b *bus) emit(e api.ObjectEvent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.past = append(b.past, e); len(b.past) > history {
		b.past = append([]api.ObjectEvent(nil), b.past[len(b.past)-history/2:]...)
	}
	for q := range b.subs {
		q.push(e)
	}
}

// subscribe returns past events since then, and a queue of those to come.
func (b *bus) subscribe(since time.Time) ([]api.ObjectEvent, *subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var past []api.ObjectEvent
	if !since.IsZero() {
		for _, e := range b.past {
			if !e.Time.Before(since) {
				past = append(past, e)
			}
		}
	}
	q := &subscription{ready: make(chan struct{}, 1), closed: b.closed}
	if b.closed {
		q.ready <- struct{}{}
		return past, q
	}
	if b.subs == nil {
		b.subs = map[*subscription]struct{}{}
	}
	b.subs[q] = struct{}{}
	return past, q
}

func (b *bus) unsubscribe(q *subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.subs, q)
}

func (b *bus) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for q := range b.subs {
		q.close()
	}
}

func (s *Supervisor) emit(e api.ObjectEvent) { s.events.emit(e) }

func objectEvent(kind, action, id, name, project, service string, attrs map[string]string) api.ObjectEvent {
	return api.ObjectEvent{Time: time.Now(), Type: kind, Action: action, ID: id, Name: name, Project: project, Service: service, Attributes: attrs}
}

// replicaEvent is an event of a container, with its labels as docker's have them:
// compose's tools look there.
func replicaEvent(rec *state.Replica, action string, attrs map[string]string) api.ObjectEvent {
	all := maps.Clone(rec.Labels)
	if all == nil {
		all = map[string]string{}
	}
	all["image"] = rec.Image
	maps.Copy(all, attrs)
	return objectEvent("container", action, rec.ID, rec.Name, rec.Project, rec.Service, all)
}
