package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
)

// Paths of the protocol, below http://supervisor.
const (
	PathInfo         = "/v1/info"          // GET -> Info
	PathApply        = "/v1/apply"         // POST Apply -> Events
	PathPlan         = "/v1/plan"          // POST Apply -> Events, DryRun forced
	PathPull         = "/v1/pull"          // POST Pull -> Events
	PathRun          = "/v1/run"           // POST Run -> Events
	PathReplicas     = "/v1/replicas"      // POST Select -> []Replica
	PathStart        = "/v1/start"         // POST Select -> nothing: starts a created one-off
	PathKill         = "/v1/kill"          // POST Kill -> []ReplicaRef
	PathPause        = "/v1/pause"         // POST Pause -> Paused
	PathWait         = "/v1/wait"          // POST Select -> wire.ExitStatus, once the replica has ended
	PathDelete       = "/v1/delete"        // POST Select -> nothing: removes an ended or created one-off
	PathExec         = "/v1/exec"          // POST Exec -> 101, frames
	PathAttach       = "/v1/attach"        // POST Attach -> 101, frames
	PathLogs         = "/v1/logs"          // POST LogQuery -> LogEntries
	PathEvents       = "/v1/events"        // POST EventsQuery -> ObjectEvents
	PathTop          = "/v1/top"           // POST Select -> []Top
	PathStats        = "/v1/stats"         // POST Select -> []Stats
	PathGet          = "/v1/get"           // POST Archive -> header ArchiveStat, tar
	PathPut          = "/v1/put"           // POST tar, header Archive -> nothing
	PathStat         = "/v1/stat"          // POST Archive -> wire.ArchiveStat
	PathPrunable     = "/v1/prunable"      // POST PruneQuery -> Pruned: what would go
	PathPrune        = "/v1/prune"         // POST Pruned -> Pruned: what of that went
	PathAutostart    = "/v1/autostart"     // POST -> Autostarted: what is to run after the host was started runs
	PathEnd          = "/v1/end"           // POST -> nothing: every machine stopped as a host that shuts down wants it
	PathVolumeCreate = "/v1/volume/create" // POST VolumeCreate -> VolumeRef
	PathVolumeRemove = "/v1/volume/remove" // POST VolumeRef -> nothing
	PathVolumeExport = "/v1/volume/export" // POST VolumeRef -> tar
	PathVolumeImport = "/v1/volume/import" // POST tar, header VolumeImport -> nothing
	PathNetworkNew   = "/v1/network/new"   // POST NetworkCreate -> NetworkRef
	PathNetworkGone  = "/v1/network/rm"    // POST NetworkRef -> nothing
	PathForward      = "/v1/forward"       // POST Forward -> Forwarding, a line whenever something of it changes
	PathForwards     = "/v1/forwards"      // POST -> []Forwarded
	PathUnforward    = "/v1/forward/rm"    // POST Unforward -> nothing
	PathImageRemove  = "/v1/image/remove"  // POST RemoveImage -> RemovedImage
	PathUpgrade      = "/v1/upgrade"       // POST Upgrade -> nothing, the connection closes when it has handed over
	PathShutdown     = "/v1/shutdown"      // POST -> nothing: ends a supervisor that keeps no machine
)

// Upgrade asks a supervisor to hand over to another build.
type Upgrade struct {
	Executable string `json:"executable"`
	Build      Build  `json:"build"`
}

const (
	headerArchive = "X-Stack-Archive" // JSON of what goes with a tar stream
	headerVersion = "X-Stack-Version" // the client's api Version
	upgradeProto  = "stack-frames"

	// maxRequest bounds a request's JSON: a project with all its configs and
	// secrets, which are at most 500 KiB each in docker and 1 MiB here.
	maxRequest = 64 << 20
)

// ConnContext keeps the peer's pid for PeerPID.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	if u, ok := c.(*net.UnixConn); ok {
		return context.WithValue(ctx, peerKey{}, peerPID(u))
	}
	return ctx
}

// PeerPID is the pid of the process that made the request, 0 when not known.
func PeerPID(ctx context.Context) int {
	pid, _ := ctx.Value(peerKey{}).(int)
	return pid
}

// ReadRequest decodes a request's body into v; the error is for the client.
func ReadRequest(r *http.Request, v any) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxRequest+1))
	if err != nil {
		return &Error{Code: CodeInvalid, Message: fmt.Sprintf("reading the request: %v", err)}
	}
	if len(body) > maxRequest {
		return &Error{Code: CodeInvalid, Message: fmt.Sprintf("the request exceeds %d MiB", maxRequest>>20)}
	}
	if err := json.Unmarshal(body, v); err != nil {
		return &Error{Code: CodeInvalid, Message: fmt.Sprintf("decoding the request: %v", err)}
	}
	return nil
}

// WriteJSON answers with v.
func WriteJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client has gone: nobody to tell
}

// WriteError answers with err; status 0 derives it from the error's code.
func WriteError(w http.ResponseWriter, status int, err error) {
	e := AsError(err)
	if status == 0 {
		switch e.Code {
		case CodeNotFound:
			status = http.StatusNotFound
		case CodeConflict, CodeConfirm:
			status = http.StatusConflict
		case CodeInvalid, CodeRefused, CodeCommand:
			status = http.StatusBadRequest
		case CodeAuth:
			status = http.StatusUnauthorized
		default:
			status = http.StatusInternalServerError
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(e)
}

// AsError makes err presentable: an Error stays what it is.
func AsError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok && e == err { //nolint:errorlint // a wrapped one has more to say
		return e
	}
	e := &Error{Message: err.Error()}
	if inner, ok := errors.AsType[*Error](err); ok {
		e.Code, e.ExitCode = inner.Code, inner.ExitCode
	}
	if errors.Is(err, context.Canceled) {
		e.Code = CodeCanceled
	}
	return e
}

// Stream writes newline-separated JSON, each line at once. Its methods may be
// called concurrently.
type Stream[T any] struct {
	mu  sync.Mutex
	w   http.ResponseWriter
	enc *json.Encoder
	err error
}

// NewStream starts a stream as the answer to a request.
func NewStream[T any](w http.ResponseWriter) *Stream[T] {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	s := &Stream[T]{w: w, enc: json.NewEncoder(w)}
	s.flush()
	return s
}

// Send writes a line; after the first failure it does nothing but repeat it.
func (s *Stream[T]) Send(v T) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		if s.err = s.enc.Encode(v); s.err == nil {
			s.flush()
		}
	}
	return s.err
}

// Write adds lines without flushing, for bursts; Flush ends one.
func (s *Stream[T]) Write(v T) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = s.enc.Encode(v)
	}
	return s.err
}

// Flush sends what Write has added.
func (s *Stream[T]) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flush()
}

func (s *Stream[T]) flush() {
	if f, ok := s.w.(http.Flusher); ok {
		f.Flush()
	}
}

// Hijack answers 101 and returns the raw connection; what the client sent
// already is still to be read from it.
func Hijack(w http.ResponseWriter) (net.Conn, error) {
	h, ok := w.(http.Hijacker)
	if !ok {
		return nil, errors.New("the connection cannot be taken over")
	}
	c, rw, err := h.Hijack()
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", upgradeProto); err != nil {
		c.Close()
		return nil, err
	}
	return &bufferedConn{Conn: c, r: rw.Reader}, nil
}

// bufferedConn reads first what the HTTP side had read ahead.
type bufferedConn struct {
	net.Conn
	r io.Reader
}

func (c *bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// CloseWrite ends the sending half.
func (c *bufferedConn) CloseWrite() error {
	if u, ok := c.Conn.(*net.UnixConn); ok {
		return u.CloseWrite()
	}
	return c.Conn.Close()
}
