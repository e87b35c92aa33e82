package planner

import "time"

// State is what there is of one project, as the runtime recorded it.
type State struct {
	Replicas []Replica `json:"replicas,omitempty"`
	Networks []Network `json:"networks,omitempty"`
	Volumes  []Volume  `json:"volumes,omitempty"`
	// Providers are the services that providers have brought up, by name.
	Providers map[string]Provider `json:"providers,omitempty"`
	Storage   Storage             `json:"storage,omitzero"`
	// Images maps every reference the project names to what the store has; a
	// missing entry is an image that must be pulled.
	Images map[string]Image `json:"images,omitempty"`
}

// Storage is a project's storage machine, which has the volumes that several
// machines want. The zero value: there is none.
type Storage struct {
	Name    string   `json:"name"`              // the project's
	Volumes []string `json:"volumes,omitempty"` // names, sorted: their disks are its, also while it does not run
	Running bool     `json:"running,omitempty"`
}

// Status is a replica's state as users see it.
type Status string

// Statuses, with docker's words.
const (
	StatusCreated    Status = "created"
	StatusRunning    Status = "running"
	StatusPaused     Status = "paused"
	StatusRestarting Status = "restarting"
	StatusExited     Status = "exited"
	StatusDead       Status = "dead" // its machine crashed, or half-made work was left behind
)

// Replica is one observed replica.
type Replica struct {
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Service   string            `json:"service"`
	Number    int               `json:"number"`
	OneOff    bool              `json:"oneOff,omitempty"` // made by run
	Status    Status            `json:"status"`
	Health    string            `json:"health,omitempty"` // "", starting, healthy, unhealthy
	ExitCode  int               `json:"exitCode,omitempty"`
	Created   time.Time         `json:"created"`
	Hash      string            `json:"hash"`                // of the service it was made from
	Aspects   map[string]string `json:"aspects,omitempty"`   // spec.Service.Aspects then: says what has changed since
	Image     string            `json:"image"`               // reference
	ImageID   string            `json:"imageId"`             // what it was made from
	Networks  []string          `json:"networks,omitempty"`  // names, sorted
	Volumes   []string          `json:"volumes,omitempty"`   // names of named volumes, sorted
	Group     string            `json:"group,omitempty"`     // equal for replicas of one machine; empty: its own
	Anonymous []string          `json:"anonymous,omitempty"` // names of its anonymous volumes
	// Provided says of each provider that it depends on which variables it got.
	Provided  map[string]string `json:"provided,omitempty"`
	PreStart  []Hook            `json:"preStart,omitempty"`  // its pre_start hooks, as when it was made
	DependsOn map[string]string `json:"dependsOn,omitempty"` // service -> condition, as when it was made: orders a down without a file
}

// Provider is a service that a provider has brought up.
type Provider struct {
	Ran       time.Time         `json:"ran"`
	Variables string            `json:"variables,omitempty"` // a digest of what it gives its dependents
	DependsOn map[string]string `json:"dependsOn,omitempty"` // as of replicas
}

// Hook is a pre_start hook of a service.
type Hook struct {
	PerReplica bool `json:"perReplica,omitempty"` // for every replica that starts, instead of once for all
}

// Network is one observed network.
type Network struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Key     string `json:"key"`
	Hash    string `json:"hash"`
	Project string `json:"project,omitempty"` // empty: not of any project (external)
}

// Volume is one observed volume.
type Volume struct {
	Name      string `json:"name"`
	Key       string `json:"key,omitempty"` // empty for anonymous ones
	Hash      string `json:"hash"`
	Project   string `json:"project,omitempty"`
	Anonymous bool   `json:"anonymous,omitempty"`
}

// Image is one image of the store.
type Image struct {
	ID     string    `json:"id"`
	Pulled time.Time `json:"pulled"`
}
