//go:build linux

package container

import (
	"context"
	"sync"

	"github.com/stackvm/stack/guest/wire"
)

// prefetch mounts everything that the container's tree will be made of, all at
// once and beside its namespaces and networks: a mount takes tens of
// milliseconds, most of them waiting. The tree's own mounts, in their order, then
// find what they want; an error is theirs to report. The function that is
// returned waits for all, and gives up prefetch's own uses.
func (c *Container) prefetch(ctx context.Context) func() {
	var (
		wg       sync.WaitGroup
		mu       sync.Mutex
		releases []func() error
	)
	get := func(acquire func() (func() error, error)) {
		wg.Go(func() {
			if done, err := acquire(); err == nil {
				mu.Lock()
				defer mu.Unlock()
				releases = append(releases, done)
			}
		})
	}
	disks := c.set.machine.Disks
	image := func(serial string) {
		get(func() (func() error, error) {
			m, err := disks.Image(ctx, serial)
			if err != nil {
				return nil, err
			}
			return m.Release, nil
		})
	}
	writable := func(serial string, size int64) {
		get(func() (func() error, error) {
			m, err := disks.Writable(ctx, serial, size)
			if err != nil {
				return nil, err
			}
			return m.Release, nil
		})
	}
	image(c.spec.Root.Image)
	if c.spec.Root.Scratch != "" {
		writable(c.spec.Root.Scratch, c.spec.Root.ScratchBytes)
	}
	for _, m := range c.spec.Mounts {
		switch m.Kind {
		case wire.MountImage:
			image(m.Source)
		case wire.MountVolume:
			writable(m.Source, m.Bytes)
		case wire.MountShare:
			get(func() (func() error, error) {
				_, done, err := c.set.machine.Shares.Mount(ctx, m.Source)
				return done, err
			})
		}
	}
	return func() {
		wg.Wait()
		for _, done := range releases {
			_ = done() // the tree has its own use of each and reports its faults
		}
	}
}
