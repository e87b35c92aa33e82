package planner

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/go-multierror"
	"github.com/stackvm/stack/spec"
)

// Diff returns the steps that turn observed into desired. Equal arguments give
// equal plans. An error means that there is no plan, and holds every reason
// there is none, as *spec.Error with its place where it has one.
func Diff(desired *spec.Project, observed State, opt Options) (Plan, error) {
	n, m := len(desired.Services), len(observed.Replicas)
	d := &differ{
		builder: builder{project: desired.Name, timeout: seconds(opt.Timeout), nodes: make([]*node, 0, 4*n)},
		p:       desired, s: observed, opt: opt,
		moved: map[string]*node{}, networks: map[string]*node{}, volumes: map[string]*node{}, images: map[string]*node{}, providers: map[string]*node{},
		stops: map[string]*node{}, leaving: map[string]*node{}, names: map[string]*node{}, remade: map[string]string{},
		slots: make(map[string][]*slot, n), observed: make(map[string][]*Replica, n), holding: make(map[string][]*Replica, m),
		haveNetworks: make(map[string]*Network, len(observed.Networks)), haveVolumes: make(map[string]*Volume, len(observed.Volumes)),
	}
	for i := range observed.Networks {
		d.haveNetworks[observed.Networks[i].Name] = &observed.Networks[i]
	}
	for i := range observed.Volumes {
		d.haveVolumes[observed.Volumes[i].Name] = &observed.Volumes[i]
	}
	return d.run()
}

// differ is one run of Diff.
type differ struct {
	builder
	p   *spec.Project
	s   State
	opt Options

	order    []string // services in scope, each after what it depends on
	scope    map[string]bool
	deps     dependencies
	users    map[string][]string // the other way: services that depend on each
	faults   []error
	observed map[string][]*Replica // by service, by number; not one-offs

	networks  map[string]*node  // by key: the step that makes it
	volumes   map[string]*node  // likewise
	images    map[string]*node  // by reference: its pull
	providers map[string]*node  // by service: its run
	stops     map[string]*node  // by replica id: stopped before what it uses is made anew
	leaving   map[string]*node  // by replica id: the step that removes or recreates it
	names     map[string]*node  // by replica name: the step after which it is free
	remade    map[string]string // services with a recreated replica -> the reason that matters to sharers
	slots     map[string][]*slot
	starting  map[string][]*slot    // of slots: those that are started
	holding   map[string][]*Replica // by volume name: replicas whose machine has it
	moved     map[string]*node      // by volume name: the step that moves its disk to or from the storage machine
	served    map[string]bool       // by volume name: the storage machine will have it
	sharers   string                // who wants the first of them
	storage   *node                 // the storage machine's start
	orphans   []*node               // stops of orphans: what they held is free after them

	haveNetworks map[string]*Network // observed, by name
	haveVolumes  map[string]*Volume
}

// slot is one replica as it will be.
type slot struct {
	service string
	name    string
	number  int
	was     *Replica // nil: made new
	made    *node    // create or recreate
	start   *node
}

func (s *slot) id() string {
	if s.was != nil && s.made == nil {
		return s.was.ID
	}
	return ""
}

func (d *differ) run() (Plan, error) {
	if err := d.setScope(); err != nil {
		return Plan{}, err
	}
	for i := range d.s.Replicas {
		r := &d.s.Replicas[i]
		if !r.OneOff {
			d.observed[r.Service] = append(d.observed[r.Service], r)
		}
		if holds(r.Status) && !r.OneOff {
			for _, v := range r.Volumes {
				d.holding[v] = append(d.holding[v], r)
			}
		}
	}
	for _, rs := range d.observed {
		slices.SortStableFunc(rs, func(a, b *Replica) int { return cmp.Or(cmp.Compare(a.Number, b.Number), cmp.Compare(a.ID, b.ID)) })
	}
	d.planRefreshes()
	d.planNetworks()
	d.planVolumes()
	d.planOrphans()
	for _, name := range d.order {
		if d.p.Services[name].Provider != nil {
			d.planProvider(name)
		} else {
			d.planService(d.p.Services[name])
		}
	}
	d.planRenamed()
	d.planShared()
	d.checkNames()
	if err := d.err(); err != nil {
		return Plan{}, err
	}
	if !d.opt.NoStart {
		d.chooseStarts()
		d.planStorage()
		for _, name := range d.order {
			d.planStart(d.p.Services[name])
		}
		d.planRestarts()
		if d.opt.Wait {
			d.planWait()
		}
	}
	plan, err := d.plan()
	if err == nil {
		plan.stored(d.p, d.opt, d.order)
		plan.Kept = d.kept(plan)
	}
	return plan, err
}

// kept are the names of the replicas in scope that run and go on as they are.
func (d *differ) kept(plan Plan) []string {
	touched := map[string]bool{}
	for _, s := range plan.Steps {
		if s.Verb != Wait {
			touched[s.Replica] = true
		}
	}
	var names []string
	for _, service := range d.order {
		for _, r := range d.observed[service] {
			if r.Status == StatusRunning && !touched[r.ID] {
				names = append(names, r.Name)
			}
		}
	}
	return names
}

// planRefreshes plans the pulls of images that are there but whose policy wants
// them looked up again.
func (d *differ) planRefreshes() {
	for _, name := range d.order {
		if d.scale(d.p.Services[name]) == 0 {
			continue
		}
		for _, svc := range d.p.Services[name].Containers() {
			have, ok := d.s.Images[svc.Image]
			if ok && !d.onlyBuilt(svc) && Fetches(d.pullPolicy(svc), &have, d.opt.Now) {
				d.pull(svc, "pull policy "+d.pullPolicy(svc)).Refresh = true
			}
		}
	}
}

func (d *differ) fault(pos spec.Pos, hint, format string, args ...any) {
	d.faults = append(d.faults, &spec.Error{Pos: pos, Err: fmt.Errorf(format, args...), Hint: hint})
}

func (d *differ) err() error {
	if len(d.faults) < 2 {
		return errors.Join(d.faults...)
	}
	m := &multierror.Error{Errors: d.faults, ErrorFormat: func(errs []error) string {
		out := make([]string, len(errs))
		for i, e := range errs {
			out[i] = e.Error()
		}
		return strings.Join(out, "\n")
	}}
	return m
}

// setScope finds the services that are planned: the targeted ones and, unless
// told otherwise, all they depend on.
func (d *differ) setScope() error {
	for _, name := range slices.Concat(d.opt.Services, sortedKeys(d.opt.Scale)) {
		if d.p.Services[name] == nil {
			d.fault(spec.Pos{}, "", "no such service: %s", name)
		}
	}
	if err := d.err(); err != nil {
		return err
	}
	all := ofProject(d.p)
	order, err := all.order()
	if err != nil {
		return &spec.Error{Err: err}
	}
	d.scope = make(map[string]bool, len(order))
	var add func(string)
	add = func(name string) {
		if d.p.Services[name] == nil || d.scope[name] {
			return
		}
		d.scope[name] = true
		if !d.opt.NoDeps {
			for dep := range all[name] {
				add(dep)
			}
		}
	}
	targets := d.opt.Services
	if len(targets) == 0 {
		targets = order
	}
	for _, name := range targets {
		add(name)
	}
	d.deps, d.users = make(dependencies, len(order)), make(map[string][]string, len(order))
	for _, name := range order {
		if !d.scope[name] {
			continue
		}
		d.order = append(d.order, name)
		d.deps[name] = all[name]
		for dep := range all[name] {
			if !d.scope[dep] { // not in this run: as if it were not written
				d.deps[name] = maps.Clone(all[name])
				maps.DeleteFunc(d.deps[name], func(dep string, _ spec.Dependency) bool { return !d.scope[dep] })
				break
			}
		}
		for dep := range d.deps[name] {
			d.users[dep] = append(d.users[dep], name)
		}
	}
	return nil
}

func (d *differ) targeted(service string) bool {
	return len(d.opt.Services) == 0 || slices.Contains(d.opt.Services, service)
}

func (d *differ) scale(s *spec.Service) int {
	if n, ok := d.opt.Scale[s.Name]; ok {
		return max(n, 0)
	}
	return s.Scale
}

// planNetworks makes the networks that services in scope use. One that differs
// is made anew: the replicas on it are stopped, and started again on the new
// one; a network holds no data.
func (d *differ) planNetworks() {
	used := map[string]bool{}
	for _, s := range d.order {
		for key := range d.p.Services[s].Networks {
			used[key] = true
		}
	}
	for _, key := range sortedKeys(used) {
		n := d.p.Networks[key]
		if n == nil {
			d.fault(spec.Pos{}, "", "undefined network %s", key)
			continue
		}
		have, there := d.haveNetworks[n.Name]
		switch {
		case !there && n.External:
			d.fault(n.Pos, "create it first: stack network create "+n.Name+", or leave external: out", "network %s declared as external, but could not be found", n.Name)
		case n.External:
		case !there:
			cause := notFound(n.Pos)
			if old := d.renamed(key, n.Name); old != "" {
				cause = "renamed from " + old
			}
			d.networks[key] = d.add(Step{Verb: Create, Noun: NetworkNoun, Name: n.Name, Cause: cause})
		case have.Project != d.p.Name:
			d.warn("a network with name %s exists but was not created for project %q. Set `external: true` to use an existing network", n.Name, d.p.Name)
		case have.Hash != "" && have.Hash != n.Hash:
			var stopped []*node
			for i := range d.s.Replicas {
				r := &d.s.Replicas[i]
				if !slices.Contains(r.Networks, n.Name) || !holds(r.Status) {
					continue
				}
				if r.OneOff {
					d.fault(n.Pos, "wait until it has ended, or remove it", "network %s has changed, but %s is attached to it", n.Name, r.Name)
					continue
				}
				stopped = append(stopped, d.stopFirst(r, fmt.Sprintf("network %s changes", n.Name)))
			}
			d.networks[key] = d.add(Step{Verb: Recreate, Noun: NetworkNoun, Name: n.Name, Cause: "changed" + where(n.Pos)}, stopped...)
		}
	}
}

func where(p spec.Pos) string {
	if s := p.String(); s != "" {
		return " (" + s + ")"
	}
	return ""
}

// renamed returns the name under which the project has the network of key.
func (d *differ) renamed(key, name string) string {
	for _, o := range d.s.Networks {
		if o.Key == key && o.Project == d.p.Name && o.Name != name {
			return o.Name
		}
	}
	return ""
}

// planRenamed removes networks whose key goes by another name now, when nothing
// is left on them.
func (d *differ) planRenamed() {
	for _, key := range sortedKeys(d.networks) {
		old := d.renamed(key, d.p.Networks[key].Name)
		if old == "" || slices.ContainsFunc(slices.Collect(maps.Values(d.p.Networks)), func(n *spec.Network) bool { return n.Name == old }) {
			continue
		}
		var gone []*node
		used := false
		for i := range d.s.Replicas {
			r := &d.s.Replicas[i]
			if slices.Contains(r.Networks, old) {
				used = used || d.leaving[r.ID] == nil
				gone = append(gone, d.leaving[r.ID])
			}
		}
		if !used {
			d.add(Step{Verb: Remove, Noun: NetworkNoun, Name: old, Cause: "renamed to " + d.p.Networks[key].Name}, gone...)
		}
	}
}

// holds tells whether a replica of that status has a machine, and so holds its
// volumes, ports and addresses.
func holds(s Status) bool { return s == StatusRunning || s == StatusPaused || s == StatusRestarting }

// stopFirst stops a replica before what it uses is made anew.
func (d *differ) stopFirst(r *Replica, cause string) *node {
	if !holds(r.Status) {
		return nil
	}
	n := d.stops[r.ID]
	if n == nil {
		n = d.replica(Stop, r, cause)
		d.stops[r.ID] = n
	}
	return n
}

// planVolumes makes the volumes that services in scope use. Data is sacred: one
// that differs stays, with a warning, unless Options say otherwise.
func (d *differ) planVolumes() {
	used := map[string]bool{}
	for _, s := range d.order {
		for _, m := range d.p.Services[s].MachineMounts() {
			if m.Type == spec.MountVolume && m.Source != "" {
				used[m.Source] = true
			}
		}
	}
	for _, key := range sortedKeys(used) {
		v := d.p.Volumes[key]
		if v == nil {
			d.fault(spec.Pos{}, "", "undefined volume %s", key)
			continue
		}
		have, there := d.haveVolumes[v.Name]
		switch {
		case !there && v.External:
			d.fault(v.Pos, "create it first: stack volume create "+v.Name+", or leave external: out", "external volume %q not found", v.Name)
		case v.External:
		case !there:
			d.volumes[key] = d.add(Step{Verb: Create, Noun: VolumeNoun, Name: v.Name, Cause: notFound(v.Pos)})
		case have.Project != d.p.Name:
			d.warn("volume %q already exists but was not created for project %q. Use `external: true` to use an existing volume", v.Name, d.p.Name)
		case have.Hash == v.Hash || have.Hash == "": // not recorded: not ours to judge
		case !d.opt.RecreateVolumes || slices.Contains(d.opt.KeepVolumes, v.Name):
			d.warn("volume %q exists but doesn't match configuration in compose file: it is kept as it is", v.Name)
		default:
			// Nothing may know the old one any more, so what mounts it is
			// removed before, and made after, as new.
			users, other := d.mounting(v.Name)
			if other != "" {
				d.warn("volume %q exists but doesn't match configuration in compose file: it is kept as it is, because %s uses it", v.Name, other)
				continue
			}
			var removed []*node
			for _, r := range users {
				if d.leaving[r.ID] == nil {
					d.remove(r, fmt.Sprintf("volume %s changes", v.Name), nil)
				}
				removed = append(removed, d.leaving[r.ID])
			}
			d.volumes[key] = d.add(Step{Verb: Recreate, Noun: VolumeNoun, Name: v.Name, Cause: "changed" + where(v.Pos), Destructive: true}, removed...)
		}
	}
}

// mounting returns the replicas that mount a volume, and the name of one that is
// not this plan's to remove.
func (d *differ) mounting(volume string) (users []*Replica, other string) {
	for i := range d.s.Replicas {
		r := &d.s.Replicas[i]
		switch {
		case !slices.Contains(r.Volumes, volume):
		case !r.OneOff && d.scope[r.Service] || d.opt.RemoveOrphans && d.orphan(r):
			users = append(users, r)
		default:
			other = r.Name
		}
	}
	return users, other
}

// orphan tells whether a replica's service is gone from the file. A service that
// no profile selects is not gone. One-offs that have ended count too.
func (d *differ) orphan(r *Replica) bool {
	if r.OneOff {
		return !holds(r.Status)
	}
	return d.p.Services[r.Service] == nil && !slices.Contains(d.p.Disabled, r.Service)
}

// planOrphans removes orphans, or says that they are there.
func (d *differ) planOrphans() {
	var left []string
	for i := range d.s.Replicas {
		r := &d.s.Replicas[i]
		if !d.orphan(r) || d.leaving[r.ID] != nil {
			continue
		}
		if d.opt.RemoveOrphans {
			d.remove(r, "orphan: not in the compose file", nil)
		} else if !r.OneOff {
			left = append(left, r.Name)
		}
	}
	if len(left) > 0 && !d.opt.IgnoreOrphans {
		slices.Sort(left)
		d.warn("Found orphan containers ([%s]) for this project. If you removed or renamed this service in your compose file, you can run this command with the --remove-orphans flag to clean it up.", strings.Join(left, " "))
	}
}

// remove stops and removes a replica, and remembers what that frees.
func (d *differ) remove(r *Replica, cause string, discard []string) *node {
	stop := d.stops[r.ID]
	if stop == nil && holds(r.Status) {
		stop = d.replica(Stop, r, cause)
		d.stops[r.ID] = stop
	}
	n := d.replica(Remove, r, cause, stop)
	n.Discard, n.Destructive = discard, len(discard) > 0
	if n.Service != "" && d.p.Services[r.Service] == nil && stop != nil {
		d.orphans = append(d.orphans, stop)
	}
	d.names[r.Name] = n
	d.leaving[r.ID] = n
	return n
}

// planService brings a service's replicas into being: as many as it scales to,
// each as the file asks.
func (d *differ) planService(svc *spec.Service) {
	want := d.scale(svc)
	if want > 1 && svc.ContainerName != "" {
		d.fault(first(svc.Keys["container_name"], svc.Pos), "leave container_name out",
			"service %q: can't set container_name and scale as container name must be unique", svc.Name)
		return
	}
	policy := d.opt.RecreateDeps
	if d.targeted(svc.Name) {
		policy = d.opt.Recreate
	}
	var have []*Replica
	var freed []int // numbers of replicas that are gone with a volume
	for _, r := range d.observed[svc.Name] {
		if d.leaving[r.ID] != nil {
			freed = append(freed, r.Number)
		} else {
			have = append(have, r)
		}
	}
	causes := map[*Replica]string{}
	for _, r := range have {
		causes[r] = d.obsolete(svc, r, policy)
	}
	// What is too many is taken from the end: obsolete ones first, then those
	// with the highest numbers.
	slices.SortStableFunc(have, func(a, b *Replica) int {
		return cmp.Or(compareBool(causes[a] != "", causes[b] != ""), cmp.Compare(a.Number, b.Number))
	})
	kept := have[:min(want, len(have))]
	for _, r := range have[len(kept):] {
		d.remove(r, fmt.Sprintf("scale %d -> %d", len(have), want), nil)
	}
	slices.SortStableFunc(kept, func(a, b *Replica) int { return cmp.Compare(a.Number, b.Number) })

	last := 0
	for _, r := range d.observed[svc.Name] {
		last = max(last, r.Number)
	}
	for _, r := range kept {
		s := &slot{service: svc.Name, name: r.Name, number: r.Number, was: r}
		if cause := causes[r]; cause != "" {
			s.name = d.name(svc, r.Number)
			s.made = d.recreate(svc, r, s.name, cause)
		}
		d.slots[svc.Name] = append(d.slots[svc.Name], s)
	}
	for range want - len(kept) {
		s := &slot{service: svc.Name}
		cause := notFound(svc.Pos)
		switch {
		case len(freed) > 0:
			s.number, freed, cause = freed[0], freed[1:], "its volume changed"
		default:
			last++
			s.number = last
			if len(have) > 0 {
				cause = fmt.Sprintf("scale %d -> %d", len(have), want)
			}
		}
		s.name = d.name(svc, s.number)
		needs := d.needs(svc)
		s.made = d.add(Step{Verb: Create, Noun: ReplicaNoun, Name: s.name, Cause: cause, Service: svc.Name, Number: s.number}, needs...)
		d.place(s.made, svc)
		d.slots[svc.Name] = append(d.slots[svc.Name], s)
	}
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

func first[T comparable](a, b T) T {
	var zero T
	if a != zero {
		return a
	}
	return b
}

func (d *differ) name(svc *spec.Service, number int) string {
	if svc.ContainerName != "" {
		return svc.ContainerName
	}
	sep := "-"
	if d.p.Compatibility {
		sep = "_"
	}
	return strings.Join([]string{d.p.Name, svc.Name, strconv.Itoa(number)}, sep)
}

// obsolete returns why a replica must be made again, or nothing.
func (d *differ) obsolete(svc *spec.Service, r *Replica, policy RecreatePolicy) string {
	switch policy {
	case RecreateNever:
		return ""
	case RecreateForce:
		return "forced"
	}
	for _, shared := range tied(svc) {
		if d.remade[shared] != "" {
			return fmt.Sprintf("service %q is recreated", shared)
		}
	}
	if r.Hash != svc.Hash {
		return changed(r.Aspects, svc.Aspects)
	}
	if i, ok := d.s.Images[svc.Image]; ok && i.ID != r.ImageID {
		return fmt.Sprintf("image %s changed", svc.Image)
	}
	if r.Status == StatusDead {
		return "half made, or its machine crashed"
	}
	if cause := d.provided(svc.Name, r); cause != "" {
		return cause
	}
	for _, key := range sortedKeys(svc.Networks) {
		if n := d.p.Networks[key]; n != nil && !slices.Contains(r.Networks, n.Name) {
			return fmt.Sprintf("network %q changed", key)
		}
	}
	for _, m := range svc.MachineMounts() {
		if v := d.p.Volumes[m.Source]; m.Type == spec.MountVolume && v != nil && !slices.Contains(r.Volumes, v.Name) {
			return fmt.Sprintf("volume %q changed", m.Source)
		}
	}
	return ""
}

// recreate plans a replica's replacement. Dependents that asked for it are
// stopped before, and started again after.
func (d *differ) recreate(svc *spec.Service, r *Replica, name, cause string) *node {
	needs := d.needs(svc)
	for _, user := range d.users[svc.Name] {
		if d.deps[user][svc.Name].Restart {
			for _, u := range d.observed[user] {
				needs = append(needs, d.stopFirst(u, fmt.Sprintf("service %q is recreated", svc.Name)))
			}
		}
	}
	needs = append(needs, d.emptyMachine(svc, r)...)
	n := d.replica(Recreate, r, cause, append(needs, d.stops[r.ID])...)
	n.Name = name
	d.place(n, svc)
	if d.opt.RenewAnonymous {
		n.Discard, n.Destructive = r.Anonymous, len(r.Anonymous) > 0
	} else {
		n.Inherit = r.Anonymous
	}
	if name != r.Name {
		d.names[r.Name] = n
	}
	d.leaving[r.ID] = n
	d.remade[svc.Name] = cause
	return n
}

// needs are the steps that making a replica waits for: its images, networks and
// volumes, nothing else.
func (d *differ) needs(svc *spec.Service) []*node {
	var out []*node
	for _, c := range svc.Containers() {
		out = append(out, d.image(c))
	}
	for _, key := range sortedKeys(svc.Networks) {
		out = append(out, d.networks[key])
	}
	for _, m := range svc.MachineMounts() {
		if m.Type == spec.MountVolume {
			out = append(out, d.volumes[m.Source])
		}
	}
	return slices.Concat(out, d.providersOf(svc.Name), d.hosts(svc))
}

// image returns the pull that a new replica of a service waits for, if any.
func (d *differ) image(svc *spec.Service) *node {
	if n := d.images[svc.Image]; n != nil {
		return n
	}
	if _, ok := d.s.Images[svc.Image]; ok {
		return nil
	}
	policy := d.pullPolicy(svc)
	switch {
	case d.onlyBuilt(svc) || svc.Build && policy == "build":
		d.fault(first(svc.Keys["build"], svc.Pos), "build it elsewhere and push it, then name it with image:",
			"service %q: its image %s is not there, and building is not supported yet", svc.Name, svc.Image)
		return nil
	case !Fetches(policy, nil, d.opt.Now):
		d.fault(first(svc.Keys["image"], svc.Pos), "pull it first, or leave the pull policy out",
			"service %q: image %s is not there, and its pull policy is never", svc.Name, svc.Image)
		return nil
	}
	n := d.pull(svc, notFound(first(svc.Keys["image"], svc.Pos)))
	for i := range d.s.Replicas { // made when the store had it: what is pulled now may be newer
		n.Refresh = n.Refresh || d.s.Replicas[i].Image == svc.Image
	}
	return n
}

// chooseStarts finds the replicas that have to be started: users before what
// they depend on, because whether a one-shot runs again is up to its users.
func (d *differ) chooseStarts() {
	d.starting = make(map[string][]*slot, len(d.order))
	for _, name := range slices.Backward(d.order) {
		var starting []*slot
		for _, s := range d.slots[name] {
			if s.made != nil || d.stops[s.was.ID] != nil || s.was.Status != StatusRunning && s.was.Status != StatusRestarting {
				starting = append(starting, s)
			}
		}
		if !d.alreadyRan(name, starting) {
			d.starting[name] = starting
		}
	}
}

// alreadyRan tells whether a service that others wait to complete has done so,
// and none of them starts now. docker compose would run it once more on every
// up; then no second plan were ever empty.
func (d *differ) alreadyRan(service string, starting []*slot) bool {
	if len(d.opt.Services) > 0 && d.targeted(service) {
		return false
	}
	for _, s := range starting {
		if s.made != nil || s.was.Status != StatusExited || s.was.ExitCode != 0 || d.stops[s.was.ID] != nil {
			return false
		}
	}
	waited := false
	for _, user := range d.users[service] {
		waited = waited || d.deps[user][service].Condition == spec.ConditionCompleted
		if len(d.starting[user]) > 0 {
			return false
		}
	}
	return waited
}

// planStart starts a service's replicas, each when it is made and the
// conditions of its dependencies hold.
func (d *differ) planStart(svc *spec.Service) {
	if n := d.providers[svc.Name]; n != nil {
		n.need(d.conditions(svc.Name)...)
	}
	starting := d.starting[svc.Name]
	if len(starting) == 0 {
		return
	}
	needs := append(d.conditions(svc.Name), d.orphans...)
	after := make([][]*node, len(starting))
	for i, s := range starting {
		after[i] = append(slices.Clone(needs), s.made)
		if released := d.released(svc, s); s.made != nil {
			s.made.need(released...)
		} else {
			after[i] = append(append(after[i], d.stops[s.was.ID]), released...)
			for _, key := range sortedKeys(svc.Networks) {
				after[i] = append(after[i], d.networks[key])
			}
		}
		after[i] = append(after[i], d.sharedNeeds(d.volumesOf(svc))...)
	}
	d.preStart(hooksOf(svc), starting, after, func(i int) string { return "pre_start" + where(svc.PreStart[i].Container.Pos) })
	for i, s := range starting {
		if s.made == nil {
			cause := "is " + string(s.was.Status)
			if stop := d.stops[s.was.ID]; stop != nil {
				cause = "was stopped: " + stop.Cause
			}
			s.start = d.replica(Start, s.was, cause, after[i]...)
		} else {
			s.made.Boot = !svc.Shared() // else the machine is there, or boots for another
			s.start = d.add(Step{Verb: Start, Noun: ReplicaNoun, Name: s.name, Cause: "new", Service: s.service, Number: s.number}, after[i]...)
		}
	}
}

// planRestarts starts what had to stop for a network to be made anew, or a volume
// to move, although it is not of a service in scope.
func (d *differ) planRestarts() {
	planned := make(map[string]bool, len(d.s.Replicas))
	for _, slots := range d.slots {
		for _, s := range slots {
			if s.was != nil {
				planned[s.was.ID] = true
			}
		}
	}
	for i := range d.s.Replicas {
		r := &d.s.Replicas[i]
		stop := d.stops[r.ID]
		if stop == nil || planned[r.ID] || d.leaving[r.ID] != nil {
			continue
		}
		after := []*node{stop}
		for _, n := range d.nodes {
			if n.Verb == Recreate && n.Noun == NetworkNoun && slices.Contains(r.Networks, n.Name) {
				after = append(after, n)
			}
		}
		after = append(after, d.sharedNeeds(r.Volumes)...)
		d.replica(Start, r, "was stopped: "+stop.Cause, after...)
	}
}

// released are the steps after which the volumes of a replica are in no other
// machine, or in the storage machine: a disk is in one at a time.
func (d *differ) released(svc *spec.Service, s *slot) []*node {
	var out []*node
	for _, m := range svc.MachineMounts() {
		v := d.p.Volumes[m.Source]
		if m.Type != spec.MountVolume || v == nil {
			continue
		}
		if d.served[v.Name] || d.moved[v.Name] != nil {
			out = append(out, d.moved[v.Name])
			continue
		}
		for _, r := range d.holding[v.Name] {
			if s.was != nil && s.was.ID == r.ID {
				continue
			}
			holder := d.p.Services[r.Service]
			if holder != nil && holder.Machine != nil && d.machine(svc, s.name) == d.machine(holder, r.Name) && r.Aspects[machineAspect] == holder.Aspects[machineAspect] {
				continue // in the same machine
			}
			stop := d.stopFirst(r, fmt.Sprintf("volume %s moves to service %q", v.Name, svc.Name))
			if n := d.leaving[r.ID]; n != nil {
				n.need(stop)
			}
			out = append(out, stop)
		}
	}
	return out
}

// conditions are the steps after which a service's dependencies are as it asks.
func (d *differ) conditions(service string) []*node {
	var out []*node
	for _, dep := range sortedKeys(d.deps[service]) {
		how := d.deps[service][dep]
		out = append(out, d.providers[dep])
		for _, s := range d.slots[dep] {
			out = append(out, d.condition(s, how, service))
		}
	}
	return out
}

// condition returns the step after which a condition of a replica holds; nil if
// it holds already.
func (b *builder) condition(s *slot, how spec.Dependency, forService string) *node {
	cause := how.Condition + " for " + forService
	switch how.Condition {
	case spec.ConditionHealthy:
		if s.start == nil && s.was != nil && s.was.Status == StatusRunning && s.was.Health == "healthy" {
			return nil
		}
	case spec.ConditionCompleted:
		if s.start == nil && s.was != nil && s.was.Status == StatusExited && s.was.ExitCode == 0 {
			return nil
		}
	default:
		if s.start == nil || how.Required {
			return s.start
		}
	}
	return b.wait(s, how.Condition, cause, !how.Required)
}

// planWait waits until everything is up (--wait): running, healthy where there
// is a probe, or completed where another service waits for that.
func (d *differ) planWait() {
	completes := map[string]bool{}
	for _, deps := range d.deps {
		for dep, how := range deps {
			if how.Condition == spec.ConditionCompleted {
				completes[dep] = true
			}
		}
	}
	for _, name := range d.order {
		for _, s := range d.slots[name] {
			if s.start == nil && !holds(s.was.Status) {
				continue // ran already
			}
			switch {
			case completes[name]:
				d.wait(s, spec.ConditionCompleted, "--wait", false)
			case s.isUp():
			case d.waits[spec.ConditionHealthy+" "+s.name] != nil:
				d.waits[spec.ConditionHealthy+" "+s.name].Optional = false
			default:
				d.wait(s, RunningOrHealthy, "--wait", false)
			}
		}
	}
}

// isUp tells whether a replica is already what --wait asks for, and stays so. One
// that its policy is about to restart is not.
func (s *slot) isUp() bool {
	return s.start == nil && s.was.Status == StatusRunning && (s.was.Health == "" || s.was.Health == "healthy")
}

// checkNames refuses a replica whose name another one has.
func (d *differ) checkNames() {
	owner := make(map[string]*Replica, len(d.s.Replicas))
	for i := range d.s.Replicas {
		owner[d.s.Replicas[i].Name] = &d.s.Replicas[i]
	}
	taken := make(map[string]string, len(d.order))
	for _, name := range d.order {
		svc := d.p.Services[name]
		for _, s := range d.slots[name] {
			if by, ok := taken[s.name]; ok {
				d.fault(first(svc.Keys["container_name"], svc.Pos), "", "container name %q is already in use by service %s", s.name, by)
			}
			taken[s.name] = name
			o := owner[s.name]
			if s.made == nil || o == nil || s.was != nil && o.ID == s.was.ID {
				continue
			}
			if free := d.names[s.name]; free != nil {
				s.made.need(free)
				continue
			}
			d.fault(first(svc.Keys["container_name"], svc.Pos), "remove it, or choose another name",
				"service %q: container name %q is already in use by a replica of service %q", name, s.name, o.Service)
		}
	}
}
