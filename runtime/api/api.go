package api

import (
	"fmt"
	"time"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/logs"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/spec"
)

// Version is the protocol's; a supervisor of another one is replaced before it
// is spoken to.
const Version = 1

// Info is what a supervisor says of itself.
type Info struct {
	API     int       `json:"api"`
	Build   Build     `json:"build"`
	PID     int       `json:"pid"`
	Keeper  int       `json:"keeper"` // pid of the keeper, 0 without one
	Started time.Time `json:"started"`
	// Machines running and plans under way, by project.
	Machines int      `json:"machines"`
	Busy     []string `json:"busy,omitempty"`
}

// Command names what Apply does to a project.
type Command string

// The commands. Each becomes a plan in the supervisor, once it is its turn.
const (
	Up      Command = "up"
	Create  Command = "create"
	Down    Command = "down"
	Start   Command = "start"
	Stop    Command = "stop"
	Restart Command = "restart"
	Remove  Command = "rm"
)

// Apply asks for a change of a project.
type Apply struct {
	Command Command `json:"command"`
	Name    string  `json:"name"` // of the project
	// Project is what the compose file says; nil makes the supervisor go by what
	// it recorded, as docker compose does with -p and no file.
	Project  *spec.Project `json:"project,omitempty"`
	Registry Registry      `json:"registry"`
	Proxies  Proxies       `json:"proxies,omitempty"`
	HostCA   bool          `json:"hostCa,omitempty"` // containers that are made trust the host's authorities

	// What decides the plan: Options for up and create, Down for down, Selection
	// for the rest. NoStart and Now of Options are filled in by the supervisor.
	Options   planner.Options     `json:"options"`
	Down      planner.DownOptions `json:"down"`
	Selection planner.Selection   `json:"selection"`
	// WaitTimeout bounds the steps that Options.Wait or Selection.Wait asks for; 0: not.
	WaitTimeout time.Duration `json:"waitTimeoutNs,omitempty"`
	// Stored, for up, is the plan that is to be carried out: if another would be
	// made now, it is refused with CodeRefused, which says what has changed.
	Stored *planner.Plan `json:"stored,omitempty"`

	// Providers are what running providers needs.
	Providers Providers `json:"providers,omitzero"`

	// Parallel bounds the steps that are carried out at a time; below 1: no bound.
	Parallel int `json:"parallel,omitempty"`

	// DryRun ends the stream after the plan.
	DryRun bool `json:"dryRun,omitempty"`
	// Confirm is the Digest of a plan with destructive steps that the user has
	// seen and agreed to, or ConfirmAll. Without it such a plan ends the stream
	// with CodeConfirm and changes nothing.
	Confirm string `json:"confirm,omitempty"`
	// Adopt makes a project this directory's own that has its name from another
	// directory of the same name.
	Adopt bool `json:"adopt,omitempty"`
}

// ConfirmAll agrees to any plan (-y).
const ConfirmAll = "all"

// Providers is what running the providers of a project's services needs of the
// user's environment. As with Registry, the command line resolves it, and the
// supervisor, which outlives it, keeps it in memory for this request only: it
// runs the programs as steps of the plan, as the user would who asks now.
type Providers struct {
	Paths map[string]string `json:"paths,omitempty"` // by type: the program, absolute
	Env   []string          `json:"env,omitempty"`
	Dir   string            `json:"dir,omitempty"`
}

// String hides what must not be printed.
func (p Providers) String() string { return fmt.Sprintf("{%v ***}", p.Paths) }

// GoString hides it from %#v as well.
func (p Providers) GoString() string { return p.String() }

// Registry is what a pull needs of the user's environment: the command line
// resolves it, the supervisor keeps it in memory for this request only.
type Registry struct {
	// Auth maps a registry's host to credentials.
	Auth map[string]Credentials `json:"auth,omitempty"`
	// Proxies of the command line's environment.
	HTTPProxy  string `json:"httpProxy,omitempty"`
	HTTPSProxy string `json:"httpsProxy,omitempty"`
	NoProxy    string `json:"noProxy,omitempty"`
}

// Credentials are one registry's.
type Credentials struct {
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	IdentityToken string `json:"identityToken,omitempty"`
	RegistryToken string `json:"registryToken,omitempty"`
}

// String hides what must not be printed.
func (c Credentials) String() string { return fmt.Sprintf("{%s ***}", c.Username) }

// GoString hides it from %#v as well.
func (c Credentials) GoString() string { return c.String() }

// Proxies are the variables by which containers that are made find the user's
// proxies, where neither service nor hook sets them. A URL may hold a password: they
// are part of no project and no hash, and kept with the container alone.
type Proxies map[string]string

// String hides what must not be printed.
func (p Proxies) String() string { return fmt.Sprintf("%d proxy variables", len(p)) }

// GoString hides it from %#v as well.
func (p Proxies) GoString() string { return p.String() }

// EventKind says which fields of an Event are set.
type EventKind string

// Kinds of events of a change under way.
const (
	EventQueued   EventKind = "queued"   // Text: "waiting for up (pid 12)"
	EventPlan     EventKind = "plan"     // Plan and Digest; once, when it is decided
	EventStep     EventKind = "step"     // Step
	EventProgress EventKind = "progress" // Progress
	EventDebug    EventKind = "debug"    // Text: shown only if asked for
	EventOutput   EventKind = "output"   // Output: a line that a hook wrote
	EventWarning  EventKind = "warning"  // Text: shown once, the change goes on
	EventCreated  EventKind = "created"  // Replica: the one-off that Run made
	EventDone     EventKind = "done"     // the last one; Error unless it succeeded
)

// Event is one line of the stream that answers Apply, Pull and Run.
type Event struct {
	Kind     EventKind     `json:"kind"`
	At       time.Time     `json:"at"`
	Text     string        `json:"text,omitempty"`
	Plan     *planner.Plan `json:"plan,omitempty"`
	Digest   string        `json:"digest,omitempty"`
	Step     *StepEvent    `json:"step,omitempty"`
	Progress *Progress     `json:"progress,omitempty"`
	Replica  *ReplicaRef   `json:"replica,omitempty"`
	Output   *Output       `json:"output,omitempty"`
	Error    *Error        `json:"error,omitempty"`
}

// Output is a line that a hook of a service wrote.
type Output struct {
	Service string `json:"service"`
	Source  string `json:"source"` // in compose's words: web pre_start[0] ->
	Line    string `json:"line"`
}

// StepState is how far a step has come.
type StepState string

// States of a step.
const (
	StepStarted StepState = "started"
	StepDone    StepState = "done"
	StepFailed  StepState = "failed"
	StepSkipped StepState = "skipped" // a step it needs failed, or the change was cancelled
)

// StepEvent reports one step of the plan.
type StepEvent struct {
	ID    int          `json:"id"`
	Verb  planner.Verb `json:"verb"`
	Noun  planner.Noun `json:"noun"`
	Name  string       `json:"name"`
	State StepState    `json:"state"`
	// Text is what the object is now, in compose's words: Creating, Created,
	// Starting, Started, Waiting, Healthy, Exited, Stopping, Stopped, Removing, …
	Text  string `json:"text,omitempty"`
	Error string `json:"error,omitempty"`
	// Elapsed since the step started, in nanoseconds.
	Elapsed time.Duration `json:"elapsedNs,omitempty"`
}

// Progress is how far a pull has come.
type Progress struct {
	Image   string `json:"image"`           // reference as asked for
	Layer   string `json:"layer,omitempty"` // short digest; empty: the image as a whole
	Text    string `json:"text,omitempty"`  // Pulling fs layer, Downloading, Pull complete, Already exists, Waiting
	Details string `json:"details,omitempty"`
	Current int64  `json:"current,omitempty"`
	Total   int64  `json:"total,omitempty"` // bytes; 0: not known
}

// ErrorCode is what a client may branch on.
type ErrorCode string

// Codes.
const (
	CodeConfirm  ErrorCode = "confirm"   // the plan has destructive steps: ask, then send Confirm
	CodeCanceled ErrorCode = "canceled"  // the client went away or asked for it
	CodeNotFound ErrorCode = "not-found" // no such project, service, replica, path
	CodeConflict ErrorCode = "conflict"  // wrong state for what was asked
	CodeInvalid  ErrorCode = "invalid"   // the request or the project is wrong; nothing changed
	CodeRefused  ErrorCode = "refused"   // a check before the first change failed; nothing changed
	CodeAuth     ErrorCode = "auth"      // token or user
	CodeCommand  ErrorCode = "command"   // exec: not found or not runnable; ExitCode is 127 or 126
)

// Error is a fault as it crosses the socket. Message is complete, file:line
// included; Hint is a line of its own.
type Error struct {
	Code     ErrorCode `json:"code,omitempty"`
	Message  string    `json:"message"`
	Hint     string    `json:"hint,omitempty"`
	ExitCode int       `json:"exitCode,omitempty"`
	// InUse are ports of the host that a program not of ours has: 8080/tcp.
	InUse []string `json:"inUse,omitempty"`
}

func (e *Error) Error() string {
	if e.Hint != "" {
		return e.Message + "\n  hint: " + e.Hint
	}
	return e.Message
}

// ReplicaRef names a replica.
type ReplicaRef struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// Select says which replicas are meant. A replica is chosen by ID or name, or
// by project, services and index.
type Select struct {
	Replica  string   `json:"replica,omitempty"` // id or name
	Project  string   `json:"project,omitempty"`
	Services []string `json:"services,omitempty"` // empty: all
	Index    int      `json:"index,omitempty"`    // of the service; 0: the lowest running one (exec, cp, port, attach)
	OneOff   bool     `json:"oneOff,omitempty"`   // one-offs as well
}

// Kill sends a signal to every selected running replica.
type Kill struct {
	Select
	Signal string `json:"signal,omitempty"` // default SIGKILL
}

// Pause freezes every selected running replica, or lets them go on.
type Pause struct {
	Select
	Resume bool `json:"resume,omitempty"`
}

// Paused is the answer: what was done before, or beside, an error.
type Paused struct {
	Replicas []ReplicaRef `json:"replicas"`
	Error    *Error       `json:"error,omitempty"`
}

// Exec runs a command in a replica; the connection then carries wire frames
// until FrameExit, unless Detach.
type Exec struct {
	Select
	Exec wire.Exec `json:"exec"` // ID is filled in by the supervisor
}

// Attach connects to a replica's standard streams from now on.
type Attach struct {
	Select
	Stdin bool             `json:"stdin,omitempty"`
	Size  *wire.WindowSize `json:"size,omitempty"`
	// Start starts a created replica (of Run) once attached, so that none of its
	// output is missed.
	Start bool `json:"start,omitempty"`
}

// Run makes a one-off replica of a service, not yet started: the stream ends
// with EventCreated and EventDone; Attach with Start, or StartReplica, runs it.
type Run struct {
	Project *spec.Project `json:"project"`
	Service string        `json:"service"`
	// Set is the service as the flags change it (command, environment, user …);
	// its restart policy and ports are already what the one-off shall have.
	Set        *spec.Service `json:"set"`
	Name       string        `json:"name,omitempty"`       // default project-service-run-HEX
	AutoRemove bool          `json:"autoRemove,omitempty"` // --rm
	UseAliases bool          `json:"useAliases,omitempty"`
	NoDeps     bool          `json:"noDeps,omitempty"` // do not wait for what the service depends on
	Registry   Registry      `json:"registry"`
	Proxies    Proxies       `json:"proxies,omitempty"`
	HostCA     bool          `json:"hostCa,omitempty"`
	Pull       string        `json:"pull,omitempty"`
}

// Pull fetches images.
type Pull struct {
	Images         []PullImage `json:"images"`
	IgnoreFailures bool        `json:"ignoreFailures,omitempty"`
	Parallel       int         `json:"parallel,omitempty"` // images at a time; below 1: all
	Registry       Registry    `json:"registry"`
}

// PullImage is one image to fetch.
type PullImage struct {
	Reference string   `json:"reference"`
	Platform  string   `json:"platform,omitempty"`
	Service   string   `json:"service,omitempty"` // for people
	Pos       spec.Pos `json:"pos"`
}

// RemoveImage takes a name, or all names of an image, out of the store.
type RemoveImage struct {
	Image     string   `json:"image"` // name, digest or id
	Force     bool     `json:"force,omitempty"`
	Platforms []string `json:"platforms,omitempty"` // the only ones to remove; empty: all
}

// RemovedImage is what that did.
type RemovedImage struct {
	Untagged []string `json:"untagged,omitempty"` // names
	Deleted  []string `json:"deleted,omitempty"`  // ids
}

// LogQuery selects log entries.
type LogQuery struct {
	Select
	Follow bool      `json:"follow,omitempty"` // until the last selected replica has ended, or for Hold for ever
	Hold   bool      `json:"hold,omitempty"`   // attached up: go on while nothing runs
	Since  time.Time `json:"since,omitzero"`
	Until  time.Time `json:"until,omitzero"`
	Tail   int       `json:"tail"` // last entries of each replica; negative: all
}

// LogEntry is a line of the answer to LogQuery, in the order of time across
// replicas as far as they were written when read.
type LogEntry struct {
	Replica string `json:"replica"` // name
	Service string `json:"service,omitempty"`
	Number  int    `json:"number,omitempty"`
	logs.Record
	// Mark is set, and Record empty but for its time, for what happened to the
	// replica: it follows the last entry of that run.
	Mark *LogMark `json:"mark,omitempty"`
	// End is the last line, alone: nothing follows. A stream without it was cut
	// off; Client.Logs goes on with the next supervisor.
	End bool `json:"end,omitempty"`
}

// LogMark tells of a replica's end between its log entries.
type LogMark struct {
	Exited     bool `json:"exited,omitempty"`
	ExitCode   int  `json:"exitCode,omitempty"`
	Restarting bool `json:"restarting,omitempty"`
	Recreated  bool `json:"recreated,omitempty"`
	Started    bool `json:"started,omitempty"`
}

// ObjectEvent is one line of `events`.
type ObjectEvent struct {
	Time    time.Time `json:"time"`
	Type    string    `json:"type"`   // container, network, volume, image
	Action  string    `json:"action"` // docker's words: create, start, die, stop, kill, oom, destroy, health_status: healthy, …
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Project string    `json:"project,omitempty"`
	Service string    `json:"service,omitempty"`
	// Attributes hold image, exitCode, signal …: never environment.
	Attributes map[string]string `json:"attributes,omitempty"`
}

// EventsQuery selects object events.
type EventsQuery struct {
	Select
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
}

// Top is one replica's process list.
type Top struct {
	Replica ReplicaRef `json:"replica"`
	Service string     `json:"service"`
	Number  int        `json:"number"`
	wire.Top
}

// Stats is one replica's counters.
type Stats struct {
	Replica ReplicaRef `json:"replica"`
	Service string     `json:"service"`
	At      time.Time  `json:"at"`
	wire.ContainerStats
	CPUs int `json:"cpus"` // of the machine
	// MachineMemory is the machine's in bytes: what limits a container without a
	// limit of its own.
	MachineMemory int64 `json:"machineMemory"`
}

// Archive names a path in a replica, for cp.
type Archive struct {
	Select
	Path       string `json:"path"`
	FollowLink bool   `json:"followLink,omitempty"`
	CopyUIDGID bool   `json:"copyUidGid,omitempty"`
	Whole      bool   `json:"whole,omitempty"` // export: all files of the root, and nothing that is mounted below it
}

// Autostarted names the containers that run after the host was started, and those
// that should and do not.
type Autostarted struct {
	Running []string `json:"running,omitempty"`
	Failed  []string `json:"failed,omitempty"`
}

// PruneQuery says what of what nothing needs is to go: containers that run left
// behind, images without a name, anonymous volumes.
type PruneQuery struct {
	All     bool      `json:"all,omitempty"`     // images with names too
	Volumes bool      `json:"volumes,omitempty"` // volumes with names too
	Until   time.Time `json:"until,omitzero"`    // only what was made before
}

// Pruned is what may go, or is gone.
type Pruned struct {
	Containers []Freed `json:"containers,omitempty"`
	Volumes    []Freed `json:"volumes,omitempty"`
	Images     []Freed `json:"images,omitempty"`
}

// Bytes is what all of it occupies.
func (p Pruned) Bytes() (n int64) {
	for _, list := range [][]Freed{p.Containers, p.Volumes, p.Images} {
		for _, f := range list {
			n += f.Bytes
		}
	}
	return n
}

// Freed is one object of a prune.
type Freed struct {
	ID    string   `json:"id"` // of a volume: its name
	Name  string   `json:"name"`
	Names []string `json:"names,omitempty"` // of an image: all its tags
	Bytes int64    `json:"bytes"`           // of the host's disk that nothing else uses
}

// VolumeRef names a volume.
type VolumeRef struct {
	Name string `json:"name"`
}

// VolumeCreate makes a volume that no compose file asks for.
type VolumeCreate struct {
	Name    string            `json:"name,omitempty"` // empty: a random one
	Labels  map[string]string `json:"labels,omitempty"`
	Options map[string]string `json:"options,omitempty"` // driver options, for whoever looks at it
	Bytes   int64             `json:"bytes,omitempty"`   // 0: volume.DefaultBytes
}

// VolumeImport fills a volume from the tar that follows.
type VolumeImport struct {
	Name  string `json:"name"`
	Force bool   `json:"force,omitempty"` // although it is not empty
}

// NetworkRef names a network.
type NetworkRef struct {
	ID   string `json:"id,omitempty"`
	Name string `json:"name"`
}

// NetworkCreate makes a network that no compose file asks for: the external one of
// any that names it.
type NetworkCreate struct {
	Name     string            `json:"name"`
	Labels   map[string]string `json:"labels,omitempty"`
	Internal bool              `json:"internal,omitempty"`
	NoIPv4   bool              `json:"noIpv4,omitempty"`
	IPv6     bool              `json:"ipv6,omitempty"`
	MTU      int               `json:"mtu,omitempty"` // 0: the largest there is
	Pools    []spec.IPAMPool   `json:"pools,omitempty"`
}

// Forward makes ports of the host's loopback lead to ports of services: all of
// them, or with an error none.
type Forward struct {
	Project string        `json:"project"`
	Ports   []ForwardPort `json:"ports"`
	// Detach keeps them until Unforward, or until the project goes down, and
	// across supervisors; otherwise they end with the request.
	Detach bool `json:"detach,omitempty"`
}

// ForwardPort is one port to forward.
type ForwardPort struct {
	Service  string `json:"service"`
	Index    int    `json:"index,omitempty"` // 0: whichever replica runs
	Target   uint16 `json:"target"`
	Protocol string `json:"protocol"`            // tcp or udp
	Local    uint16 `json:"localPort,omitempty"` // 0: any that is free
	// Prefer takes any free port where Local is not to be had.
	Prefer bool `json:"prefer,omitempty"`
}

// Forwarded is a forward and where it leads now.
type Forwarded struct {
	state.Forward
	Addrs   []string `json:"addrs,omitempty"`   // listened on: 127.0.0.1:5432, [::1]:5432
	Replica string   `json:"replica,omitempty"` // name; empty: none runs, and connections wait for one
	Fault   string   `json:"fault,omitempty"`   // why it is not listened on
}

// Forwarding is a line of the answer to Forward.
type Forwarding struct {
	Forwards []Forwarded `json:"forwards,omitempty"`
	Error    *Error      `json:"error,omitempty"` // the last line: they have ended
}

// Unforward ends forwards.
type Unforward struct {
	IDs []string `json:"ids"`
}

// Replica is a replica as recorded: what ps shows.
type Replica = state.Replica
