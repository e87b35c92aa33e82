package planner

// Verb is what a step does.
type Verb string

// The verbs; DESIGN §3 holds the closed list.
const (
	Pull     Verb = "pull"     // image
	Create   Verb = "create"   // network, volume, replica
	Start    Verb = "start"    // replica
	Wait     Verb = "wait"     // replica: until its Condition holds
	Stop     Verb = "stop"     // replica
	Remove   Verb = "remove"   // network, volume, replica
	Recreate Verb = "recreate" // replica, volume: stopped, removed, made again under the same name
	Restart  Verb = "restart"  // replica: its workload stopped and started, nothing made again
)

// Noun is what a step does it to.
type Noun string

// The nouns.
const (
	ImageNoun   Noun = "image"
	NetworkNoun Noun = "network"
	VolumeNoun  Noun = "volume"
	ReplicaNoun Noun = "replica"
)

// Plan is a DAG of steps, in an order that respects every After.
type Plan struct {
	Project string `json:"project"`
	Steps   []Step `json:"steps"`
}

// Step is one node: names and values only, never a live handle.
type Step struct {
	ID    int    `json:"id"` // from 1, in the plan's order
	Verb  Verb   `json:"verb"`
	Noun  Noun   `json:"noun"`
	Name  string `json:"name"` // of the object: a replica's, a network's, an image's reference
	Cause string `json:"cause"`
	After []int  `json:"after,omitempty"` // steps that must have succeeded

	// Destructive steps lose data; cmd asks before a plan that has one.
	Destructive bool `json:"destructive,omitempty"`

	Service   string `json:"service,omitempty"`   // of replicas
	Number    int    `json:"number,omitempty"`    // of replicas
	Replica   string `json:"replica,omitempty"`   // id of the existing replica that is acted on
	Condition string `json:"condition,omitempty"` // of Wait: a spec.Condition…, or "running_or_healthy" (--wait)
	Optional  bool   `json:"optional,omitempty"`  // of Wait: failure is a warning (required: false)
	// Boot tells Create and Recreate to boot the machine as soon as the replica
	// exists, because a later step starts it: the boot overlaps with waiting.
	Boot bool `json:"boot,omitempty"`
	// Inherit names the anonymous volumes that a recreated replica takes over,
	// Discard those that are removed with it.
	Inherit []string `json:"inherit,omitempty"`
	Discard []string `json:"discard,omitempty"`
	// TimeoutSeconds overrides the service's stop grace (-t); negative: not set.
	TimeoutSeconds int `json:"timeoutSeconds,omitempty"`
}
