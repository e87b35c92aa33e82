package planner

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/stackvm/stack/spec"
)

// use is a replica that mounts a volume, and the machine it does so in.
type use struct{ service, replica, machine string }

// volumeUsers are, by volume, the replicas that will mount it: those planned, and
// others that run, one of each machine.
func (d *differ) volumeUsers() map[string][]use {
	users := make(map[string][]use, len(d.p.Volumes))
	add := func(volume string, u use) {
		if !slices.ContainsFunc(users[volume], func(o use) bool { return o.machine == u.machine }) {
			users[volume] = append(users[volume], u)
		}
	}
	planned := make(map[string]bool, len(d.s.Replicas))
	for _, name := range d.order {
		svc := d.p.Services[name]
		for _, s := range d.slots[name] {
			if s.was != nil {
				planned[s.was.ID] = true
			}
			for _, v := range d.volumesOf(svc) {
				add(v, use{name, s.name, d.machine(svc, s.name)})
			}
		}
	}
	for i := range d.s.Replicas {
		r := &d.s.Replicas[i]
		if planned[r.ID] || !holds(r.Status) || d.leaving[r.ID] != nil || r.OneOff && d.scope[r.Service] {
			continue
		}
		for _, v := range r.Volumes {
			if len(users[v]) > 0 {
				add(v, use{r.Service, r.Name, d.machine(d.p.Services[r.Service], r.Name)})
			}
		}
	}
	return users
}

// volumesOf names the named volumes that a service mounts, or its pre_start hooks.
func (d *differ) volumesOf(svc *spec.Service) []string {
	var names []string
	for _, m := range svc.MachineMounts() {
		if v := d.p.Volumes[m.Source]; m.Type == spec.MountVolume && v != nil {
			names = append(names, v.Name)
		}
	}
	return names
}

// planShared moves volumes: one that several machines want goes to the storage
// machine, which serves it to them; one that a single machine wants comes back,
// once that is to start anyway. The disk itself moves, no data is copied.
func (d *differ) planShared() {
	d.served = map[string]bool{}
	if d.opt.NoStart {
		return // what is not started needs no volume: its start moves them
	}
	users := d.volumeUsers()
	for _, v := range d.s.Storage.Volumes {
		d.served[v] = true
	}
	for _, v := range sortedKeys(users) {
		switch shared := len(users[v]) > 1; {
		case shared && !d.served[v]:
			d.attach(v, users[v])
		case !shared && d.served[v]:
			d.detach(v, users[v][0])
		}
		if len(users[v]) > 1 {
			d.sharers = cmp.Or(d.sharers, fmt.Sprintf("volume %s is %s", v, wantedBy(users[v])))
		}
	}
}

// attach gives a volume to the storage machine, once whoever has it has stopped.
func (d *differ) attach(volume string, users []use) {
	var needs []*node
	for _, r := range d.holding[volume] {
		needs = append(needs, d.stopForMove(r, fmt.Sprintf("volume %s moves to the storage machine", volume)))
	}
	for key, n := range d.volumes {
		if d.p.Volumes[key].Name == volume {
			needs = append(needs, n)
		}
	}
	d.moved[volume] = d.add(Step{Verb: Attach, Noun: VolumeNoun, Name: volume, Cause: wantedBy(users)}, needs...)
	d.served[volume] = true
}

// detach takes a volume back from the storage machine, unless what mounts it runs
// on: a restart for speed alone is not asked for.
func (d *differ) detach(volume string, user use) {
	var running []*Replica
	for i := range d.s.Replicas {
		r := &d.s.Replicas[i]
		if !holds(r.Status) || !slices.Contains(r.Volumes, volume) {
			continue
		}
		if r.OneOff || d.stops[r.ID] == nil && d.leaving[r.ID] == nil {
			return
		}
		running = append(running, r)
	}
	var needs []*node
	for _, r := range running {
		needs = append(needs, d.stopForMove(r, fmt.Sprintf("volume %s leaves the storage machine", volume)))
	}
	d.moved[volume] = d.add(Step{Verb: Detach, Noun: VolumeNoun, Name: volume, Cause: fmt.Sprintf("only service %q wants it", user.service)}, needs...)
	delete(d.served, volume)
}

// stopForMove stops a replica before its volume moves, also one that is made again.
func (d *differ) stopForMove(r *Replica, cause string) *node {
	stop := d.stopFirst(r, cause)
	if n := d.leaving[r.ID]; n != nil {
		n.need(stop)
	}
	return stop
}

// wantedBy says who wants a volume.
func wantedBy(users []use) string {
	var services []string
	for _, u := range users {
		if !slices.Contains(services, u.service) {
			services = append(services, u.service)
		}
	}
	if len(services) == 1 {
		return fmt.Sprintf("wanted by %d replicas of service %q", len(users), services[0])
	}
	slices.Sort(services)
	const shown = 3
	if n := len(services); n > shown {
		return fmt.Sprintf("wanted by services %s and %d more", strings.Join(services[:shown], ", "), n-shown)
	}
	return "wanted by services " + strings.Join(services, ", ")
}

// planStorage starts the storage machine, if something starts that needs it.
func (d *differ) planStorage() {
	if d.s.Storage.Running {
		return
	}
	for _, name := range d.order {
		if len(d.starting[name]) == 0 {
			continue
		}
		for _, v := range d.volumesOf(d.p.Services[name]) {
			if d.served[v] {
				d.storage = d.startStorage(cmp.Or(d.sharers, fmt.Sprintf("it has volume %s", v)))
				return
			}
		}
	}
}

func (b *builder) startStorage(cause string) *node {
	return b.add(Step{Verb: Start, Noun: StorageNoun, Name: b.project, Cause: cause})
}

// sharedNeeds are the steps after which the volumes of a starting replica are
// where it will look for them.
func (d *differ) sharedNeeds(volumes []string) []*node {
	var out []*node
	for _, v := range volumes {
		out = append(out, d.moved[v])
		if d.served[v] {
			out = append(out, d.storage)
		}
	}
	return out
}

// shareRecorded plans for starts what planShared does, by what is recorded. It
// returns what each start waits for, and the volumes that cannot move because a
// replica that runs has them.
func (b *builder) shareRecorded(observed State, starts func(*Replica) bool) (needs func(*Replica) []*node, stuck map[string]string) {
	users, holder := map[string][]use{}, map[string]string{}
	starting := false
	for i := range observed.Replicas {
		r := &observed.Replicas[i]
		begins := starts(r)
		if !begins && !holds(r.Status) || r.OneOff {
			continue
		}
		for _, v := range r.Volumes {
			u := use{r.Service, r.Name, cmp.Or(r.Group, r.Name)}
			if !slices.ContainsFunc(users[v], func(o use) bool { return o.machine == u.machine }) {
				users[v] = append(users[v], u)
			}
			if !begins {
				holder[v] = r.Name
			}
			starting = starting || begins && slices.Contains(observed.Storage.Volumes, v)
		}
	}
	moved, stuck := map[string]*node{}, map[string]string{}
	for _, v := range sortedKeys(users) {
		switch {
		case len(users[v]) < 2 || slices.Contains(observed.Storage.Volumes, v):
		case holder[v] != "":
			stuck[v] = holder[v]
		default:
			moved[v] = b.add(Step{Verb: Attach, Noun: VolumeNoun, Name: v, Cause: wantedBy(users[v])})
			starting = true
		}
	}
	var storage *node
	if starting && !observed.Storage.Running {
		storage = b.startStorage("what starts needs its volumes")
	}
	return func(r *Replica) []*node {
		var out []*node
		for _, v := range r.Volumes {
			out = append(out, moved[v])
			if moved[v] != nil || slices.Contains(observed.Storage.Volumes, v) {
				out = append(out, storage)
			}
		}
		return out
	}, stuck
}

// stopShared ends the storage machine after all that mounts from it, if all of
// that ends.
func (b *builder) stopShared(observed State, verb Verb, cause string, ending map[string]*node) *node {
	s := observed.Storage
	if s.Name == "" || verb == Stop && !s.Running {
		return nil
	}
	var after []*node
	for i := range observed.Replicas {
		r := &observed.Replicas[i]
		if !slices.ContainsFunc(r.Volumes, func(v string) bool { return slices.Contains(s.Volumes, v) }) {
			continue
		}
		n := ending[r.ID]
		if n == nil && (verb == Remove || holds(r.Status)) {
			return nil
		}
		after = append(after, n)
	}
	return b.add(Step{Verb: verb, Noun: StorageNoun, Name: b.project, Cause: cause}, after...)
}
