package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/stackvm/stack/guest/wire"
)

// ErrNoSupervisor is returned by Dial when none runs: no machine runs either.
var ErrNoSupervisor = errors.New("no supervisor runs")

// Client speaks with a supervisor. Its methods may be called concurrently.
type Client struct {
	socket string
	token  string
	http   *http.Client
	Info   Info // of the supervisor, as Dial found it
}

// Dial connects to the supervisor at socket, whose token is in the file token.
// While a supervisor is being restarted, it waits for it.
func Dial(ctx context.Context, socket, token string) (*Client, error) {
	c := &Client{socket: socket}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
		DisableCompression: true,
		DisableKeepAlives:  true, // nothing to close, and a restarted supervisor is found again
	}}
	probe, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	probe.Close()
	if c.token, err = ReadToken(token); err != nil {
		return nil, err
	}
	for tries := 3; ; tries-- {
		err := c.call(ctx, PathInfo, nil, &c.Info)
		_, answered := errors.AsType[*Error](err)
		switch {
		case err == nil:
			return c, nil
		case answered || tries == 0 || ctx.Err() != nil || errors.Is(err, ErrNoSupervisor):
			return nil, err
		}
		// It died, or ended, between accepting and answering: the next connection
		// waits for its successor, or finds that there is none.
	}
}

// Socket is the path that the client connects to.
func (c *Client) Socket() string { return c.socket }

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.socket)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			return nil, ErrNoSupervisor
		}
		return nil, fmt.Errorf("connecting to the supervisor: %w", err)
	}
	if err := checkPeer(conn.(*net.UnixConn)); err != nil {
		conn.Close()
		return nil, fmt.Errorf("connecting to the supervisor: %w", err)
	}
	return conn, nil
}

// Apply carries a command out. Events end with an error, or after EventDone; a
// done event's own error is returned as the last error. Leaving the loop, or
// the end of ctx, cancels what has not begun.
func (c *Client) Apply(ctx context.Context, a Apply) iter.Seq2[Event, error] {
	return events(stream[Event](ctx, c, PathApply, a))
}

// Pull fetches images.
func (c *Client) Pull(ctx context.Context, p Pull) iter.Seq2[Event, error] {
	return events(stream[Event](ctx, c, PathPull, p))
}

// RemoveImage takes an image's name away, and the image with its last name.
func (c *Client) RemoveImage(ctx context.Context, r RemoveImage) (RemovedImage, error) {
	return ask[RemovedImage](ctx, c, PathImageRemove, r)
}

// Run makes a one-off replica.
func (c *Client) Run(ctx context.Context, r Run) iter.Seq2[Event, error] {
	return events(stream[Event](ctx, c, PathRun, r))
}

// Logs reads log entries. When the supervisor dies, or another build takes over,
// it goes on with the next one: no entry is lost or doubled.
func (c *Client) Logs(ctx context.Context, q LogQuery) iter.Seq2[LogEntry, error] {
	return func(yield func(LogEntry, error) bool) {
		at := newPosition(q)
		for {
			var broken error
			for e, err := range stream[LogEntry](ctx, c, PathLogs, q) {
				if err != nil {
					if _, answered := errors.AsType[*Error](err); answered || ctx.Err() != nil || !q.Follow {
						yield(e, err)
						return
					}
					broken = err
					break
				}
				if e.End {
					return
				}
				if at.heard(e) {
					continue
				}
				if !yield(e, nil) {
					return
				}
			}
			switch {
			case ctx.Err() != nil:
				yield(LogEntry{}, ctx.Err())
				return
			case errors.Is(broken, ErrNoSupervisor):
				return // it ended because nothing runs any more
			case !q.Follow:
				yield(LogEntry{}, errors.New("the supervisor went away before the end of the logs: run the command again"))
				return
			}
			q = at.resume()
		}
	}
}

// position is how far a stream of log entries has come.
type position struct {
	first   LogQuery
	began   time.Time
	last    map[string]entryAt // by replica
	resumed map[string]entryAt // where each was when the stream broke, until it is past that
	again   bool
}

type entryAt struct {
	at, mark time.Time
	seq      uint64
}

func newPosition(q LogQuery) *position {
	return &position{first: q, began: time.Now(), last: map[string]entryAt{}}
}

// heard tells an entry that came before the stream broke, and notes those that
// did not.
func (p *position) heard(e LogEntry) bool {
	if p.again {
		was, known := p.resumed[e.Replica]
		switch {
		case known && e.Mark != nil && !e.Time.After(was.mark):
			return true
		case known && e.Mark == nil && (e.Time.Before(was.at) || e.Time.Equal(was.at) && e.Seq <= was.seq):
			return true
		case !known && p.first.Tail >= 0 && e.Time.Before(p.began):
			return true // the first query had left it out
		}
		if known && e.Mark == nil {
			was.at, was.seq = time.Time{}, 0 // past it: clocks may step back from here on
			p.resumed[e.Replica] = was
		}
	}
	l := p.last[e.Replica]
	if e.Mark != nil {
		l.mark = e.Time
	} else {
		l.at, l.seq = e.Time, e.Seq
	}
	p.last[e.Replica] = l
	return false
}

// lateness bounds how much later than another replica's one entry may be
// delivered that is older.
const lateness = 10 * time.Second

// resume is the query that goes on.
func (p *position) resume() LogQuery {
	q := p.first
	q.Tail = -1
	p.again, p.resumed = true, maps.Clone(p.last)
	var earliest time.Time
	for _, l := range p.last {
		if earliest.IsZero() || l.at.Before(earliest) {
			earliest = l.at
		}
	}
	if since := earliest.Add(-lateness); !earliest.IsZero() && since.After(q.Since) {
		q.Since = since
	}
	return q
}

// Events reads what happens to objects, from now on or since a past moment. It
// goes on with the next supervisor as Logs does, except for what happened in
// between.
func (c *Client) Events(ctx context.Context, q EventsQuery) iter.Seq2[ObjectEvent, error] {
	return func(yield func(ObjectEvent, error) bool) {
		for {
			for e, err := range stream[ObjectEvent](ctx, c, PathEvents, q) {
				if err != nil {
					_, answered := errors.AsType[*Error](err)
					if answered || ctx.Err() != nil {
						yield(e, err)
						return
					}
					if errors.Is(err, ErrNoSupervisor) {
						return
					}
					break
				}
				if !yield(e, nil) {
					return
				}
				q.Since = e.Time.Add(1)
			}
			if ctx.Err() != nil {
				yield(ObjectEvent{}, ctx.Err())
				return
			}
			if !q.Until.IsZero() && !time.Now().Before(q.Until) {
				return
			}
		}
	}
}

// Replicas lists the selected replicas.
func (c *Client) Replicas(ctx context.Context, s Select) ([]Replica, error) {
	return ask[[]Replica](ctx, c, PathReplicas, s)
}

// StartReplica starts a created one-off.
func (c *Client) StartReplica(ctx context.Context, s Select) error {
	return c.call(ctx, PathStart, s, nil)
}

// WaitReplica returns when a replica has ended for good. When the supervisor
// dies, or another build takes over, it goes on waiting with the next one.
func (c *Client) WaitReplica(ctx context.Context, s Select) (wire.ExitStatus, error) {
	for {
		status, err := ask[wire.ExitStatus](ctx, c, PathWait, s)
		_, answered := errors.AsType[*Error](err)
		if err == nil || answered || ctx.Err() != nil || errors.Is(err, ErrNoSupervisor) {
			return status, err
		}
	}
}

// DeleteReplica removes a one-off, ending it first.
func (c *Client) DeleteReplica(ctx context.Context, s Select) error {
	return c.call(ctx, PathDelete, s, nil)
}

// Kill sends a signal to the selected running replicas and names them.
func (c *Client) Kill(ctx context.Context, k Kill) ([]ReplicaRef, error) {
	return ask[[]ReplicaRef](ctx, c, PathKill, k)
}

// Pause freezes the selected running replicas, or lets them go on, and returns
// those for which it did, also on error.
func (c *Client) Pause(ctx context.Context, p Pause) ([]ReplicaRef, error) {
	done, err := ask[Paused](ctx, c, PathPause, p)
	if err == nil && done.Error != nil {
		err = done.Error
	}
	return done.Replicas, err
}

// Top lists the processes of the selected running replicas.
func (c *Client) Top(ctx context.Context, s Select) ([]Top, error) {
	return ask[[]Top](ctx, c, PathTop, s)
}

// Stats reads the counters of the selected running replicas once.
func (c *Client) Stats(ctx context.Context, s Select) ([]Stats, error) {
	return ask[[]Stats](ctx, c, PathStats, s)
}

// Stat describes a path in a replica.
func (c *Client) Stat(ctx context.Context, a Archive) (wire.ArchiveStat, error) {
	return ask[wire.ArchiveStat](ctx, c, PathStat, a)
}

// Get reads a path in a replica as a tar stream, which the caller closes.
func (c *Client) Get(ctx context.Context, a Archive) (wire.ArchiveStat, io.ReadCloser, error) {
	resp, err := c.post(ctx, PathGet, a)
	if err != nil {
		return wire.ArchiveStat{}, nil, err
	}
	var st wire.ArchiveStat
	if err := json.Unmarshal([]byte(resp.Header.Get(headerArchive)), &st); err != nil {
		resp.Body.Close()
		return st, nil, fmt.Errorf("supervisor: describing %s: %w", a.Path, err)
	}
	return st, &trailingError{resp}, nil
}

// Put extracts a tar stream into a directory of a replica. tar stays open.
func (c *Client) Put(ctx context.Context, a Archive, tar io.Reader) error {
	return c.send(ctx, PathPut, a, tar)
}

func (c *Client) send(ctx context.Context, path string, v any, tar io.Reader) error {
	head, err := json.Marshal(v)
	if err != nil {
		return err
	}
	req, err := c.request(ctx, path, struct{ io.Reader }{tar}) // net/http closes what it can
	if err != nil {
		return err
	}
	req.Header.Set(headerArchive, string(head))
	resp, err := c.do(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Prunable lists what nothing needs.
func (c *Client) Prunable(ctx context.Context, q PruneQuery) (Pruned, error) {
	return ask[Pruned](ctx, c, PathPrunable, q)
}

// Prune removes what Prunable has listed, as far as nothing has come to need it,
// and tells what is gone.
func (c *Client) Prune(ctx context.Context, chosen Pruned) (Pruned, error) {
	return ask[Pruned](ctx, c, PathPrune, chosen)
}

// Autostart starts what is to run after the host was started.
func (c *Client) Autostart(ctx context.Context) (Autostarted, error) {
	return ask[Autostarted](ctx, c, PathAutostart, nil)
}

// End stops every machine, and the supervisor with them, without recording that
// a user wanted it: Autostart starts them again.
func (c *Client) End(ctx context.Context) error {
	return c.call(ctx, PathEnd, nil, nil)
}

// CreateVolume makes a volume and returns its name.
func (c *Client) CreateVolume(ctx context.Context, v VolumeCreate) (string, error) {
	ref, err := ask[VolumeRef](ctx, c, PathVolumeCreate, v)
	return ref.Name, err
}

// RemoveVolume removes a volume with its data.
func (c *Client) RemoveVolume(ctx context.Context, name string) error {
	return c.call(ctx, PathVolumeRemove, VolumeRef{Name: name}, nil)
}

// ExportVolume reads all that is in a volume as a tar stream, which the caller
// closes.
func (c *Client) ExportVolume(ctx context.Context, name string) (io.ReadCloser, error) {
	resp, err := c.post(ctx, PathVolumeExport, VolumeRef{Name: name}) //nolint:bodyclose // the caller closes it
	if err != nil {
		return nil, err
	}
	return &trailingError{resp}, nil
}

// ImportVolume unpacks a tar stream into a volume.
func (c *Client) ImportVolume(ctx context.Context, v VolumeImport, tar io.Reader) error {
	return c.send(ctx, PathVolumeImport, v, tar)
}

// CreateNetwork makes a network and returns its id.
func (c *Client) CreateNetwork(ctx context.Context, n NetworkCreate) (string, error) {
	ref, err := ask[NetworkRef](ctx, c, PathNetworkNew, n)
	return ref.ID, err
}

// RemoveNetwork removes a network that no container has.
func (c *Client) RemoveNetwork(ctx context.Context, name string) error {
	return c.call(ctx, PathNetworkGone, NetworkRef{Name: name}, nil)
}

// Exec runs a command in a replica. The connection carries wire frames, the
// last of them FrameExit; with Detach it is nil.
func (c *Client) Exec(ctx context.Context, e Exec) (net.Conn, error) {
	if e.Exec.Detach {
		return nil, c.call(ctx, PathExec, e, nil)
	}
	return c.hijack(ctx, PathExec, e)
}

// Attach connects to a replica's standard streams. The connection carries wire
// frames, the last of them FrameExit.
func (c *Client) Attach(ctx context.Context, a Attach) (net.Conn, error) {
	return c.hijack(ctx, PathAttach, a)
}

// Upgrade asks the supervisor to hand over to the build of executable and
// returns when it has let go: connections made then are answered by the new one.
func (c *Client) Upgrade(ctx context.Context, u Upgrade) error {
	return c.call(ctx, PathUpgrade, u, nil)
}

// Shutdown ends the supervisor; it refuses while machines run.
func (c *Client) Shutdown(ctx context.Context) error {
	return c.call(ctx, PathShutdown, nil, nil)
}

// Forward forwards ports until ctx ends, or with Detach beyond; it yields the
// forwards as they are made, and again whenever something of them changes. When
// the supervisor dies, or another build takes over, the next one is asked for the
// same ports.
func (c *Client) Forward(ctx context.Context, f Forward) iter.Seq2[[]Forwarded, error] {
	f.Ports = slices.Clone(f.Ports)
	return func(yield func([]Forwarded, error) bool) {
		for {
			for line, err := range stream[Forwarding](ctx, c, PathForward, f) {
				if err == nil && line.Error != nil {
					err = line.Error
				}
				_, answered := errors.AsType[*Error](err)
				switch {
				case err == nil:
				case answered, ctx.Err() != nil, f.Detach, errors.Is(err, ErrNoSupervisor):
					yield(nil, err)
					return
				default:
					continue // it broke off
				}
				for i, made := range line.Forwards {
					f.Ports[i].Local, f.Ports[i].Prefer = made.Local, false
				}
				if !yield(line.Forwards, nil) {
					return
				}
			}
			switch {
			case ctx.Err() != nil:
				yield(nil, ctx.Err())
				return
			case f.Detach:
				return
			}
		}
	}
}

// Forwards lists what is forwarded.
func (c *Client) Forwards(ctx context.Context) ([]Forwarded, error) {
	return ask[[]Forwarded](ctx, c, PathForwards, nil)
}

// Unforward ends forwards, by their ids.
func (c *Client) Unforward(ctx context.Context, ids ...string) error {
	return c.call(ctx, PathUnforward, Unforward{IDs: ids}, nil)
}

func (c *Client) request(ctx context.Context, path string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://supervisor"+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set(headerVersion, strconv.Itoa(Version))
	return req, nil
}

func (c *Client) post(ctx context.Context, path string, v any) (*http.Response, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding the request: %w", err)
	}
	req, err := c.request(ctx, path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	return c.do(req)
}

func (c *Client) do(req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		if ctxErr := req.Context().Err(); ctxErr != nil {
			return nil, ctxErr
		}
		if errors.Is(err, ErrNoSupervisor) {
			return nil, ErrNoSupervisor
		}
		return nil, fmt.Errorf("supervisor: %w", err)
	}
	if resp.StatusCode >= 300 || resp.StatusCode < 200 {
		defer resp.Body.Close()
		return nil, readError(resp)
	}
	return resp, nil
}

func readError(resp *http.Response) error {
	var e Error
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&e); err != nil || e.Message == "" {
		return fmt.Errorf("supervisor: answered %s", resp.Status)
	}
	return &e
}

func (c *Client) call(ctx context.Context, path string, v, result any) error {
	resp, err := c.post(ctx, path, v)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if result == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	if err := json.NewDecoder(resp.Body).Decode(result); err != nil {
		return fmt.Errorf("supervisor: decoding its answer: %w", err)
	}
	return nil
}

func ask[T any](ctx context.Context, c *Client, path string, v any) (T, error) {
	var result T
	err := c.call(ctx, path, v, &result)
	return result, err
}

// stream yields the lines of an answer.
func stream[T any](ctx context.Context, c *Client, path string, v any) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		resp, err := c.post(ctx, path, v)
		if err != nil {
			yield(zero, err)
			return
		}
		defer resp.Body.Close()
		dec := json.NewDecoder(bufio.NewReaderSize(resp.Body, 64<<10))
		for {
			var line T
			if err := dec.Decode(&line); err != nil {
				switch {
				case ctx.Err() != nil:
					yield(zero, ctx.Err())
				case !errors.Is(err, io.EOF):
					yield(zero, fmt.Errorf("supervisor: the stream broke off: %w", err))
				}
				return
			}
			if !yield(line, nil) {
				return
			}
		}
	}
}

// events turns the end of a change into the end of the loop: without a done
// event the supervisor has died.
func events(lines iter.Seq2[Event, error]) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for e, err := range lines {
			if err != nil {
				yield(e, err)
				return
			}
			if !yield(e, nil) {
				return
			}
			if e.Kind == EventDone {
				if e.Error != nil {
					yield(Event{}, e.Error)
				}
				return
			}
		}
		yield(Event{}, errors.New("the supervisor went away before it had finished: run the command again"))
	}
}

// hijack posts v and takes the connection over.
func (c *Client) hijack(ctx context.Context, path string, v any) (net.Conn, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding the request: %w", err)
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	req, err := c.request(ctx, path, bytes.NewReader(body))
	if err != nil {
		conn.Close()
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", upgradeProto)
	br := bufio.NewReader(conn)
	var resp *http.Response
	if err = req.Write(conn); err == nil {
		resp, err = http.ReadResponse(br, req) //nolint:bodyclose // the session closes the connection
	}
	if err != nil {
		conn.Close()
		stop()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("supervisor: %w", err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer conn.Close()
		defer stop()
		return nil, readError(resp)
	}
	return &sessionConn{bufferedConn{Conn: conn, r: br}, stop}, nil
}

// sessionConn is a hijacked connection that ends with the context it was made
// with.
type sessionConn struct {
	bufferedConn
	stop func() bool
}

func (c *sessionConn) Close() error {
	c.stop()
	return c.Conn.Close()
}

// trailingError turns the error a tar stream ended with, sent as a trailer,
// into the reader's.
type trailingError struct{ resp *http.Response }

func (t *trailingError) Read(p []byte) (int, error) {
	n, err := t.resp.Body.Read(p)
	if errors.Is(err, io.EOF) {
		if text := t.resp.Trailer.Get(TrailerError); text != "" {
			return n, errors.New(text)
		}
	}
	return n, err
}

func (t *trailingError) Close() error { return t.resp.Body.Close() }

// TrailerError carries the error of a stream that broke after its header.
const TrailerError = "X-Stack-Error"

// SetArchive puts v, an Archive or a wire.ArchiveStat, into a header.
func SetArchive(h http.Header, v any) error {
	text, err := json.Marshal(v)
	if err == nil {
		h.Set(headerArchive, string(text))
	}
	return err
}

// HeaderOf reads what a request with a tar stream says in its header.
func HeaderOf[T any](r *http.Request) (T, error) {
	var v T
	if err := json.Unmarshal([]byte(r.Header.Get(headerArchive)), &v); err != nil {
		return v, &Error{Code: CodeInvalid, Message: fmt.Sprintf("decoding the request: %v", err)}
	}
	return v, nil
}
