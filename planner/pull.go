package planner

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stackvm/stack/spec"
)

// Skip is an image that a pull leaves alone, and why, in compose's words.
type Skip struct {
	Service, Image, Why string
}

// PullAll returns the pulls of the images that a project's services name,
// whether they are there or not, unless their policy says otherwise. One name
// that several services share is pulled once.
func PullAll(observed State, desired *spec.Project, opt Options) (Plan, []Skip, error) {
	d := &differ{builder: builder{project: desired.Name, timeout: -1}, p: desired, s: observed, opt: opt, images: map[string]*node{}}
	d.opt.NoDeps = !opt.WithDeps
	if err := d.setScope(); err != nil {
		return Plan{}, nil, err
	}
	var skipped []Skip
	by := map[string]string{} // image -> the service it is pulled for
	for _, name := range slices.Sorted(slices.Values(d.order)) {
		for i, svc := range d.p.Services[name].Containers() {
			if svc.Image == "" || i > 0 && svc.Image == d.p.Services[name].Image { // a provider's, or the service's own
				continue
			}
			_, there := d.s.Images[svc.Image]
			why := ""
			switch policy := d.pullPolicy(svc); {
			case d.onlyBuilt(svc):
				why = "No image to be pulled"
			case policy == "never" || policy == "build":
				why = "Pull policy " + policy
			case (policy == "missing" || policy == "if_not_present") && there && !latest(svc.Image):
				why = "Image is already present locally"
			case svc.Build && opt.NoBuildable:
				why = "Image can be built"
			case by[svc.Image] != "":
				why = "Image is already being pulled by " + by[svc.Image]
			}
			if why != "" {
				skipped = append(skipped, Skip{Service: name, Image: svc.Image, Why: why})
				continue
			}
			by[svc.Image] = name
			n := d.pull(svc, "pull")
			n.Service, n.Refresh = name, there
		}
	}
	p, err := d.plan()
	return p, skipped, err
}

// latest tells whether a reference means the tag latest, which a policy of
// pulling what is missing looks up all the same when pull asks, as with compose.
func latest(ref string) bool {
	if strings.Contains(ref, "@") {
		return false
	}
	_, tag, tagged := strings.Cut(ref[strings.LastIndex(ref, "/")+1:], ":")
	return !tagged || tag == "latest"
}

// Fetches tells whether a pull policy wants an image from its registry now, when
// have is what the store has, nil for nothing. A zero now finds every image
// fresh that is there.
func Fetches(policy string, have *Image, now time.Time) bool {
	if have == nil {
		return policy != "never"
	}
	every, ok := pullEvery(policy)
	return ok && have.Pulled.Before(now.Add(-every))
}

// pullEvery returns how old an image may be under a policy. Policies without an
// age keep what is there: "", missing, if_not_present, never, build.
func pullEvery(policy string) (time.Duration, bool) {
	switch policy {
	case "always", "refresh":
		return 0, true
	case "daily":
		return 24 * time.Hour, true
	case "weekly":
		return 7 * 24 * time.Hour, true
	}
	if v, ok := strings.CutPrefix(policy, "every_"); ok {
		every, err := parsePeriod(v)
		return every, err == nil
	}
	return 0, false
}

// parsePeriod reads what time.ParseDuration does, and weeks and days: "1w2d3h".
func parsePeriod(v string) (time.Duration, error) {
	fault := fmt.Errorf("%q is no period", v)
	if v == "" {
		return 0, fault
	}
	var total time.Duration
	for v != "" {
		number := strings.IndexFunc(v, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
		if number <= 0 {
			return 0, fault
		}
		unit := strings.IndexAny(v[number:], "0123456789.")
		if unit < 0 {
			unit = len(v) - number
		}
		part, times := v[:number+unit], int64(1)
		switch v[number : number+unit] {
		case "w":
			part, times = v[:number]+"h", 7*24
		case "d":
			part, times = v[:number]+"h", 24
		}
		d, err := time.ParseDuration(part)
		if err != nil || d < 0 || int64(d) > (1<<62-int64(total))/times {
			return 0, fault
		}
		total, v = total+d*time.Duration(times), v[number+unit:]
	}
	return total, nil
}

// onlyBuilt tells that an image is in no registry: its name is the default for
// what is built.
func (d *differ) onlyBuilt(svc *spec.Service) bool {
	return svc.Build && svc.Image == d.p.Name+"-"+svc.Name
}

func (d *differ) pull(svc *spec.Service, cause string) *node {
	n := d.images[svc.Image]
	if n == nil {
		n = d.add(Step{Verb: Pull, Noun: ImageNoun, Name: svc.Image, Cause: cause})
		d.images[svc.Image] = n
	}
	return n
}

func (d *differ) pullPolicy(svc *spec.Service) string {
	if d.opt.Pull != "" && d.opt.Pull != "policy" {
		return d.opt.Pull
	}
	return svc.PullPolicy
}
