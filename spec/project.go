package spec

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"time"
)

// Pos is a place in a compose file; the zero Pos is nowhere and prints nothing.
type Pos struct {
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	Col  int    `json:"col,omitempty"`
}

func (p Pos) String() string {
	switch {
	case p.File == "":
		return ""
	case p.Line == 0:
		return p.File
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// NameSource says where a project's name came from.
type NameSource string

// Sources of a project's name, strongest first.
const (
	NameFromFlag      NameSource = "flag"
	NameFromEnv       NameSource = "environment"
	NameFromFile      NameSource = "file"
	NameFromDirectory NameSource = "directory"
	NameFromRemote    NameSource = "remote" // of the repository that the file came from
)

// Project is a compose file as loaded: merged, interpolated, with the services
// of its active profiles. It is plain data and may hold secrets: see Redact.
type Project struct {
	Name       string     `json:"name"`
	NameFrom   NameSource `json:"nameFrom"`
	WorkingDir string     `json:"workingDir"`
	Files      []string   `json:"files"` // absolute; "-" for standard input
	EnvFiles   []string   `json:"envFiles,omitempty"`
	// Compatibility names replicas with "_" between the parts, as compose v1 did.
	Compatibility bool `json:"compatibility,omitempty"`

	Services map[string]*Service `json:"services"`
	Disabled []string            `json:"disabled,omitempty"` // services that no active profile selects: no orphans
	// Environ is what variables were looked up in, as KEY=VALUE: the environment with
	// the env files below it. It may hold secrets and is never written down.
	Environ  []string            `json:"-"`
	Networks map[string]*Network `json:"networks,omitempty"` // used ones, by key
	Volumes  map[string]*Volume  `json:"volumes,omitempty"`
	Configs  map[string]*Config  `json:"configs,omitempty"`
	Secrets  map[string]*Config  `json:"secrets,omitempty"`
}

// Service is one entry of services, with compose's defaults applied where they
// do not depend on the image.
type Service struct {
	Name string `json:"name"`
	Pos  Pos    `json:"pos"`
	// Keys holds the place of each key below the service, by dotted path
	// ("ports.0", "environment.FOO").
	Keys map[string]Pos `json:"keys,omitempty"`

	// Hash changes exactly when a running replica no longer is what the file
	// asks for: with anything that it was made from, the contents of configs,
	// secrets and env files included, but not the build, the scale, what it
	// depends on or how images are pulled. It is keyed by Options.HashKey.
	Hash string `json:"hash"`
	// Aspects are digests of the service's parts ("image", "environment.FOO",
	// "configs.nginx_conf"): comparing them says what has changed.
	Aspects map[string]string `json:"aspects,omitempty"`

	Image      string `json:"image"` // name:tag; for a build without image, PROJECT-SERVICE
	Build      bool   `json:"build,omitempty"`
	Platform   string `json:"platform,omitempty"`
	PullPolicy string `json:"pullPolicy,omitempty"` // "", always, never, missing, build, daily, weekly, every_DURATION

	Command     []string          `json:"command"`    // nil: the image's; empty: cleared
	Entrypoint  []string          `json:"entrypoint"` // likewise
	WorkingDir  string            `json:"workingDir,omitempty"`
	User        string            `json:"user,omitempty"`
	GroupAdd    []string          `json:"groupAdd,omitempty"`
	Environment map[string]string `json:"environment,omitempty"`
	TTY         bool              `json:"tty,omitempty"`
	StdinOpen   bool              `json:"stdinOpen,omitempty"`
	Init        bool              `json:"init,omitempty"`

	StopSignal  string         `json:"stopSignal,omitempty"`
	StopGrace   *time.Duration `json:"stopGrace,omitempty"`
	Restart     Restart        `json:"restart"`
	Healthcheck *Healthcheck   `json:"healthcheck,omitempty"` // nil: the image's
	Logging     Logging        `json:"logging"`
	Attach      bool           `json:"attach"` // output shown by an attached up

	Labels        map[string]string     `json:"labels,omitempty"`
	Annotations   map[string]string     `json:"annotations,omitempty"`
	ContainerName string                `json:"containerName,omitempty"`
	Scale         int                   `json:"scale"`
	DependsOn     map[string]Dependency `json:"dependsOn,omitempty"`

	Privileged  bool              `json:"privileged,omitempty"`
	CapAdd      []string          `json:"capAdd,omitempty"`
	CapDrop     []string          `json:"capDrop,omitempty"`
	SecurityOpt []string          `json:"securityOpt,omitempty"` // seccomp's with the profile in it
	DeviceRules []string          `json:"deviceRules,omitempty"` // device_cgroup_rules
	UTS         string            `json:"uts,omitempty"`         // host: it has the host's name
	Cgroup      string            `json:"cgroup,omitempty"`      // host: it sees all groups of its machine
	Umask       *uint32           `json:"umask,omitempty"`
	ReadOnly    bool              `json:"readOnly,omitempty"`
	Sysctls     map[string]string `json:"sysctls,omitempty"`
	Ulimits     []Ulimit          `json:"ulimits,omitempty"`
	OOMScoreAdj int               `json:"oomScoreAdj,omitempty"`
	Resources   Resources         `json:"resources"`
	ShmSize     int64             `json:"shmSize,omitempty"`     // bytes; 0: 64 MiB
	StorageSize int64             `json:"storageSize,omitempty"` // bytes of the scratch disk; 0: default
	Devices     []string          `json:"devices,omitempty"`

	Mounts  []Mount   `json:"mounts,omitempty"` // volumes, binds and tmpfs, in mount order
	Configs []FileRef `json:"configs,omitempty"`
	Secrets []FileRef `json:"secrets,omitempty"`

	VolumesFrom []VolumesFrom `json:"volumesFrom,omitempty"` // mounted after its own
	Machine     *Machine      `json:"machine,omitempty"`     // nil: one of its own for each replica

	NetworkMode string                `json:"networkMode,omitempty"` // "", none, bridge, service:X, container:X
	Networks    map[string]Attachment `json:"networks,omitempty"`    // by key of Project.Networks
	IPC         string                `json:"ipc,omitempty"`
	PID         string                `json:"pid,omitempty"`
	Ports       []Port                `json:"ports,omitempty"`
	Expose      []string              `json:"expose,omitempty"`
	Hostname    string                `json:"hostname,omitempty"`
	Domainname  string                `json:"domainname,omitempty"`
	DNS         []string              `json:"dns,omitempty"`
	DNSSearch   []string              `json:"dnsSearch,omitempty"`
	DNSOptions  []string              `json:"dnsOptions,omitempty"`
	ExtraHosts  []ExtraHost           `json:"extraHosts,omitempty"`
	// Links are names that the service alone knows, and the services or containers
	// that they stand for.
	Links map[string]string `json:"links,omitempty"`

	Provider  *Provider  `json:"provider,omitempty"`  // what it is instead of containers
	PreStart  []PreStart `json:"preStart,omitempty"`  // run to their ends before each start that is asked for
	PostStart []Hook     `json:"postStart,omitempty"` // run in the container after each start that is asked for
	PreStop   []Hook     `json:"preStop,omitempty"`   // run in it before each stop

	Extension Extension `json:"extension"` // x-stack
}

// Provider is a program that brings a service up in its own way.
type Provider struct {
	Type    string              `json:"type"` // a docker CLI plugin's name, or a program's
	Options map[string][]string `json:"options,omitempty"`
	Config  json.RawMessage     `json:"config,omitempty"` // the service as the file has it, which the program may ask for
}

// PreStart is a container that has to run to its end, with status 0, before those
// of its service start.
type PreStart struct {
	// Container is what it is made from: a service that has what the hook says, and
	// else what the hook's service says, but no mounts of that. Its network and its
	// namespaces are the service's.
	Container  *Service `json:"container"`
	PerReplica bool     `json:"perReplica,omitempty"` // for every replica that starts, instead of once for all
}

// Containers are the service and its pre_start hooks, each of which has an image;
// one that a provider brings up has none.
func (s *Service) Containers() []*Service {
	if s.Provider != nil {
		return nil
	}
	all := []*Service{s}
	for _, h := range s.PreStart {
		all = append(all, h.Container)
	}
	return all
}

// MachineMounts are all that a replica's machine must have: the service's mounts
// and those that only its pre_start hooks have.
func (s *Service) MachineMounts() []Mount {
	if len(s.PreStart) == 0 {
		return s.Mounts
	}
	var all []Mount
	for _, c := range s.Containers() {
		all = append(all, c.Mounts...)
	}
	return all
}

// Hook is a command that runs in a service's container.
type Hook struct {
	Command     []string          `json:"command"`
	User        string            `json:"user,omitempty"` // "": the container's
	WorkingDir  string            `json:"workingDir,omitempty"`
	Privileged  bool              `json:"privileged,omitempty"`
	Environment map[string]string `json:"environment,omitempty"` // added to the container's
}

// Restart is a restart policy.
type Restart struct {
	Policy string `json:"policy"`        // no, always, on-failure, unless-stopped
	Max    int    `json:"max,omitempty"` // restarts; 0: without end

	Delay  time.Duration `json:"delay,omitempty"`  // before each restart; 0: longer each time
	Window time.Duration `json:"window,omitempty"` // a run as long as this counts no restart before it against Max
}

// Healthcheck is a service's own; zero fields take the image's, then compose's,
// defaults.
type Healthcheck struct {
	Disable       bool          `json:"disable,omitempty"`
	Test          []string      `json:"test,omitempty"` // CMD … or CMD-SHELL …
	Interval      time.Duration `json:"interval,omitempty"`
	Timeout       time.Duration `json:"timeout,omitempty"`
	StartPeriod   time.Duration `json:"startPeriod,omitempty"`
	StartInterval time.Duration `json:"startInterval,omitempty"`
	Retries       int           `json:"retries,omitempty"`
}

// Logging is a log driver and its options.
type Logging struct {
	Driver  string            `json:"driver,omitempty"` // "": json-file
	Options map[string]string `json:"options,omitempty"`
	// NonBlocking drops what finds no room in a buffer of BufferBytes, 0 for the
	// default, instead of having its writer wait.
	NonBlocking bool  `json:"nonBlocking,omitempty"`
	BufferBytes int64 `json:"bufferBytes,omitempty"`
}

// Dependency is one entry of depends_on.
type Dependency struct {
	Condition string `json:"condition"` // service_started, service_healthy, service_completed_successfully
	Restart   bool   `json:"restart,omitempty"`
	Required  bool   `json:"required"`
}

// Conditions of a Dependency.
const (
	ConditionStarted   = "service_started"
	ConditionHealthy   = "service_healthy"
	ConditionCompleted = "service_completed_successfully"
)

// Ulimit is a resource limit; -1 is unlimited.
type Ulimit struct {
	Name string `json:"name"`
	Soft int64  `json:"soft"`
	Hard int64  `json:"hard"`
}

// Resources are limits and reservations; zero is unset.
type Resources struct {
	CPUs              float64 `json:"cpus,omitempty"`
	CPUPeriod         int64   `json:"cpuPeriod,omitempty"` // µs; 0: the default
	CPUShares         int64   `json:"cpuShares,omitempty"`
	CPUSet            string  `json:"cpuset,omitempty"`
	MemoryBytes       int64   `json:"memoryBytes,omitempty"`
	MemoryReservation int64   `json:"memoryReservation,omitempty"`
	SwapBytes         int64   `json:"swapBytes,omitempty"` // memory and swap together; -1 unlimited
	PIDs              int64   `json:"pids,omitempty"`
	IO                IORates `json:"io,omitzero"`
}

// IORates bound what a container reads from and writes to each of its disks, in
// a second; zero is without bound.
type IORates struct {
	ReadBytes  int64 `json:"readBytes,omitempty"`
	WriteBytes int64 `json:"writeBytes,omitempty"`
	ReadOps    int64 `json:"readOps,omitempty"`
	WriteOps   int64 `json:"writeOps,omitempty"`
}

// MountType says what is mounted.
type MountType string

// Types of mounts.
const (
	MountBind   MountType = "bind"
	MountVolume MountType = "volume"
	MountTmpfs  MountType = "tmpfs"
	MountImage  MountType = "image"
	MountSocket MountType = "socket" // the host's docker socket, which is relayed
)

// Mount is one mount of a service.
type Mount struct {
	Type     MountType `json:"type"`
	Source   string    `json:"source,omitempty"` // bind, socket: absolute host path; volume: key of Project.Volumes, empty for an anonymous one; image: reference
	Target   string    `json:"target"`
	ReadOnly bool      `json:"readOnly,omitempty"`
	Pos      Pos       `json:"pos"`

	CreateHostPath bool              `json:"createHostPath,omitempty"` // bind
	Propagation    string            `json:"propagation,omitempty"`    // bind
	NoCopy         bool              `json:"noCopy,omitempty"`         // volume
	Labels         map[string]string `json:"labels,omitempty"`         // anonymous volume
	Subpath        string            `json:"subpath,omitempty"`        // volume, image
	SizeBytes      int64             `json:"sizeBytes,omitempty"`      // tmpfs
	Mode           uint32            `json:"mode,omitempty"`           // tmpfs
	UID            int               `json:"uid,omitempty"`            // tmpfs
	GID            int               `json:"gid,omitempty"`            // tmpfs
	Options        []string          `json:"options,omitempty"`        // tmpfs; bind
}

// FileRef is a service's use of a config or secret.
type FileRef struct {
	Source string `json:"source"` // key of Project.Configs or Secrets
	Target string `json:"target"` // absolute
	UID    string `json:"uid,omitempty"`
	GID    string `json:"gid,omitempty"`
	Mode   uint32 `json:"mode"` // default 0444
	Pos    Pos    `json:"pos"`
}

// Attachment is a service's place on a network.
type Attachment struct {
	Aliases         []string          `json:"aliases,omitempty"`
	IPv4            netip.Addr        `json:"ipv4,omitzero"`
	IPv6            netip.Addr        `json:"ipv6,omitzero"`
	MAC             string            `json:"mac,omitempty"`
	InterfaceName   string            `json:"interfaceName,omitempty"`
	Sysctls         map[string]string `json:"sysctls,omitempty"`   // with IFNAME for the interface's name
	Unnamed         bool              `json:"unnamed,omitempty"`   // it does not resolve by the service's name
	LinkLocal       []netip.Addr      `json:"linkLocal,omitempty"` // further addresses
	Priority        int               `json:"priority,omitempty"`
	GatewayPriority int               `json:"gatewayPriority,omitempty"`
	Pos             Pos               `json:"pos"`
}

// Port is one published port; ranges are already expanded.
type Port struct {
	HostIP       netip.Addr `json:"hostIp,omitzero"`        // invalid: all addresses
	Published    uint16     `json:"published,omitempty"`    // 0: any free one
	PublishedEnd uint16     `json:"publishedEnd,omitempty"` // the first free one in Published..PublishedEnd; 0: no range
	Target       uint16     `json:"target"`
	Protocol     string     `json:"protocol"` // tcp, udp
	Name         string     `json:"name,omitempty"`
	Pos          Pos        `json:"pos"`
}

// ExtraHost is one line of extra_hosts; Addr may be "host-gateway".
type ExtraHost struct {
	Name string `json:"name"`
	Addr string `json:"addr"`
}

// Extension is x-stack of a service.
type Extension struct {
	Machine    string   `json:"machine,omitempty"`   // services of one name share a machine
	Host       string   `json:"host,omitempty"`      // "deny" closes host.docker.internal
	MemoryMiB  int      `json:"memoryMiB,omitempty"` // of the machine
	VCPUs      int      `json:"vcpus,omitempty"`
	KernelArgs []string `json:"kernelArgs,omitempty"` // of its kernel

	HostDockerSocket bool `json:"hostDockerSocket,omitempty"` // binding the host's docker socket is meant
	RestartUnhealthy bool `json:"restartUnhealthy,omitempty"` // one whose probe fails is restarted
}

// Network is a top-level network in use.
type Network struct {
	Key      string `json:"key"`
	Name     string `json:"name"` // PROJECT_KEY unless named
	External bool   `json:"external,omitempty"`
	Internal bool   `json:"internal,omitempty"`
	Isolated bool   `json:"isolated,omitempty"` // containers do not reach each other
	// HostBinding is where ports are published that name no address of the host.
	HostBinding netip.Addr        `json:"hostBinding,omitzero"`
	IPv4        bool              `json:"ipv4"`
	IPv6        bool              `json:"ipv6,omitempty"`
	MTU         int               `json:"mtu,omitempty"`
	Pools       []IPAMPool        `json:"pools,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Hash        string            `json:"hash"`
	Pos         Pos               `json:"pos"`
}

// IPAMPool is one entry of ipam.config.
type IPAMPool struct {
	Subnet  netip.Prefix          `json:"subnet,omitzero"`
	Range   netip.Prefix          `json:"range,omitzero"`
	Gateway netip.Addr            `json:"gateway,omitzero"`
	Aux     map[string]netip.Addr `json:"aux,omitempty"`
}

// Volume is a top-level volume in use.
type Volume struct {
	Key        string            `json:"key"`
	Name       string            `json:"name"` // PROJECT_KEY unless named
	External   bool              `json:"external,omitempty"`
	Driver     string            `json:"driver,omitempty"`
	DriverOpts map[string]string `json:"driverOpts,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	SizeBytes  int64             `json:"sizeBytes,omitempty"` // 0: default
	Hash       string            `json:"hash"`
	Pos        Pos               `json:"pos"`
}

// Config is a config or a secret with its content.
type Config struct {
	Key     string `json:"key"`
	Name    string `json:"name"`
	Content []byte `json:"content,omitempty"`
	From    string `json:"from"` // "file PATH", "environment NAME", "content": for people
	Pos     Pos    `json:"pos"`
}
