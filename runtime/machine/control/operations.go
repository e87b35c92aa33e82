package control

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/stackvm/stack/guest/wire"
)

// Create makes a container: disks mounted, namespaces and networks made,
// nothing run.
func (c *Client) Create(ctx context.Context, container wire.Container) error {
	return c.Call(ctx, wire.OpCreate, container, nil)
}

// Start runs a created container.
func (c *Client) Start(ctx context.Context, id string) (wire.Started, error) {
	return ask[wire.Started](ctx, c, wire.OpStart, wire.ContainerRef{ID: id})
}

// Stop ends a container and returns how it ended.
func (c *Client) Stop(ctx context.Context, stop wire.Stop) (wire.ExitStatus, error) {
	return ask[wire.ExitStatus](ctx, c, wire.OpStop, stop)
}

// Signal sends a signal to a container's PID 1.
func (c *Client) Signal(ctx context.Context, signal wire.Signal) error {
	return c.Call(ctx, wire.OpSignal, signal, nil)
}

// Pause freezes a container, Unpause lets it go on.
func (c *Client) Pause(ctx context.Context, id string) error {
	return c.Call(ctx, wire.OpPause, wire.ContainerRef{ID: id}, nil)
}

// Unpause is Pause's opposite.
func (c *Client) Unpause(ctx context.Context, id string) error {
	return c.Call(ctx, wire.OpUnpause, wire.ContainerRef{ID: id}, nil)
}

// Remove unmounts what an ended container had and forgets it.
func (c *Client) Remove(ctx context.Context, id string) error {
	return c.Call(ctx, wire.OpRemove, wire.ContainerRef{ID: id}, nil)
}

// Top lists a container's processes.
func (c *Client) Top(ctx context.Context, id string) (wire.Top, error) {
	r, err := ask[wire.Top](ctx, c, wire.OpTop, wire.ContainerRef{ID: id})
	for _, row := range r.Processes {
		for i := range row {
			row[i] = printable(row[i])
		}
	}
	for i := range r.Titles {
		r.Titles[i] = printable(r.Titles[i])
	}
	return r, err
}

// Stats reads the counters of the machine and its containers.
func (c *Client) Stats(ctx context.Context) (wire.Stats, error) {
	return ask[wire.Stats](ctx, c, wire.OpStats, nil)
}

// Sync flushes the machine's writable disks.
func (c *Client) Sync(ctx context.Context) error { return c.Call(ctx, wire.OpSync, nil, nil) }

// Serve makes the machine serve that to others, and nothing else any more.
func (c *Client) Serve(ctx context.Context, what wire.Serve) error {
	return c.Call(ctx, wire.OpServe, what, nil)
}

// ConnectNetwork adds an interface to a container.
func (c *Client) ConnectNetwork(ctx context.Context, connect wire.Connect) error {
	return c.Call(ctx, wire.OpConnect, connect, nil)
}

// DisconnectNetwork removes the interface of a VLAN from a container.
func (c *Client) DisconnectNetwork(ctx context.Context, container string, vlan uint16) error {
	return c.Call(ctx, wire.OpCut, wire.Connect{Container: container, Interface: wire.Interface{VLAN: vlan}}, nil)
}

// SetHosts replaces the extra lines of a container's /etc/hosts.
func (c *Client) SetHosts(ctx context.Context, hosts wire.Hosts) error {
	return c.Call(ctx, wire.OpHosts, hosts, nil)
}

// Invalidate tells of paths of a share that the host changed.
func (c *Client) Invalidate(ctx context.Context, changes wire.ShareChanges) error {
	return c.Call(ctx, wire.OpInvalidate, changes, nil)
}

// Shutdown stops every container, syncs every disk and ends the machine; the
// farewell is the agent's last message. The machine's process ends by itself a
// moment later.
func (c *Client) Shutdown(ctx context.Context, shutdown wire.Shutdown) (wire.Farewell, error) {
	return ask[wire.Farewell](ctx, c, wire.OpShutdown, shutdown)
}

// ask is Call with a typed result, zero on error.
func ask[T any](ctx context.Context, c *Client, op wire.Op, body any) (T, error) {
	var r T
	if err := c.Call(ctx, op, body, &r); err != nil {
		return *new(T), err
	}
	return r, nil
}

// Events calls handle with every event, the snapshot first, until ctx or the
// session ends or handle returns an error; it never returns nil.
func (c *Client) Events(ctx context.Context, handle func(wire.Event) error) error {
	s, err := c.begin(ctx, wire.OpEvents, nil, nil)
	if err != nil {
		return err
	}
	defer s.close()
	for {
		var e wire.Event
		if err := wire.ReadMessage(s, &e); err != nil {
			return fmt.Errorf("machine: %s: %w", wire.OpEvents, s.cause(err))
		}
		if len(e.Container) > maxNameID {
			return fmt.Errorf("machine: %s: event of a container id of %d bytes", wire.OpEvents, len(e.Container))
		}
		e.Output = printable(e.Output)
		if e.Exit != nil {
			e.Exit.Error = printable(e.Exit.Error)
		}
		if err := handle(e); err != nil {
			return err
		}
	}
}

// Stat describes a path in a container.
func (c *Client) Stat(ctx context.Context, archive wire.Archive) (wire.ArchiveStat, error) {
	return ask[wire.ArchiveStat](ctx, c, wire.OpStat, archive)
}

// Put unpacks a tar stream at a path in a container; it returns when the agent
// has, and at the latest one read of tar after ctx.
func (c *Client) Put(ctx context.Context, archive wire.Archive, tar io.Reader) error {
	return c.send(ctx, wire.OpPut, archive, tar)
}

// PutVolume unpacks a tar stream into a volume; it is on disk when PutVolume
// returns.
func (c *Client) PutVolume(ctx context.Context, v wire.Volume, tar io.Reader) error {
	return c.send(ctx, wire.OpVolumePut, v, tar)
}

func (c *Client) send(ctx context.Context, op wire.Op, body any, tar io.Reader) error {
	s, err := c.begin(ctx, op, body, nil)
	if err != nil {
		return err
	}
	defer s.close()
	// An agent that refuses half way replies at once, while this side may be
	// blocked in writing what the agent no longer reads.
	verdict := make(chan error, 1)
	c.wg.Go(func() {
		verdict <- s.reply(nil)
		s.SetWriteDeadline(past)
	})
	source := &errReader{r: tar}
	_, writeErr := io.Copy(s, source)
	s.Stream.Close() // half: the reply is still to come
	err = <-verdict
	switch {
	case source.err != nil:
		return fmt.Errorf("reading the archive for the machine: %w", source.err)
	case err != nil:
		return fmt.Errorf("machine: %s: %w", op, err)
	case writeErr != nil:
		return fmt.Errorf("machine: %s: the agent was done before the archive was", op)
	}
	return nil
}

// errReader remembers its reader's error, to tell it from the writer's.
type errReader struct {
	r   io.Reader
	err error
}

func (e *errReader) Read(b []byte) (int, error) {
	n, err := e.r.Read(b)
	if err != nil && err != io.EOF {
		e.err = err
	}
	return n, err
}

// Get reads a path of a container as a tar stream, which the caller closes.
func (c *Client) Get(ctx context.Context, archive wire.Archive) (wire.ArchiveStat, io.ReadCloser, error) {
	var r wire.ArchiveStat
	s, err := c.begin(ctx, wire.OpGet, archive, &r)
	if err != nil {
		return wire.ArchiveStat{}, nil, err
	}
	return r, &tarStream{s, wire.OpGet}, nil
}

// GetVolume reads all that is in a volume as a tar stream, which the caller
// closes. One that broke off does not end as a tar does.
func (c *Client) GetVolume(ctx context.Context, v wire.Volume) (io.ReadCloser, error) {
	s, err := c.begin(ctx, wire.OpVolumeGet, v, nil)
	if err != nil {
		return nil, err
	}
	return &tarStream{s, wire.OpVolumeGet}, nil
}

type tarStream struct {
	s  *stream
	op wire.Op
}

// Read returns io.EOF only for a stream that the agent ended, never for a
// session that broke.
func (t *tarStream) Read(b []byte) (int, error) {
	n, err := t.s.Read(b)
	if err == nil || (errors.Is(err, io.EOF) && t.s.ctx.Err() == nil && t.s.client.Err() == nil) {
		return n, err
	}
	return n, fmt.Errorf("machine: %s: %w", t.op, t.s.cause(err))
}

func (t *tarStream) Close() error {
	t.s.close()
	return nil
}
