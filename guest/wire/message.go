package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Protocol is the version of these messages. Host and agent of different
// versions may talk as long as Hello's Protocol is understood by the host.
const Protocol = 1

// Names of a machine's ports, as the guest's /sys/class/virtio-ports/*/name
// shows them.
const (
	PortControl = "stack.control"
	PortLogs    = "stack.logs"
	PortShares  = "stack.shares"
)

// Bounds of DESIGN §7: a peer that exceeds them is cut off.
const (
	MaxMessage = 1 << 20 // bytes of one JSON message
	MaxStreams = 256     // concurrent streams of one session
)

// ErrMessageTooLarge is returned for a message longer than MaxMessage.
var ErrMessageTooLarge = errors.New("message exceeds 1 MiB")

// WriteMessage writes v as JSON behind its length (4 bytes, big endian).
func WriteMessage(w io.Writer, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding message: %w", err)
	}
	if len(body) > MaxMessage {
		return ErrMessageTooLarge
	}
	buf := make([]byte, 4, 4+len(body))
	binary.BigEndian.PutUint32(buf, uint32(len(body)))
	_, err = w.Write(append(buf, body...))
	return err
}

// ReadMessage reads one message into v. It reads exactly the message, so that
// raw bytes may follow on the same stream.
func ReadMessage(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > MaxMessage {
		return ErrMessageTooLarge
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("decoding message: %w", err)
	}
	return nil
}

// Request opens every control stream.
type Request struct {
	Op   Op              `json:"op"`
	Body json.RawMessage `json:"body,omitempty"`
}

// Reply answers a Request. When Error is nil, Body holds the operation's result
// and frames or raw bytes may follow.
type Reply struct {
	Error *Error          `json:"error,omitempty"`
	Body  json.RawMessage `json:"body,omitempty"`
}

// Error is a fault as it crosses the wire.
type Error struct {
	Code    ErrorCode `json:"code,omitempty"`
	Message string    `json:"message"`
}

func (e *Error) Error() string { return e.Message }

// ErrorCode is what a caller may branch on.
type ErrorCode string

// Codes with a meaning to the host.
const (
	CodeNotFound   ErrorCode = "not-found"   // no such container, exec or path
	CodeConflict   ErrorCode = "conflict"    // wrong state for the operation
	CodeRunning    ErrorCode = "running"     // OpStart of a container that runs
	CodeNoCommand  ErrorCode = "no-command"  // executable not found: exit status 127
	CodeCannotExec ErrorCode = "cannot-exec" // executable not runnable: exit status 126
	CodeInvalid    ErrorCode = "invalid"     // the request itself is wrong
	CodeUnknownOp  ErrorCode = "unknown-op"  // agent older than the host
)

// Op names an operation; its comment gives request body -> reply body, and what
// follows on the stream.
type Op string

// The operations.
const (
	OpHello    Op = "hello"    // Hello -> HelloReply. First on every session.
	OpEvents   Op = "events"   // nothing -> nothing; then Event messages, a snapshot first, until the stream closes.
	OpShutdown Op = "shutdown" // Shutdown -> Farewell: everything stopped and synced; the machine then exits.
	OpSync     Op = "sync"     // nothing -> nothing: writable disks flushed.
	OpStats    Op = "stats"    // nothing -> Stats.

	OpCreate     Op = "container.create"   // Container -> nothing: disks mounted, namespaces and networks made, nothing run.
	OpStart      Op = "container.start"    // ContainerRef -> Started.
	OpStop       Op = "container.stop"     // Stop -> ExitStatus, once it has ended.
	OpSignal     Op = "container.signal"   // Signal -> nothing.
	OpPause      Op = "container.pause"    // ContainerRef -> nothing: frozen.
	OpUnpause    Op = "container.unpause"  // ContainerRef -> nothing.
	OpRemove     Op = "container.remove"   // ContainerRef -> nothing: unmounted, disks released.
	OpAttach     Op = "container.attach"   // Attach -> nothing; then frames both ways until FrameExit.
	OpExec       Op = "container.exec"     // Exec -> ExecStarted; then frames both ways until FrameExit.
	OpTop        Op = "container.top"      // ContainerRef -> Top.
	OpPut        Op = "container.put"      // Archive -> nothing, then the host sends a tar stream and half-closes -> Reply.
	OpGet        Op = "container.get"      // Archive -> ArchiveStat; then a tar stream until the stream ends.
	OpStat       Op = "container.stat"     // Archive -> ArchiveStat.
	OpVolumeGet  Op = "volume.get"         // Volume -> nothing; then a tar stream until the stream ends.
	OpVolumePut  Op = "volume.put"         // Volume -> nothing, then the host sends a tar stream and half-closes -> Reply, once all is on disk.
	OpServe      Op = "storage.serve"      // Serve -> nothing: the machine serves that, and nothing else any more.
	OpAccept     Op = "socket.accept"      // Accept -> nothing, once somebody has connected; then FrameData both ways.
	OpConnect    Op = "network.connect"    // Connect -> nothing: an interface added to a container.
	OpCut        Op = "network.disconnect" // Connect (Container and Interface.VLAN) -> nothing.
	OpHosts      Op = "container.hosts"    // Hosts -> nothing: /etc/hosts rewritten.
	OpInvalidate Op = "share.changed"      // ShareChanges -> nothing: host edits to raise as inotify events inside.
)
