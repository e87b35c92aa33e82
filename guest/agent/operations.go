//go:build linux

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/stackvm/stack/guest/agent/container"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// call is a request being answered.
type call struct {
	body   json.RawMessage
	stream *yamux.Stream
}

// operation answers a call on its stream.
type operation func(*Agent, *call)

func marshal(v any) (json.RawMessage, error) { return json.Marshal(v) }

// simple is an operation that is a request and a reply.
func simple[In, Out any](do func(*Agent, context.Context, *In) (Out, error)) operation {
	return func(a *Agent, c *call) {
		in := new(In)
		if err := c.decode(in); err != nil {
			reply(c.stream, nil, err)
			return
		}
		// What was begun is finished even when the host goes away: half a
		// container is worse than one nobody waits for.
		out, err := do(a, context.Background(), in)
		reply(c.stream, out, err)
	}
}

func (c *call) decode(v any) error {
	if len(c.body) == 0 {
		return nil
	}
	if err := json.Unmarshal(c.body, v); err != nil {
		return &wire.Error{Code: wire.CodeInvalid, Message: fmt.Sprintf("request: %v", err)}
	}
	return nil
}

type nothing struct{}

var operations map[wire.Op]operation

func init() { // a literal would refer to itself through handle
	operations = map[wire.Op]operation{
		wire.OpHello: func(a *Agent, c *call) {
			simple((*Agent).hello)(a, c)
			if err := a.containers.Prepare(); err != nil { // the first start will say so too
				fmt.Fprintln(os.Stderr, "agent:", err)
			}
		},
		wire.OpEvents:   (*Agent).subscribe,
		wire.OpShutdown: (*Agent).shutdown,
		wire.OpSync:     simple((*Agent).sync),
		wire.OpStats:    simple((*Agent).stats),

		wire.OpCreate: simple((*Agent).create),
		wire.OpStart:  simple((*Agent).start),
		wire.OpStop:   simple((*Agent).stop),
		wire.OpSignal: simple((*Agent).signal),
		wire.OpRemove: simple((*Agent).remove),

		wire.OpPause:   simple((*Agent).pause),
		wire.OpUnpause: simple((*Agent).unpause),

		wire.OpAttach: (*Agent).attach,
		wire.OpExec:   (*Agent).exec,
		wire.OpTop:    simple((*Agent).top),
		wire.OpHosts:  simple((*Agent).hosts),

		wire.OpAccept: (*Agent).accept,

		wire.OpPut:  (*Agent).put,
		wire.OpGet:  (*Agent).get,
		wire.OpStat: simple((*Agent).stat),

		wire.OpVolumeGet: (*Agent).getVolume,
		wire.OpVolumePut: (*Agent).putVolume,

		wire.OpServe: simple((*Agent).serveVolumes),

		wire.OpInvalidate: simple((*Agent).shareChanged),

		wire.OpConnect: simple((*Agent).connect),
		wire.OpCut:     simple((*Agent).disconnect),
	}
}

func (a *Agent) hello(_ context.Context, h *wire.Hello) (*wire.HelloReply, error) {
	if err := wake(h); err != nil {
		return nil, err
	}
	r := &wire.HelloReply{Protocol: wire.Protocol, Agent: Version, MemoryKiB: meminfo("MemTotal")}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		r.Kernel = unix.ByteSliceToString(uts.Release[:])
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	r.BootID = strings.TrimSpace(string(id))
	var up unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &up) == nil {
		r.Uptime = up.Nano()
	}
	return r, nil
}

// meminfo reads one number of /proc/meminfo, in KiB.
func meminfo(key string) int64 {
	text, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(text)) {
		if k, v, _ := strings.Cut(line, ":"); k == key {
			var n int64
			_, _ = fmt.Sscan(v, &n)
			return n
		}
	}
	return 0
}

func (a *Agent) create(ctx context.Context, c *wire.Container) (*nothing, error) {
	ctx, cancel := context.WithTimeout(ctx, deviceWait)
	defer cancel()
	return nil, a.containers.Create(ctx, c)
}

// deviceWait is how long a disk may take to appear after the host attached it;
// milliseconds, unless the host is very busy.
const deviceWait = 60 * time.Second

func (a *Agent) start(_ context.Context, ref *wire.ContainerRef) (*wire.Started, error) {
	c, err := a.containers.Get(ref.ID)
	if err != nil {
		return nil, err
	}
	started, err := c.Start()
	return &started, err
}

func (a *Agent) stop(ctx context.Context, s *wire.Stop) (*wire.ExitStatus, error) {
	c, err := a.containers.Get(s.ID)
	if err != nil {
		return nil, err
	}
	status, err := c.Stop(ctx, s.Signal, s.Grace)
	return &status, err
}

func (a *Agent) signal(_ context.Context, s *wire.Signal) (*nothing, error) {
	c, err := a.containers.Get(s.ID)
	if err != nil {
		return nil, err
	}
	return nil, c.Signal(s.Signal)
}

func (a *Agent) pause(_ context.Context, ref *wire.ContainerRef) (*nothing, error) {
	c, err := a.containers.Get(ref.ID)
	if err != nil {
		return nil, err
	}
	return nil, c.Pause()
}

func (a *Agent) unpause(_ context.Context, ref *wire.ContainerRef) (*nothing, error) {
	c, err := a.containers.Get(ref.ID)
	if err != nil {
		return nil, err
	}
	return nil, c.Unpause()
}

func (a *Agent) remove(_ context.Context, ref *wire.ContainerRef) (*nothing, error) {
	return nil, a.containers.Remove(ref.ID)
}

func (a *Agent) hosts(_ context.Context, h *wire.Hosts) (*nothing, error) {
	c, err := a.containers.Get(h.Container)
	if err != nil {
		return nil, err
	}
	return nil, c.SetHosts(h.Hosts)
}

func (a *Agent) shareChanged(_ context.Context, in *wire.ShareChanges) (*nothing, error) {
	return nil, a.shares.Changed(in.Share, in.Paths)
}

func (a *Agent) serveVolumes(ctx context.Context, in *wire.Serve) (*nothing, error) {
	ctx, cancel := context.WithTimeout(ctx, deviceWait)
	defer cancel()
	return nil, a.server.Serve(ctx, in)
}

func (a *Agent) connect(_ context.Context, in *wire.Connect) (*nothing, error) {
	c, err := a.containers.Get(in.Container)
	if err != nil {
		return nil, err
	}
	return nil, c.Connect(in.Interface)
}

func (a *Agent) disconnect(_ context.Context, in *wire.Connect) (*nothing, error) {
	c, err := a.containers.Get(in.Container)
	if err != nil {
		return nil, err
	}
	return nil, c.Disconnect(in.Interface.VLAN)
}

func (a *Agent) attach(c *call) {
	in := new(wire.Attach)
	err := c.decode(in)
	if err != nil {
		reply(c.stream, nil, err)
		return
	}
	target, err := a.containers.Get(in.ID)
	if err != nil {
		reply(c.stream, nil, err)
		return
	}
	_ = target.Attach(in, c.stream, func() error { return reply(c.stream, nil, nil) })
}

func (a *Agent) exec(c *call) {
	in := new(wire.Exec)
	if err := c.decode(in); err != nil {
		reply(c.stream, nil, err)
		return
	}
	target, err := a.containers.Get(in.ID)
	if err != nil {
		reply(c.stream, nil, err)
		return
	}
	x, err := target.Exec(in)
	if err != nil {
		reply(c.stream, nil, err)
		return
	}
	sent := reply(c.stream, wire.ExecStarted{PID: x.PID()}, nil)
	if in.Detach || sent != nil {
		x.Detach()
		return
	}
	_ = x.Serve(c.stream)
}

// accept gives the host the next connection to a socket of a container. A session
// that ends meanwhile takes none.
func (a *Agent) accept(c *call) {
	in := new(wire.Accept)
	err := c.decode(in)
	var conn *net.UnixConn
	if err == nil {
		var target *container.Container
		if target, err = a.containers.Get(in.ID); err == nil {
			conn, err = target.Accept(in.Target, c.stream.Session().CloseChan())
		}
	}
	switch {
	case err != nil:
		reply(c.stream, nil, err)
	case conn == nil:
	case reply(c.stream, nil, nil) != nil:
		conn.Close()
	default:
		_ = wire.Relay(c.stream, conn) // its ends are told to either side
	}
}

func (a *Agent) stat(_ context.Context, in *wire.Archive) (*wire.ArchiveStat, error) {
	c, err := a.containers.Get(in.ID)
	if err != nil {
		return nil, err
	}
	return c.Stat(in)
}

func (a *Agent) get(c *call) {
	in := new(wire.Archive)
	err := c.decode(in)
	if err == nil {
		var target *container.Container
		if target, err = a.containers.Get(in.ID); err == nil {
			replied := false
			err = target.Get(in, func(s *wire.ArchiveStat) error {
				replied = true
				return reply(c.stream, s, nil)
			}, c.stream)
			if replied {
				return
			}
		}
	}
	reply(c.stream, nil, err)
}

func (a *Agent) put(c *call) {
	in := new(wire.Archive)
	err := c.decode(in)
	var target *container.Container
	if err == nil {
		target, err = a.containers.Get(in.ID)
	}
	if err == nil {
		err = target.CanPut(in)
	}
	if reply(c.stream, nil, err) != nil || err != nil {
		return
	}
	if err = target.Put(in, c.stream); err != nil {
		reply(c.stream, nil, err)
	}
	// A tar ends before its stream does.
	_, _ = io.Copy(io.Discard, c.stream)
	if err == nil {
		reply(c.stream, nil, nil)
	}
}

func (a *Agent) getVolume(c *call) {
	in := new(wire.Volume)
	err := c.decode(in)
	var v *container.Volume
	if err == nil {
		v, err = a.volume(in)
	}
	if err != nil {
		reply(c.stream, nil, err)
		return
	}
	defer v.Close()
	if reply(c.stream, nil, nil) == nil {
		_ = v.Get(c.stream) // its end tells how that went
	}
}

func (a *Agent) putVolume(c *call) {
	in := new(wire.Volume)
	err := c.decode(in)
	var v *container.Volume
	if err == nil {
		v, err = a.volume(in)
	}
	if err == nil {
		if err = v.CanPut(in.Force); err != nil {
			v.Close()
		}
	}
	if reply(c.stream, nil, err) != nil || err != nil {
		return
	}
	err = v.Put(c.stream)
	// The last word is said once nothing is to be written any more.
	if closed := v.Close(); err == nil {
		err = closed
	}
	if err != nil {
		reply(c.stream, nil, err)
	}
	_, _ = io.Copy(io.Discard, c.stream) // a tar ends before its stream does
	if err == nil {
		reply(c.stream, nil, nil)
	}
}

func (a *Agent) volume(in *wire.Volume) (*container.Volume, error) {
	ctx, cancel := context.WithTimeout(context.Background(), deviceWait)
	defer cancel()
	return container.OpenVolume(ctx, a.disks, in)
}

func (a *Agent) top(_ context.Context, ref *wire.ContainerRef) (*wire.Top, error) {
	c, err := a.containers.Get(ref.ID)
	if err != nil {
		return nil, err
	}
	return c.Top()
}

func (a *Agent) sync(context.Context, *nothing) (*nothing, error) {
	for serial, err := range a.disks.Sync() {
		return nil, fmt.Errorf("disk %q: %w", serial, err)
	}
	return nil, nil
}

func (a *Agent) stats(context.Context, *nothing) (*wire.Stats, error) {
	s := &wire.Stats{
		At:         time.Now(),
		AgentRSS:   residentSet(),
		MemTotal:   meminfo("MemTotal") << 10,
		MemFree:    meminfo("MemAvailable") << 10,
		Containers: make(map[string]wire.ContainerStats),
	}
	for _, c := range a.containers.All() {
		s.Containers[c.ID()] = c.Stats()
	}
	return s, nil
}

func residentSet() int64 {
	text, _ := os.ReadFile("/proc/self/statm")
	var size, resident int64
	_, _ = fmt.Sscan(string(text), &size, &resident)
	return resident * int64(os.Getpagesize())
}

const (
	drainWait    = 10 * time.Second // for the host to have the last log records
	farewellRead = 2 * time.Second  // for a host that was sent the farewell to close its side
	farewellKept = 30 * time.Second // for another host, when the one that asked is gone
)

// shutdown stops and unmounts everything, says farewell, and ends the machine
// once a host has read that. A host that dies meanwhile is followed by another
// that asks again, and gets the same farewell.
func (a *Agent) shutdown(c *call) {
	in := new(wire.Shutdown)
	if err := c.decode(in); err != nil {
		reply(c.stream, nil, err)
		return
	}
	a.ending.Do(func() { a.farewell = a.end(in.Grace) })
	if reply(c.stream, a.farewell, nil) == nil {
		c.stream.Close()
		c.stream.SetReadDeadline(time.Now().Add(farewellRead))
		if _, err := c.stream.Read(make([]byte, 1)); errors.Is(err, io.EOF) || errors.Is(err, yamux.ErrTimeout) {
			a.haltOnce.Do(func() { close(a.halt) })
			return
		}
	}
	time.AfterFunc(farewellKept, func() { a.haltOnce.Do(func() { close(a.halt) }) })
}

// end brings everything to its end, once.
func (a *Agent) end(grace time.Duration) (farewell wire.Farewell) {
	var err error
	farewell.Containers, err = a.containers.Close(grace)
	if err != nil {
		farewell.Unsynced = append(farewell.Unsynced, err.Error())
	}
	if err := a.server.Close(); err != nil {
		farewell.Unsynced = append(farewell.Unsynced, err.Error())
	}
	for serial, err := range a.disks.Sync() {
		farewell.Unsynced = append(farewell.Unsynced, fmt.Sprintf("disk %q: %v", serial, err))
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainWait)
	defer cancel()
	if err := a.logs.Drain(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "agent: the last log records were not taken:", err)
	}
	return farewell
}
