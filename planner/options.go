package planner

import "time"

// RecreatePolicy says when an existing replica is made again.
type RecreatePolicy string

// Policies.
const (
	RecreateDiverged RecreatePolicy = ""      // when it is no longer what the file asks for
	RecreateForce    RecreatePolicy = "force" // always
	RecreateNever    RecreatePolicy = "never"
)

// Options are what up, create and scale ask of Diff.
type Options struct {
	Services []string `json:"services,omitempty"` // targeted; empty: all. What they depend on is planned too
	NoDeps   bool     `json:"noDeps,omitempty"`   // plan the targeted ones only, and wait for nothing else
	WithDeps bool     `json:"withDeps,omitempty"` // PullAll: what the targeted ones depend on too

	NoBuildable bool `json:"noBuildable,omitempty"` // PullAll: not what could be built

	Recreate     RecreatePolicy `json:"recreate,omitempty"`     // of targeted services
	RecreateDeps RecreatePolicy `json:"recreateDeps,omitempty"` // of those they depend on

	Scale           map[string]int `json:"scale,omitempty"` // by service, instead of the file's
	Pull            string         `json:"pull,omitempty"`  // always, missing, never; "" or policy: each service's own
	RemoveOrphans   bool           `json:"removeOrphans,omitempty"`
	IgnoreOrphans   bool           `json:"ignoreOrphans,omitempty"`   // say nothing of those that stay
	RenewAnonymous  bool           `json:"renewAnonymous,omitempty"`  // anonymous volumes are made anew instead of inherited
	RecreateVolumes bool           `json:"recreateVolumes,omitempty"` // volumes that no longer match the file are made anew: their data is lost
	KeepVolumes     []string       `json:"keepVolumes,omitempty"`     // names of those that are not, all the same
	NoStart         bool           `json:"noStart,omitempty"`
	Wait            bool           `json:"wait,omitempty"` // steps that wait until everything is running or healthy

	Timeout *time.Duration `json:"timeoutNs,omitempty"` // for stopping; nil: each service's own
	Now     time.Time      `json:"now,omitzero"`        // when the command began: what pull policies count from; zero: every image that is there is fresh
}

// DownOptions are what down asks for.
type DownOptions struct {
	Services      []string // empty: all
	Volumes       bool     // named and anonymous volumes too
	RemoveOrphans bool
	Images        string // "", local, all
	Timeout       *time.Duration
}

// Selection is what stop, start, restart, rm and pull act on.
type Selection struct {
	Services []string // empty: all
	NoDeps   bool     // restart: leave dependents alone
	Stop     bool     // rm: stop what runs, instead of leaving it
	Volumes  bool     // rm: anonymous volumes too
	Wait     bool     // start: until running or healthy
	Timeout  *time.Duration
}

func seconds(d *time.Duration) int {
	if d == nil {
		return -1
	}
	return max(0, int((*d+time.Second-1)/time.Second))
}
