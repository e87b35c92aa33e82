package wire

import (
	"net/netip"
	"time"
)

// Hello is the host's first request on a session. It is also what wakes a
// machine: the clock and entropy in it are applied before the reply.
type Hello struct {
	Protocol int       `json:"protocol"`
	Now      time.Time `json:"now"`
	Entropy  []byte    `json:"entropy"` // at least 32 bytes, fed to the RNG and credited
	Hostname string    `json:"hostname,omitempty"`
}

// HelloReply says who answered.
type HelloReply struct {
	Protocol  int    `json:"protocol"`
	Agent     string `json:"agent"`  // version of the agent
	Kernel    string `json:"kernel"` // release
	BootID    string `json:"bootId"`
	MemoryKiB int64  `json:"memoryKiB"` // MemTotal
	Uptime    int64  `json:"uptimeNs"`  // since the kernel started
}

// Container is everything the agent needs to make a container. All names are
// resolved except users and groups, which only the image's files can resolve.
type Container struct {
	ID   string `json:"id"`   // 64-hex
	Name string `json:"name"` // project-service-1

	Root Root `json:"root"`

	Args       []string `json:"args"` // entrypoint and command, never empty
	Env        []string `json:"env"`  // KEY=VALUE; PATH, HOME, HOSTNAME and TERM defaults are the agent's
	WorkingDir string   `json:"workingDir,omitempty"`
	User       string   `json:"user,omitempty"` // as in the image config: user[:group], names or ids
	Groups     []string `json:"groups,omitempty"`
	TTY        bool     `json:"tty,omitempty"`
	Stdin      bool     `json:"stdin,omitempty"` // keep stdin open for Attach
	Init       bool     `json:"init,omitempty"`  // run under a reaper as PID 1
	StopSignal string   `json:"stopSignal,omitempty"`

	Hostname    string      `json:"hostname,omitempty"`
	Domainname  string      `json:"domainname,omitempty"`
	Hosts       []Host      `json:"hosts,omitempty"` // extra lines of /etc/hosts
	DNS         DNS         `json:"dns"`
	Interfaces  []Interface `json:"interfaces,omitempty"`  // none: loopback only
	JoinNetwork string      `json:"joinNetwork,omitempty"` // id of the container whose network namespace is shared
	JoinIPC     string      `json:"joinIpc,omitempty"`
	JoinPID     string      `json:"joinPid,omitempty"`
	// TellPorts has EventPorts follow what listens in its network namespace.
	TellPorts bool `json:"tellPorts,omitempty"`

	Mounts  []Mount  `json:"mounts,omitempty"`
	Storage *Storage `json:"storage,omitempty"` // where shared mounts come from
	Files   []File   `json:"files,omitempty"`   // configs and secrets
	// CAs are authorities, as PEM, that are added to those which the image trusts.
	CAs []byte `json:"cas,omitempty"`

	Privileged   bool              `json:"privileged,omitempty"`
	CapAdd       []string          `json:"capAdd,omitempty"`
	CapDrop      []string          `json:"capDrop,omitempty"`
	NoNewPrivs   bool              `json:"noNewPrivs,omitempty"`
	Seccomp      string            `json:"seccomp,omitempty"` // "" default profile, "unconfined", or a profile's JSON
	ReadOnlyRoot bool              `json:"readOnlyRoot,omitempty"`
	Sysctls      map[string]string `json:"sysctls,omitempty"`
	Rlimits      []Rlimit          `json:"rlimits,omitempty"`
	OOMScoreAdj  int               `json:"oomScoreAdj,omitempty"`
	Limits       Limits            `json:"limits"`
	ShmSize      int64             `json:"shmSize,omitempty"` // bytes; 0: 64 MiB
	Devices      []Device          `json:"devices,omitempty"`
	DeviceRules  []string          `json:"deviceRules,omitempty"` // "c 1:3 rwm", over docker's default set
	Umask        *uint32           `json:"umask,omitempty"`       // nil: 022

	HostCgroup      bool `json:"hostCgroup,omitempty"`      // it sees all groups of the machine
	WritableCgroups bool `json:"writableCgroups,omitempty"` // it may make groups below its own
	Unmasked        bool `json:"unmasked,omitempty"`        // nothing of /proc and /sys is hidden or protected

	Health *Healthcheck `json:"health,omitempty"`
	Log    bool         `json:"log"` // false: output is discarded (logging driver none)
	// LogBuffer, unless 0, is how many bytes of records may wait for the host before
	// further ones are dropped; 0 has the writer wait.
	LogBuffer int64 `json:"logBuffer,omitempty"`
}

// Root says what the container's root file system is made of.
type Root struct {
	Image        string `json:"image"`                  // serial of the read-only EROFS disk
	Scratch      string `json:"scratch,omitempty"`      // serial of the ext4 disk that takes the writes; empty: tmpfs
	ScratchBytes int64  `json:"scratchBytes,omitempty"` // the size to grow the scratch file system to; 0: leave
}

// Interface is a container's end of one compose network: VLAN on the trunk,
// moved into the container's network namespace.
type Interface struct {
	VLAN     uint16   `json:"vlan"`
	Name     string   `json:"name,omitempty"` // default eth0, eth1… in order
	MAC      string   `json:"mac"`
	MTU      int      `json:"mtu,omitempty"`
	Addrs    []string `json:"addrs"`              // CIDR
	Gateways []string `json:"gateways,omitempty"` // default routes, one per family; only on the interface that carries them
	Resolver string   `json:"resolver,omitempty"` // address of the network's DNS server

	Sysctls map[string]string `json:"sysctls,omitempty"` // net.*, with IFNAME for its name
}

// Host is one line of /etc/hosts.
type Host struct {
	Addr  string   `json:"addr"`
	Names []string `json:"names"`
}

// DNS is what resolv.conf says beside the stub at 127.0.0.11.
type DNS struct {
	Servers []string `json:"servers,omitempty"` // asked by the stub for outside names instead of the gateway
	Search  []string `json:"search,omitempty"`
	Options []string `json:"options,omitempty"`
}

// MountKind is where a mount's files come from.
type MountKind string

// Kinds of mounts.
const (
	MountVolume MountKind = "volume" // an ext4 disk, Source is its serial
	MountShared MountKind = "shared" // the same, attached to the storage machine, which serves it
	MountShare  MountKind = "share"  // a host file or directory, Source is the share's name
	MountTmpfs  MountKind = "tmpfs"
	MountImage  MountKind = "image"  // a read-only EROFS disk, Source is its serial
	MountSocket MountKind = "socket" // a unix socket that the agent makes: OpAccept leads to the host
)

// Mount is one mount below the container's root; they are made in order.
type Mount struct {
	Kind     MountKind `json:"kind"`
	Source   string    `json:"source,omitempty"`
	Target   string    `json:"target"` // absolute, inside the container
	ReadOnly bool      `json:"readOnly,omitempty"`
	Subpath  string    `json:"subpath,omitempty"`
	File     bool      `json:"file,omitempty"` // the source is a single file (shares)

	// Volumes, shared or not: on first use the image's content of Target is copied in,
	// ownership included, and a marker ends it; NoCopy leaves it empty.
	NoCopy bool  `json:"noCopy,omitempty"`
	Bytes  int64 `json:"bytes,omitempty"` // volume: size to grow to; tmpfs: limit. 0: leave, or half of memory

	Mode    uint32   `json:"mode,omitempty"` // tmpfs, 0: 1777; socket
	UID     int      `json:"uid,omitempty"`
	GID     int      `json:"gid,omitempty"`
	Options []string `json:"options,omitempty"` // tmpfs: noexec, nosuid …; bind: propagation
}

// Storage is a machine's place on the network of its project's storage machine.
// The interface stays in the agent's own namespace.
type Storage struct {
	Interface Interface `json:"interface"`
	Server    string    `json:"server"` // address
	Client    string    `json:"client"` // what this machine calls itself; nobody else may know it
}

// Serve makes a machine the storage machine of a project: it has the volumes'
// disks, and each client mounts from it what it may.
type Serve struct {
	Interface Interface       `json:"interface"`
	Records   string          `json:"records"` // serial of the ext4 disk that outlives the machine, for what a restart must know
	Volumes   []ServedVolume  `json:"volumes,omitempty"`
	Clients   []StorageClient `json:"clients,omitempty"`
}

// ServedVolume is a volume of the storage machine.
type ServedVolume struct {
	Serial string `json:"serial"`
	FSID   uint32 `json:"fsid"`            // of its own, from 1, and always the same: file handles hold it
	Bytes  int64  `json:"bytes,omitempty"` // size to grow to; 0: leave
}

// StorageClient is a machine that mounts volumes of the storage machine.
type StorageClient struct {
	ID      string          `json:"id"` // its Storage.Client, hexadecimal
	Addr    string          `json:"addr"`
	Volumes map[string]bool `json:"volumes"` // by serial: whether it may only read
}

// File is a config or secret: content placed on a tmpfs.
type File struct {
	Target  string `json:"target"`
	Content []byte `json:"content"`
	Mode    uint32 `json:"mode"`
	UID     string `json:"uid,omitempty"` // name or number
	GID     string `json:"gid,omitempty"`
	Secret  bool   `json:"secret,omitempty"`
}

// Rlimit is one resource limit, named as in setrlimit(2) without RLIMIT_, lower
// case; -1 is unlimited.
type Rlimit struct {
	Name string `json:"name"`
	Soft int64  `json:"soft"`
	Hard int64  `json:"hard"`
}

// Limits are the container's cgroup limits; zero is none.
type Limits struct {
	CPUs              float64 `json:"cpus,omitempty"`      // a quota, fractions allowed
	CPUPeriod         int64   `json:"cpuPeriod,omitempty"` // µs; 0: 100,000
	CPUShares         int64   `json:"cpuShares,omitempty"`
	CPUSet            string  `json:"cpuset,omitempty"`
	MemoryBytes       int64   `json:"memoryBytes,omitempty"`
	MemoryReservation int64   `json:"memoryReservation,omitempty"`
	SwapBytes         int64   `json:"swapBytes,omitempty"`
	PIDs              int64   `json:"pids,omitempty"`
	IO                IORates `json:"io,omitzero"`
}

// IORates bound the use of each disk in a second; zero is none.
type IORates struct {
	ReadBytes  int64 `json:"readBytes,omitempty"`
	WriteBytes int64 `json:"writeBytes,omitempty"`
	ReadOps    int64 `json:"readOps,omitempty"`
	WriteOps   int64 `json:"writeOps,omitempty"`
}

// Device is a node to make in the container's /dev.
type Device struct {
	Path        string `json:"path"`   // inside
	Source      string `json:"source"` // in the machine's /dev
	Permissions string `json:"permissions,omitempty"`
}

// Healthcheck is a probe, every default already applied.
type Healthcheck struct {
	Test          []string      `json:"test"` // argv; CMD-SHELL already expanded to a shell
	Interval      time.Duration `json:"interval"`
	Timeout       time.Duration `json:"timeout"`
	StartPeriod   time.Duration `json:"startPeriod,omitempty"`
	StartInterval time.Duration `json:"startInterval,omitempty"`
	Retries       int           `json:"retries"`

	// StartRetries stands for Retries until a run first succeeds; 0: Retries does.
	StartRetries int `json:"startRetries,omitempty"`
}

// ContainerRef names a container.
type ContainerRef struct {
	ID string `json:"id"`
}

// Started answers OpStart.
type Started struct {
	PID int       `json:"pid"`
	At  time.Time `json:"at"`
}

// Stop asks for the end of a container: Signal, after Grace SIGKILL. A negative
// grace waits for ever.
type Stop struct {
	ID     string        `json:"id"`
	Signal string        `json:"signal,omitempty"` // default the container's stop signal
	Grace  time.Duration `json:"grace"`
}

// Signal sends one signal to a container's PID 1.
type Signal struct {
	ID     string `json:"id"`
	Signal string `json:"signal"`
}

// ExitStatus is how a container or exec ended.
type ExitStatus struct {
	Code int       `json:"code"` // 128+n after signal n
	OOM  bool      `json:"oom,omitempty"`
	At   time.Time `json:"at"`
	// Error says why it could not be run; Code is then 126 or 127.
	Error string `json:"error,omitempty"`
	// LogSeq is the number of the last log record of a container's run.
	LogSeq uint64 `json:"logSeq,omitempty"`
}

// Exec runs a command inside a running container.
type Exec struct {
	ID         string      `json:"id"` // of the container
	Args       []string    `json:"args"`
	Env        []string    `json:"env,omitempty"` // added to the container's
	WorkingDir string      `json:"workingDir,omitempty"`
	User       string      `json:"user,omitempty"`
	TTY        bool        `json:"tty,omitempty"`
	Stdin      bool        `json:"stdin,omitempty"`
	Privileged bool        `json:"privileged,omitempty"`
	Detach     bool        `json:"detach,omitempty"` // no frames: the reply ends the stream
	Size       *WindowSize `json:"size,omitempty"`
}

// ExecStarted answers OpExec.
type ExecStarted struct {
	PID int `json:"pid"`
}

// Attach connects to a container's standard streams from now on.
type Attach struct {
	ID    string      `json:"id"`
	Stdin bool        `json:"stdin,omitempty"`
	Size  *WindowSize `json:"size,omitempty"`
}

// WindowSize is a terminal's, in characters.
type WindowSize struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// Top lists a container's processes.
type Top struct {
	Titles    []string   `json:"titles"` // UID PID PPID C STIME TTY TIME CMD
	Processes [][]string `json:"processes"`
}

// Accept waits for a connection to a socket of a container.
type Accept struct {
	ID     string `json:"id"`
	Target string `json:"target"` // as in Mount
}

// Archive names a path in a container for copying.
type Archive struct {
	ID         string `json:"id"`
	Path       string `json:"path"`
	FollowLink bool   `json:"followLink,omitempty"`
	CopyUIDGID bool   `json:"copyUidGid,omitempty"`
	// Whole gets all of the root's own files: of what is mounted below it only the
	// place, and names that begin at the root.
	Whole bool `json:"whole,omitempty"`
}

// Volume names a volume's disk for copying all that is in it.
type Volume struct {
	Serial string `json:"serial"`
	Bytes  int64  `json:"bytes,omitempty"` // of the file system, as for Mount
	// Force makes OpVolumePut add to files that are there, which it refuses
	// otherwise with CodeConflict.
	Force bool `json:"force,omitempty"`
}

// ArchiveStat describes the path that was asked for.
type ArchiveStat struct {
	Name       string    `json:"name"`
	Size       int64     `json:"size"`
	Mode       uint32    `json:"mode"` // as io/fs.FileMode
	ModTime    time.Time `json:"modTime"`
	LinkTarget string    `json:"linkTarget,omitempty"`
}

// Connect adds an interface to a container.
type Connect struct {
	Container string    `json:"container"`
	Interface Interface `json:"interface"`
}

// Hosts replaces the extra lines of a container's /etc/hosts.
type Hosts struct {
	Container string `json:"container"`
	Hosts     []Host `json:"hosts"`
}

// ShareChanges names paths of a share that the host changed.
type ShareChanges struct {
	Share string   `json:"share"`
	Paths []string `json:"paths"` // relative to the share
}

// Shutdown ends the machine after its containers.
type Shutdown struct {
	Grace time.Duration `json:"grace"` // per container, before SIGKILL
}

// Farewell is the agent's last message: after it the machine exits, and an exit
// without it is a crash.
type Farewell struct {
	Containers map[string]ExitStatus `json:"containers"`
	Unsynced   []string              `json:"unsynced,omitempty"` // disks whose flush failed
}

// Stats is one reading of the machine and its containers.
type Stats struct {
	At         time.Time                 `json:"at"`
	AgentRSS   int64                     `json:"agentRss"` // bytes
	MemTotal   int64                     `json:"memTotal"`
	MemFree    int64                     `json:"memFree"`
	Containers map[string]ContainerStats `json:"containers"`
}

// ContainerStats are a container's cgroup counters.
type ContainerStats struct {
	CPUNanos    int64 `json:"cpuNanos"`
	MemoryBytes int64 `json:"memoryBytes"` // without reclaimable cache
	MemoryLimit int64 `json:"memoryLimit"`
	PIDs        int64 `json:"pids"`
	NetRx       int64 `json:"netRx"`
	NetTx       int64 `json:"netTx"`
	BlockRead   int64 `json:"blockRead"`
	BlockWrite  int64 `json:"blockWrite"`
}

// EventKind says what an Event reports.
type EventKind string

// Kinds of events.
const (
	EventState  EventKind = "state"  // a container changed state
	EventHealth EventKind = "health" // a probe's verdict changed, or failed
	EventOOM    EventKind = "oom"    // the kernel killed for memory in a container's cgroup
	EventPorts  EventKind = "ports"  // other ports are listened on (Container.TellPorts)
	EventReady  EventKind = "ready"  // the snapshot is complete
)

// Event is a change in the machine. A subscription starts with the present
// state of every container, then EventReady, then changes as they happen.
type Event struct {
	Kind          EventKind   `json:"kind"`
	Container     string      `json:"container,omitempty"`
	At            time.Time   `json:"at"`
	State         State       `json:"state,omitempty"`
	Exit          *ExitStatus `json:"exit,omitempty"` // with StateExited
	Health        Health      `json:"health,omitempty"`
	Output        string      `json:"output,omitempty"` // of the probe, at most 4096 bytes
	FailingStreak int         `json:"failingStreak,omitempty"`

	Ports     []ListeningPort `json:"ports,omitempty"`     // with EventPorts: all there are, in an order of their own
	PortsLeft int             `json:"portsLeft,omitempty"` // how many more there are than MaxListening
}

// MaxListening is how many ports of a container are told of: of more, the lowest.
const MaxListening = 256

// ListeningPort is one that a container takes connections or datagrams at.
type ListeningPort struct {
	Protocol string     `json:"protocol"` // tcp or udp
	Addr     netip.Addr `json:"addr"`     // of the loopback, or unspecified for every other
	Port     uint16     `json:"port"`
	// Relay is where the agent takes for it what the gateway sends to the
	// container's first IPv4 address: nothing but that reaches a loopback. 0: the
	// port itself is reached there.
	Relay uint16 `json:"relay,omitempty"`
}

// State is a container's, as the agent knows it.
type State string

// States.
const (
	StateCreated State = "created"
	StateRunning State = "running"
	StatePaused  State = "paused" // it runs, frozen
	StateExited  State = "exited"
)

// Health is a probe's verdict.
type Health string

// Verdicts.
const (
	HealthStarting  Health = "starting"
	HealthHealthy   Health = "healthy"
	HealthUnhealthy Health = "unhealthy"
)

// ShareOpen is the first message of a stream on the shares port, on which the
// agent is yamux's client. A Reply follows, then 9P2000.L for one mount. A share
// of a single file is a directory whose only entry is named "file".
type ShareOpen struct {
	Share string `json:"share"`
}
