//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/stackvm/stack/guest/agent/cgroup"
	"github.com/stackvm/stack/guest/agent/container"
	"github.com/stackvm/stack/guest/agent/disk"
	"github.com/stackvm/stack/guest/agent/launch"
	"github.com/stackvm/stack/guest/agent/logs"
	"github.com/stackvm/stack/guest/agent/port"
	"github.com/stackvm/stack/guest/agent/process"
	"github.com/stackvm/stack/guest/agent/share"
	"github.com/stackvm/stack/guest/agent/storage"
	"github.com/stackvm/stack/guest/wire"
)

// Version is the agent's, set by the linker.
var Version = "dev"

// Agent is what the machine's parts have in common.
type Agent struct {
	key        wire.Key
	disks      *disk.Store
	shares     *share.Client
	server     *storage.Server
	logs       *logs.Queue
	events     *events
	containers *container.Set

	ending   sync.Once
	farewell wire.Farewell // set by ending
	haltOnce sync.Once
	halt     chan struct{} // closed when the farewell has been sent
}

// Run hosts the machine until it is told to end, and then returns; the caller
// halts. The file systems are set up (package boot).
func Run(ctx context.Context, key wire.Key) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := &Agent{
		key:    key,
		disks:  disk.New("/run/disks"),
		logs:   logs.NewQueue(),
		events: newEvents(),
		halt:   make(chan struct{}),
	}
	a.server = storage.NewServer(a.disks)
	if err := cgroup.Enable(); err != nil {
		return err
	}
	memory, err := cgroup.NewWatcher()
	if err != nil {
		return err
	}
	if a.shares, err = share.New("/run/shares"); err != nil {
		return err
	}
	a.containers = container.NewSet(container.Machine{
		Launcher: launch.New(process.NewTable()), Disks: a.disks, Shares: a.shares, Storage: storage.NewClient("/run/storage"), Logs: a.logs, Memory: memory, Emit: a.events.emit,
	})

	failed := make(chan error, 2)
	go func() { failed <- a.serve(ctx, wire.PortControl, a.control) }()
	// Without these ports output waits in the queue and shares are not mounted,
	// which a machine that was not given them has to live with.
	for name, session := range map[string]func(*port.Conn){
		wire.PortLogs:   func(c *port.Conn) { a.logs.Session(c) },
		wire.PortShares: func(c *port.Conn) { a.shares.Session(c) },
	} {
		go func() {
			if err := a.serve(ctx, name, session); ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, "agent:", err)
			}
		}()
	}
	select {
	case err := <-failed:
		return err
	case <-a.halt:
		return nil
	}
}

// serve opens a port and answers greetings on it.
func (a *Agent) serve(ctx context.Context, name string, session func(*port.Conn)) error {
	p, err := port.Open(ctx, name)
	if err != nil {
		return err
	}
	if err := port.Serve(ctx, p, a.key, session); err != nil {
		return fmt.Errorf("port %s: %w", name, err)
	}
	return nil
}

// sessionConfig is yamux's. Keepalive would end the session of a machine that is
// paused; a write may wait as long as the host is away.
func sessionConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.AcceptBacklog = wire.MaxStreams
	c.EnableKeepAlive = false
	c.ConnectionWriteTimeout = 24 * time.Hour
	c.StreamOpenTimeout = 0
	c.LogOutput = io.Discard
	return c
}

// control serves one session of the control port.
func (a *Agent) control(conn *port.Conn) {
	session, err := yamux.Server(conn, sessionConfig())
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent: control session:", err)
		return
	}
	defer session.Close()
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			return
		}
		if session.NumStreams() > wire.MaxStreams {
			stream.Close()
			continue
		}
		go a.handle(stream)
	}
}

// handle answers one request.
func (a *Agent) handle(stream *yamux.Stream) {
	defer stream.Close()
	var request wire.Request
	if err := wire.ReadMessage(stream, &request); err != nil {
		return
	}
	do, ok := operations[request.Op]
	if !ok {
		reply(stream, nil, &wire.Error{Code: wire.CodeUnknownOp, Message: fmt.Sprintf("operation %.50q: unknown", request.Op)})
		return
	}
	do(a, &call{body: request.Body, stream: stream})
}

// reply sends a result or an error.
func reply(w io.Writer, result any, err error) error {
	var r wire.Reply
	if err == nil && result != nil {
		r.Body, err = marshal(result)
	}
	if err != nil {
		r = wire.Reply{Error: wireError(err)}
	}
	return wire.WriteMessage(w, r)
}

// wireError keeps the code of the cause and the words of the whole.
func wireError(err error) *wire.Error {
	out := &wire.Error{Message: err.Error()}
	var coded *wire.Error
	if errors.As(err, &coded) {
		out.Code = coded.Code
	}
	return out
}
