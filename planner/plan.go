package planner

import (
	"slices"

	"github.com/stackvm/stack/spec"
)

// Verb is what a step does.
type Verb string

// The verbs; DESIGN §3 holds the closed list.
const (
	Pull     Verb = "pull"     // image
	Create   Verb = "create"   // network, volume, replica
	Start    Verb = "start"    // replica, storage machine
	Run      Verb = "run"      // hook, provider: until it has ended, which must be with 0
	Wait     Verb = "wait"     // replica: until its Condition holds; fails when it no longer can
	Stop     Verb = "stop"     // replica, storage machine
	Remove   Verb = "remove"   // network, volume, replica, storage machine
	Recreate Verb = "recreate" // replica, network, volume: stopped, removed, made again; a replica may get another name
	Restart  Verb = "restart"  // replica: its workload stopped and started, nothing made again
	Attach   Verb = "attach"   // volume: to the storage machine, which serves it to the machines that mount it
	Detach   Verb = "detach"   // volume: from the storage machine
)

// Noun is what a step does it to.
type Noun string

// The nouns.
const (
	ImageNoun   Noun = "image"
	NetworkNoun Noun = "network"
	VolumeNoun  Noun = "volume"
	ReplicaNoun Noun = "replica"
	HookNoun    Noun = "hook" // a pre_start hook of a service
	// A service that a provider brings up (run), stops and takes down (remove).
	ProviderNoun Noun = "provider"
	StorageNoun  Noun = "storage machine" // by the project's name; it has at most one
)

// Version is the version of a plan's JSON form, described in docs/plan.md. It
// changes when a reader that knows only the old form would go wrong.
const Version = 1

// RunningOrHealthy is what --wait waits for: healthy where there is a probe,
// else running; a replica that exited 0 will do.
const RunningOrHealthy = "running_or_healthy"

// Plan is a DAG of steps, in an order that respects every After.
type Plan struct {
	Version int    `json:"version"`
	Project string `json:"project"`
	Steps   []Step `json:"steps"`
	// Warnings are what the user should know although the plan stands: orphans
	// that stay, a volume kept although the file describes another.
	Warnings []string `json:"warnings,omitempty"`
	// Kept are the names of replicas that run and that no step but a wait is about.
	Kept []string `json:"kept,omitempty"`

	// Of plans for up: what was asked for, without Now, and a keyed digest of
	// each "service NAME", "network NAME" and "volume NAME" as it was to become.
	// With them a stored plan can be told from what would be planned now.
	Options *Options          `json:"options,omitempty"`
	Desired map[string]string `json:"desired,omitempty"`
}

// Empty tells whether there is nothing to do.
func (p Plan) Empty() bool { return len(p.Steps) == 0 }

// Destructive tells whether a step loses data, so that cmd must ask.
func (p Plan) Destructive() bool {
	return slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Destructive })
}

// Refresh returns the steps whose outcome the rest of the plan cannot know: pulls of
// images that are there, but that a pull policy wants looked up again, and runs of
// providers, which may give their dependents other variables. Whoever
// carries the plan out runs them first, observes, and calls Diff again with the
// same Options.Now, which then counts them as done.
func (p Plan) Refresh() Plan {
	out := Plan{Version: p.Version, Project: p.Project}
	for _, s := range p.Steps {
		if s.Refresh {
			s.ID = len(out.Steps) + 1
			out.Steps = append(out.Steps, s)
		}
	}
	return out
}

// words are what docker compose calls a step while it runs and when it is done.
var words = map[Verb][2]string{
	Pull: {"Pulling", "Pulled"}, Create: {"Creating", "Created"}, Start: {"Starting", "Started"},
	Stop: {"Stopping", "Stopped"}, Remove: {"Removing", "Removed"}, Recreate: {"Recreate", "Recreated"},
	Restart: {"Restarting", "Started"}, Run: {"Running", "Exited"}, Wait: {"Waiting", "Healthy"},
	Attach: {"Attaching", "Attached"}, Detach: {"Detaching", "Detached"},
}

// Words are what docker compose calls the step while it runs and when it is done.
func (s Step) Words() (doing, done string) {
	w, ok := words[s.Verb]
	switch {
	case !ok:
		return string(s.Verb), string(s.Verb)
	case s.Noun == ProviderNoun && s.Verb == Run:
		w = words[Create]
	case s.Verb == Wait && s.Condition == spec.ConditionCompleted:
		w[1] = "Exited"
	}
	return w[0], w[1]
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

	Service   string `json:"service,omitempty"`   // of replicas and hooks
	Number    int    `json:"number,omitempty"`    // of replicas; of a hook: of the replica in whose machine it runs
	Hook      int    `json:"hook,omitempty"`      // of Run: its place among the service's pre_start hooks, from 0
	Replica   string `json:"replica,omitempty"`   // id of the existing replica that is acted on
	Condition string `json:"condition,omitempty"` // of Wait: a spec.Condition…, or RunningOrHealthy
	// Optional, of Wait: that it fails is a warning, and what comes after it goes
	// on (required: false).
	Optional bool `json:"optional,omitempty"`
	// Refresh, of Pull: the image is there and may be replaced; of Run: the provider
	// waits for nothing. See Plan.Refresh.
	Refresh bool `json:"refresh,omitempty"`
	// Boot tells Create and Recreate to boot the machine as soon as the replica
	// exists, because a later step starts it: the boot overlaps with waiting.
	Boot bool `json:"boot,omitempty"`
	// Machine, of Create and Recreate: the replica, by name, in whose machine it
	// will live, if not in one of its own; of Run: in whose the hook runs.
	Machine string `json:"machine,omitempty"`
	// Inherit names the anonymous volumes that a recreated replica takes over,
	// Discard those that are removed with it.
	Inherit []string `json:"inherit,omitempty"`
	Discard []string `json:"discard,omitempty"`
	// TimeoutSeconds overrides the service's stop grace (-t) in steps that stop
	// something; negative: not set.
	TimeoutSeconds int `json:"timeoutSeconds"`
}
