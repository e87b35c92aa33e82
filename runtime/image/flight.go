package image

import (
	"context"
	"errors"
	"sync"
)

var errClosed = errors.New("the image store is closed")

// flight lets callers that want the same work done at the same time share it.
// The work runs in a goroutine of its own and ends when nobody waits any more.
type flight[P any] struct {
	wg sync.WaitGroup // the goroutines; close waits for them

	mu     sync.Mutex // guards what follows
	calls  map[string]*call[P]
	closed bool
}

// call is one piece of work under way.
type call[P any] struct {
	cancel context.CancelFunc
	done   chan struct{} // closed at its end, after err is set
	err    error

	mu       sync.Mutex // guards what follows; taken after flight.mu, held while watchers are called
	watchers map[*func(P)]bool
	last     *P
}

// do returns when work under key has ended, or ctx. watch, if not nil, is told
// what the work reports, beginning with its last report so far, by one
// goroutine at a time.
func (f *flight[P]) do(ctx context.Context, key string, watch func(P), work func(context.Context, func(P)) error) error {
	for {
		c, watcher, mine, err := f.join(ctx, key, watch, work)
		if err != nil {
			return err
		}
		select {
		case <-c.done:
			// Another's failure may be another's fault: its credentials, its
			// mirror. Then it is our turn.
			if c.err != nil && !mine && ctx.Err() == nil {
				c.leave(watcher)
				continue
			}
			return c.err
		case <-ctx.Done():
			f.mu.Lock()
			if c.leave(watcher) && f.calls[key] == c {
				delete(f.calls, key) // so that a newcomer does not join what is ending
			}
			f.mu.Unlock()
			return ctx.Err()
		}
	}
}

// join begins to wait for the call under key, which it starts if there is none.
func (f *flight[P]) join(ctx context.Context, key string, watch func(P), work func(context.Context, func(P)) error) (c *call[P], watcher *func(P), mine bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, nil, false, errClosed
	}
	if c := f.calls[key]; c != nil {
		return c, c.watch(watch), false, nil
	}
	workCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c = &call[P]{cancel: cancel, done: make(chan struct{}), watchers: make(map[*func(P)]bool)}
	if f.calls == nil {
		f.calls = make(map[string]*call[P])
	}
	f.calls[key] = c
	watcher = c.watch(watch)
	f.wg.Go(func() {
		defer cancel()
		c.err = work(workCtx, c.report)
		f.mu.Lock()
		if f.calls[key] == c {
			delete(f.calls, key)
		}
		f.mu.Unlock()
		close(c.done)
	})
	return c, watcher, true, nil
}

// close ends all work and waits for it.
func (f *flight[P]) close() {
	f.mu.Lock()
	f.closed = true
	for _, c := range f.calls {
		c.cancel()
	}
	f.mu.Unlock()
	f.wg.Wait()
}

func (c *call[P]) watch(watch func(P)) *func(P) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watchers[&watch] = true
	if c.last != nil && watch != nil {
		watch(*c.last)
	}
	return &watch
}

// leave takes a watcher away and ends the work if it was the last.
func (c *call[P]) leave(watcher *func(P)) (last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.watchers, watcher)
	if len(c.watchers) > 0 {
		return false
	}
	c.cancel()
	return true
}

func (c *call[P]) report(p P) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = &p
	for w := range c.watchers {
		if *w != nil {
			(*w)(p)
		}
	}
}
