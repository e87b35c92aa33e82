package state

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/network/ipam"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/machine"
	"github.com/stackvm/stack/spec"
)

// Phase says whether what a record describes is whole.
type Phase string

// Phases.
const (
	Making   Phase = "making"   // recorded, its parts not all there: a later start removes it
	Made     Phase = "made"     // whole
	Removing Phase = "removing" // its parts are being removed: a later start goes on
)

// Project is what was last asked of a project. Desired holds no environment
// values and no content: see Redact.
type Project struct {
	Name       string          `json:"name"`
	NameFrom   spec.NameSource `json:"nameFrom,omitempty"`
	WorkingDir string          `json:"workingDir,omitempty"`
	DirInode   uint64          `json:"dirInode,omitempty"` // of WorkingDir: tells a moved directory from another checkout
	Files      []string        `json:"files,omitempty"`
	EnvFiles   []string        `json:"envFiles,omitempty"`
	Updated    time.Time       `json:"updated"`
	Desired    *spec.Project   `json:"desired,omitempty"`
}

// Replica is one container and how it came out.
type Replica struct {
	ID      string            `json:"id"` // 64-hex
	Name    string            `json:"name"`
	Labels  map[string]string `json:"labels,omitempty"` // com.docker.compose.* included
	Created time.Time         `json:"created"`
	Phase   Phase             `json:"phase"`

	Annotations map[string]string `json:"annotations,omitempty"` // for inspect

	Project    string            `json:"project,omitempty"`
	Service    string            `json:"service,omitempty"`
	Number     int               `json:"number,omitempty"`
	OneOff     bool              `json:"oneOff,omitempty"`
	AutoRemove bool              `json:"autoRemove,omitempty"`
	DependsOn  map[string]string `json:"dependsOn,omitempty"` // service -> condition
	Hash       string            `json:"hash,omitempty"`      // of the service it was made from
	Aspects    map[string]string `json:"aspects,omitempty"`   // hashes of its parts, to say what changed

	Image    string   `json:"image"`   // reference
	ImageID  string   `json:"imageId"` // digest of the config
	Platform string   `json:"platform,omitempty"`
	Command  []string `json:"command,omitempty"` // entrypoint and command, for people
	TTY      bool     `json:"tty,omitempty"`

	Restart    spec.Restart   `json:"restart"`
	StopSignal string         `json:"stopSignal,omitempty"`
	StopGrace  *time.Duration `json:"stopGraceNs,omitempty"`
	Logging    spec.Logging   `json:"logging"`
	Probed     bool           `json:"probed,omitempty"` // has a healthcheck

	RestartUnhealthy bool `json:"restartUnhealthy,omitempty"`

	// Replaces is the id of the replica that this one is recreated from: while it
	// is half made, and that one gone, the volumes inherited are this one's.
	Replaces string `json:"replaces,omitempty"`

	Machine      string            `json:"machine,omitempty"`    // id of the machine that hosts it
	Guests       string            `json:"guests,omitempty"`     // id of the replica whose machine it shares
	Group        string            `json:"group,omitempty"`      // of the replicas that live in one machine: PROJECT/SERVICE
	GroupBinds   []MountUse        `json:"groupBinds,omitempty"` // host folders of the group, which its machine boots with
	VCPUs        int               `json:"vcpus,omitempty"`      // what its machine is made with
	MemoryMiB    int               `json:"memoryMiB,omitempty"`
	KernelArgs   []string          `json:"kernelArgs,omitempty"` // added to its kernel's command line
	ScratchBytes int64             `json:"scratchBytes,omitempty"`
	Hostname     string            `json:"hostname,omitempty"`
	Mounts       []MountUse        `json:"mounts,omitempty"`
	Provided     map[string]string `json:"provided,omitempty"`   // the digest of the variables that each provider gave it
	PreStart     []HookUse         `json:"preStart,omitempty"`   // its pre_start hooks
	HookMounts   []MountUse        `json:"hookMounts,omitempty"` // what only they mount
	Endpoints    []Endpoint        `json:"endpoints,omitempty"`
	NetworkMode  string            `json:"networkMode,omitempty"`
	Ports        []PublishSpec     `json:"ports,omitempty"`     // as asked for
	Published    []Published       `json:"published,omitempty"` // as listened on
	Exposed      []string          `json:"exposed,omitempty"`   // 80/tcp …, of the service and its image

	// HostPorts are open on the host for a replica with the host's network.
	HostPorts []wire.ListeningPort `json:"hostPorts,omitempty"`

	Status   planner.Status `json:"status"`
	Started  time.Time      `json:"started,omitzero"`
	Finished time.Time      `json:"finished,omitzero"`
	ExitCode int            `json:"exitCode,omitempty"`
	OOM      bool           `json:"oom,omitempty"`
	Error    string         `json:"error,omitempty"`    // why it could not run, or the crash's last kernel lines
	Notice   string         `json:"notice,omitempty"`   // what holds it up now: host disk full …
	Unopened string         `json:"unopened,omitempty"` // why some of its ports are not open on the host
	Stopped  bool           `json:"stopped,omitempty"`  // a user stopped it: no policy restarts it
	Restarts int            `json:"restarts,omitempty"`
	Health   *Health        `json:"health,omitempty"`
}

// Health is a probe's verdict.
type Health struct {
	Status        wire.Health `json:"status"`
	FailingStreak int         `json:"failingStreak,omitempty"`
	Output        string      `json:"output,omitempty"` // of the last failure, at most 4096 bytes
	At            time.Time   `json:"at,omitzero"`
}

// MountUse is one mount of a replica.
type MountUse struct {
	Type      spec.MountType `json:"type"`
	Volume    string         `json:"volume,omitempty"` // name
	Anonymous bool           `json:"anonymous,omitempty"`
	Source    string         `json:"source,omitempty"` // host path or image reference
	Target    string         `json:"target"`
	ReadOnly  bool           `json:"readOnly,omitempty"`
	Subpath   string         `json:"subpath,omitempty"`
}

// HookUse is one pre_start hook of a replica.
type HookUse struct {
	ImageID    string `json:"imageId"`
	PerReplica bool   `json:"perReplica,omitempty"`
}

// MachineMounts are all mounts that the machine of a replica needs.
func (r *Replica) MachineMounts() []MountUse { return slices.Concat(r.Mounts, r.HookMounts) }

// Uses tells whether a replica or one of its hooks mounts a volume, running or not.
func (r *Replica) Uses(volume string) bool {
	return slices.ContainsFunc(r.MachineMounts(), func(m MountUse) bool { return m.Type == spec.MountVolume && m.Volume == volume })
}

// Notices is what a user should know of the replica now, "" if nothing.
func (r *Replica) Notices() string {
	if r.Notice != "" && r.Unopened != "" {
		return r.Notice + "; " + r.Unopened
	}
	return r.Notice + r.Unopened
}

// Endpoint is a replica's place on a network, its addresses leased.
type Endpoint struct {
	Network   string            `json:"network"`   // name
	NetworkID string            `json:"networkId"` // id
	MAC       string            `json:"mac"`
	Addrs     []netip.Prefix    `json:"addrs"`
	Aliases   []string          `json:"aliases,omitempty"` // every name it resolves by there
	VLAN      uint16            `json:"vlan,omitempty"`    // on its machine's trunk
	Interface string            `json:"interface,omitempty"`
	Sysctls   map[string]string `json:"sysctls,omitempty"`   // with IFNAME for the interface's name
	LinkLocal []netip.Prefix    `json:"linkLocal,omitempty"` // further addresses
	Links     map[string]string `json:"links,omitempty"`     // names that it alone knows
	Gateway   bool              `json:"gateway,omitempty"`   // carries the default route
	HostDeny  bool              `json:"hostDeny,omitempty"`
}

// PublishSpec is a port to publish.
type PublishSpec struct {
	spec.Port
	Service string `json:"service,omitempty"`
}

// Published is a port that is listened on.
type Published struct {
	HostIP   string `json:"hostIp"`
	HostPort uint16 `json:"hostPort"`
	Target   uint16 `json:"target"`
	Protocol string `json:"protocol"`
}

// Resolved is what a replica needs to be started again and nobody else may
// read: its container as the agent gets it, environment, configs and secrets
// included.
type Resolved struct {
	Container wire.Container   `json:"container"`
	PreStart  []wire.Container `json:"preStart,omitempty"` // hooks; without id, name and scratch disk
	PostStart []wire.Exec      `json:"postStart,omitempty"`
	PreStop   []wire.Exec      `json:"preStop,omitempty"`
}

// Provider is what the provider of a service brought up. Options and variables may
// be secret: the record is gone once the provider has taken it down.
type Provider struct {
	Project   string              `json:"project"`
	Service   string              `json:"service"`
	Type      string              `json:"type"`
	Options   map[string][]string `json:"options,omitempty"`
	Path      string              `json:"path"` // of the program
	DependsOn map[string]string   `json:"dependsOn,omitempty"`
	Ran       time.Time           `json:"ran"`
	Variables map[string]string   `json:"variables,omitempty"` // what its dependents get, by their names
	Salt      []byte              `json:"salt"`                // of Digest
}

// Digest tells whether the variables are others, and nothing about them to whoever
// lacks the record.
func (p *Provider) Digest() string {
	b, err := json.Marshal(p.Variables)
	if err != nil {
		panic("state: a map of strings: " + err.Error())
	}
	m := hmac.New(sha256.New, p.Salt)
	m.Write(b)
	return hex.EncodeToString(m.Sum(nil)[:8])
}

// Machine is one micro-VM.
type Machine struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Phase   Phase     `json:"phase"`

	VCPUs     int             `json:"vcpus"`
	MemoryMiB int             `json:"memoryMiB"`
	MAC       string          `json:"mac"`
	MTU       int             `json:"mtu"`
	Guest     string          `json:"guest"`            // digest of the guest it booted
	BootID    string          `json:"bootId,omitempty"` // of its kernel
	Record    machine.Record  `json:"record"`           // zero until its process runs
	Shares    *ShareServer    `json:"shares,omitempty"`
	Replicas  []string        `json:"replicas,omitempty"` // ids hosted
	VLANs     map[uint16]VLAN `json:"vlans,omitempty"`
	Serves    string          `json:"serves,omitempty"`  // id of the Storage that it is the machine of
	Storage   *StorageUse     `json:"storage,omitempty"` // what it mounts from its project's
	LogSeq    uint64          `json:"logSeq,omitempty"`  // a log record known to be written, whatever the files still hold
}

// Storage is a project's storage machine, running or not.
type Storage struct {
	ID      string    `json:"id"` // its network's too
	Project string    `json:"project"`
	Created time.Time `json:"created"`
	// Volumes are those whose disks are its, by name, each with the number of its
	// file system: clients' handles hold it. Number is the last that was given.
	Volumes map[string]uint32 `json:"volumes"`
	Number  uint32            `json:"number"`
}

// StorageUse is a machine's place on a storage network.
type StorageUse struct {
	ID      string          `json:"id"` // of the Storage
	Addr    netip.Prefix    `json:"addr"`
	Volumes map[string]bool `json:"volumes"` // by name: whether it may only read
}

// VLAN is one network on a machine's trunk for one container.
type VLAN struct {
	NetworkID string `json:"networkId"`
	Replica   string `json:"replica"`
}

// ShareServer is the process that serves a machine's host folders.
type ShareServer struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"`
	HostBoot  string `json:"hostBoot"`
}

// Network is one network with its leases.
type Network struct {
	ID      string            `json:"id"`
	Name    string            `json:"name"`
	Labels  map[string]string `json:"labels,omitempty"`
	Created time.Time         `json:"created"`
	Phase   Phase             `json:"phase"`

	Project  string `json:"project,omitempty"`
	Key      string `json:"key,omitempty"`
	Hash     string `json:"hash,omitempty"`
	Internal bool   `json:"internal,omitempty"`
	Isolated bool   `json:"isolated,omitempty"` // containers do not reach each other
	MTU      int    `json:"mtu,omitempty"`
	// Addresses are its subnets and what is leased of them. A holder is a
	// replica's name, so that a recreated one finds its address again.
	Addresses ipam.State `json:"addresses"`
}

// Forward is a port of the host's loopback that leads to a port of a service,
// published or not. Those that end with the command that asked for them are not
// recorded.
type Forward struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`

	Project  string `json:"project"`
	Service  string `json:"service"`
	Index    int    `json:"index,omitempty"` // the replica's number; 0: whichever runs
	Target   uint16 `json:"target"`
	Protocol string `json:"protocol"`  // tcp or udp
	Local    uint16 `json:"localPort"` // of the host's loopback
	Detached bool   `json:"detached,omitempty"`
}

// String names what it leads to: db:5432/tcp.
func (f Forward) String() string { return fmt.Sprintf("%s:%d/%s", f.Service, f.Target, f.Protocol) }
