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
	Services []string // targeted; empty: all. What they depend on is planned too
	NoDeps   bool     // plan the targeted ones only, and wait for nothing else
	WithDeps bool     // PullAll: what the targeted ones depend on too

	Recreate     RecreatePolicy // of targeted services
	RecreateDeps RecreatePolicy // of those they depend on

	Scale           map[string]int // by service, instead of the file's
	Pull            string         // always, missing, never; "" or policy: each service's own
	RemoveOrphans   bool
	IgnoreOrphans   bool // say nothing of those that stay
	RenewAnonymous  bool // anonymous volumes are made anew instead of inherited
	RecreateVolumes bool // volumes that no longer match the file are made anew: their data is lost
	NoStart         bool
	Wait            bool // steps that wait until everything is running or healthy

	Timeout *time.Duration // for stopping; nil: each service's own
	Now     time.Time      // when the command began: what pull policies count from; zero: every image that is there is fresh
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
