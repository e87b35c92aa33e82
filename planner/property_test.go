package planner_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/spec"
	"pgregory.net/rapid"
)

var (
	serviceNames = []string{"a", "b", "c", "d", "e"}
	networkKeys  = []string{"default", "front", "back"}
	volumeKeys   = []string{"v1", "v2", "v3", "v4"}
	images       = []string{"x:1", "y:1", "z:1"}
)

// drawProject draws a project: services may depend on those before them, so
// that there is no cycle; volumes have any number of users.
func drawProject(t *rapid.T, label string) *spec.Project {
	p := &spec.Project{Name: "shop", Services: map[string]*spec.Service{}, Networks: map[string]*spec.Network{}, Volumes: map[string]*spec.Volume{}}
	version := func(what string) string { return what + rapid.SampledFrom([]string{"1", "2"}).Draw(t, label+what) }
	for _, key := range networkKeys {
		p.Networks[key] = &spec.Network{Key: key, Name: "shop_" + version(key), Hash: version("hash of " + key)}
	}
	for _, key := range volumeKeys {
		p.Volumes[key] = &spec.Volume{Key: key, Name: "shop_" + version(key), Hash: version("hash of " + key)}
	}
	var before []string
	for _, name := range rapid.Permutation(serviceNames).Draw(t, label+" order") {
		if rapid.IntRange(0, 3).Draw(t, label+" has "+name) == 0 {
			continue
		}
		s := &spec.Service{
			Name: name, Image: rapid.SampledFrom(images).Draw(t, label+" image"), Hash: version(name),
			Aspects: map[string]string{"command": version(name)}, Scale: rapid.IntRange(0, 3).Draw(t, label+" scale"),
			Networks: map[string]spec.Attachment{}, DependsOn: map[string]spec.Dependency{},
			PullPolicy: rapid.SampledFrom([]string{"", "", "missing", "always", "daily"}).Draw(t, label+" policy"),
		}
		for _, key := range networkKeys {
			if rapid.Bool().Draw(t, label+" on "+key) {
				s.Networks[key] = spec.Attachment{}
			}
		}
		if rapid.Bool().Draw(t, label+" anonymous") {
			s.Mounts = append(s.Mounts, spec.Mount{Type: spec.MountVolume, Target: "/anonymous"})
		}
		if rapid.Bool().Draw(t, label+" probe") {
			s.Healthcheck = &spec.Healthcheck{Test: []string{"CMD", "true"}}
		}
		for range rapid.IntRange(0, 2).Draw(t, label+" hooks") {
			tool := &spec.Service{Name: name, Image: rapid.SampledFrom(images).Draw(t, label+" hook's image")}
			s.PreStart = append(s.PreStart, spec.PreStart{Container: tool, PerReplica: rapid.Bool().Draw(t, label+" per replica")})
		}
		for _, key := range volumeKeys {
			if rapid.IntRange(0, 3).Draw(t, label+" volume") == 0 {
				s.Mounts = append(s.Mounts, spec.Mount{Type: spec.MountVolume, Source: key, Target: "/" + key})
			}
		}
		for _, dep := range before {
			if rapid.IntRange(0, 2).Draw(t, label+" depends") == 0 {
				s.DependsOn[dep] = spec.Dependency{
					Condition: rapid.SampledFrom([]string{spec.ConditionStarted, spec.ConditionHealthy, spec.ConditionCompleted}).Draw(t, label+" condition"),
					Restart:   rapid.Bool().Draw(t, label+" restart"), Required: rapid.Bool().Draw(t, label+" required"),
				}
			}
		}
		s.Hash = fmt.Sprint(s.Hash, s.Image, slices.Sorted(maps.Keys(s.Networks)), s.Mounts, len(s.PreStart))
		before = append(before, name)
		p.Services[name] = s
	}
	return p
}

// drawState draws what may be left of a project: all of it, some of it, in any
// state, half made, with orphans and one-offs.
func drawState(t *rapid.T, p *spec.Project) planner.State {
	s := planner.State{Images: map[string]planner.Image{}}
	for _, ref := range images {
		if rapid.Bool().Draw(t, "has "+ref) {
			age := time.Duration(rapid.IntRange(1, 48).Draw(t, "age")) * time.Hour
			s.Images[ref] = planner.Image{ID: rapid.SampledFrom([]string{"id1", "id2"}).Draw(t, "id of "+ref), Pulled: now.Add(-age)}
		}
	}
	for _, key := range networkKeys {
		if n := p.Networks[key]; rapid.Bool().Draw(t, "has "+key) {
			s.Networks = append(s.Networks, planner.Network{ID: key, Name: n.Name, Key: key, Hash: n.Hash, Project: "shop"})
		}
	}
	for _, key := range volumeKeys {
		if v := p.Volumes[key]; rapid.Bool().Draw(t, "has "+key) {
			s.Volumes = append(s.Volumes, planner.Volume{Name: v.Name, Key: key, Hash: v.Hash, Project: "shop"})
		}
	}
	for _, v := range s.Volumes {
		if rapid.IntRange(0, 2).Draw(t, "served "+v.Name) == 0 {
			s.Storage.Name, s.Storage.Volumes = "shop", append(s.Storage.Volumes, v.Name)
			s.Storage.Running = rapid.Bool().Draw(t, "storage runs")
		}
	}
	slices.Sort(s.Storage.Volumes)
	for _, name := range serviceNames {
		svc := p.Services[name]
		if svc == nil {
			continue
		}
		n := rapid.IntRange(0, 3).Draw(t, "replicas of "+name)
		for i := range n {
			r := planner.Replica{
				ID: fmt.Sprintf("%s-%d", name, i), Name: fmt.Sprintf("shop-%s-%d", name, 2*i+1), Service: name, Number: 2*i + 1,
				Status: rapid.SampledFrom([]planner.Status{
					planner.StatusCreated, planner.StatusRunning, planner.StatusRunning, planner.StatusRunning,
					planner.StatusPaused, planner.StatusRestarting, planner.StatusExited, planner.StatusDead,
				}).Draw(t, "status"),
				Health:   rapid.SampledFrom([]string{"", "healthy", "unhealthy", "starting"}).Draw(t, "health"),
				ExitCode: rapid.SampledFrom([]int{0, 0, 1}).Draw(t, "exit"),
				Hash:     svc.Hash, Aspects: svc.Aspects, Image: svc.Image, ImageID: rapid.SampledFrom([]string{"id1", "id2"}).Draw(t, "made from"),
				DependsOn: map[string]string{},
			}
			for key := range svc.Networks {
				r.Networks = append(r.Networks, p.Networks[key].Name)
			}
			for _, m := range svc.Mounts {
				if m.Source != "" {
					r.Volumes = append(r.Volumes, p.Volumes[m.Source].Name)
				} else {
					r.Anonymous = append(r.Anonymous, "anonymous of "+r.ID)
					s.Volumes = append(s.Volumes, planner.Volume{Name: "anonymous of " + r.ID, Project: "shop", Anonymous: true})
				}
			}
			slices.Sort(r.Networks)
			slices.Sort(r.Volumes)
			for dep, how := range svc.DependsOn {
				r.DependsOn[dep] = how.Condition
			}
			s.Replicas = append(s.Replicas, r)
		}
	}
	if rapid.Bool().Draw(t, "one-off") {
		s.Replicas = append(s.Replicas, planner.Replica{
			ID: "run", Name: "shop-a-run-0", Service: "a", OneOff: true,
			Status: rapid.SampledFrom([]planner.Status{planner.StatusExited, planner.StatusRunning}).Draw(t, "status of it"),
		})
	}
	return s
}

func drawOptions(t *rapid.T, p *spec.Project) planner.Options {
	o := planner.Options{
		Now:             now,
		RemoveOrphans:   rapid.Bool().Draw(t, "--remove-orphans"),
		RecreateVolumes: rapid.IntRange(0, 3).Draw(t, "recreate volumes") == 0,
		RenewAnonymous:  rapid.IntRange(0, 3).Draw(t, "-V") == 0,
		NoStart:         rapid.IntRange(0, 5).Draw(t, "--no-start") == 0,
		NoDeps:          rapid.IntRange(0, 5).Draw(t, "--no-deps") == 0,
		Wait:            rapid.Bool().Draw(t, "--wait"),
		Pull:            rapid.SampledFrom([]string{"", "", "always", "missing"}).Draw(t, "--pull"),
	}
	if rapid.IntRange(0, 3).Draw(t, "targeted") == 0 {
		for _, name := range serviceNames {
			if p.Services[name] != nil && rapid.Bool().Draw(t, "target "+name) {
				o.Services = append(o.Services, name)
			}
		}
	}
	return o
}

// TestDiffConverges checks, for random projects and random remains of older
// ones, what up promises: the plan makes the project what the file says, a
// second plan is empty, no step comes before its needs, and no volume goes
// unless the user asked for that.
func TestDiffConverges(t *testing.T) {
	refused := 0
	rapid.Check(t, func(t *rapid.T) {
		old, desired := drawProject(t, "old"), drawProject(t, "new")
		state, opt := drawState(t, old), drawOptions(t, desired)
		p, err := planner.Diff(desired, state, opt)
		if err != nil {
			refused++ // an orphan holds a volume, a one-off a network
			return
		}
		if r := p.Refresh(); !r.Empty() { // as whoever carries it out must
			checkPlan(t, r)
			state = planner.Apply(state, r, desired, now)
			if p, err = planner.Diff(desired, state, opt); err != nil {
				t.Fatal(err)
			}
			if !p.Refresh().Empty() {
				t.Fatalf("refreshed, and again\n%s", p)
			}
		}
		checkPlan(t, p)
		checkNeeds(t, p, desired, state, scope(desired, opt))
		checkData(t, p, opt.RecreateVolumes, opt.RenewAnonymous, state)
		after := planner.Apply(state, p, desired, now)
		checkDesired(t, desired, after, opt)
		in := scope(desired, opt)
		for _, r := range state.Replicas { // what is not planned for is let be
			now := replica(after, r.ID)
			if !in[r.Service] && now.ID != "" && !opt.NoStart && r.Status == planner.StatusRunning && now.Status != planner.StatusRunning {
				t.Fatalf("%s is %s\n%s", r.Name, now.Status, p)
			}
		}

		again, err := planner.Diff(desired, after, opt)
		if err != nil {
			t.Fatalf("a second plan: %v", err)
		}
		for _, step := range again.Steps {
			// A one-shot that is named runs each time it is named, and with it
			// those it waits for.
			if r := replica(after, step.Replica); len(opt.Services) > 0 && r.Status == planner.StatusExited && r.ExitCode == 0 {
				continue
			}
			t.Fatalf("a second plan is not empty:\n%safter\n%s", again, p)
		}
		same, _ := planner.Diff(desired, state, opt)
		if same.String() != p.String() {
			t.Fatalf("equal arguments give\n%sand\n%s", p, same)
		}

		// A failure anywhere leaves something that the next up goes on from.
		if n := len(p.Steps); n > 0 {
			half := p
			half.Steps = p.Steps[:rapid.IntRange(0, n-1).Draw(t, "failed after")]
			mid := planner.Apply(state, half, desired, now)
			rest, err := planner.Diff(desired, mid, opt)
			if err != nil {
				t.Fatalf("after a failure: %v", err)
			}
			checkDesired(t, desired, planner.Apply(mid, rest, desired, now), opt)
		}

		down, err := planner.Down(after, desired, "shop", planner.DownOptions{RemoveOrphans: true})
		if err != nil {
			t.Fatal(err)
		}
		checkPlan(t, down)
		checkData(t, down, false, false, after)
		gone := planner.Apply(after, down, desired, now)
		if len(gone.Replicas) > 0 || len(gone.Networks) > 0 {
			t.Fatalf("down leaves %+v %+v", gone.Replicas, gone.Networks)
		}
	})
	t.Logf("%d projects were refused", refused)
}

func replica(s planner.State, id string) planner.Replica {
	for _, r := range s.Replicas {
		if r.ID == id {
			return r
		}
	}
	return planner.Replica{}
}

// scope is the services that options plan.
func scope(p *spec.Project, opt planner.Options) map[string]bool {
	in := map[string]bool{}
	var add func(string)
	add = func(name string) {
		if in[name] {
			return
		}
		in[name] = true
		if !opt.NoDeps {
			for dep := range p.Services[name].DependsOn {
				add(dep)
			}
		}
	}
	for name := range p.Services {
		if len(opt.Services) == 0 || slices.Contains(opt.Services, name) {
			add(name)
		}
	}
	return in
}

func checkDesired(t *rapid.T, p *spec.Project, s planner.State, opt planner.Options) {
	t.Helper()
	for name := range scope(p, opt) {
		svc := p.Services[name]
		var numbers []int
		for _, r := range s.Replicas {
			if r.Service != name || r.OneOff {
				continue
			}
			numbers = append(numbers, r.Number)
			if r.Hash != svc.Hash {
				t.Fatalf("%s is made from %s, not from %s", r.Name, r.Hash, svc.Hash)
			}
			if img, ok := s.Images[svc.Image]; ok && img.ID != r.ImageID {
				t.Fatalf("%s is made from image %s, not from %s", r.Name, r.ImageID, img.ID)
			}
			ran := r.Status == planner.StatusExited && r.ExitCode == 0
			if !opt.NoStart && r.Status != planner.StatusRunning && r.Status != planner.StatusRestarting && !ran {
				t.Fatalf("%s is %s", r.Name, r.Status)
			}
			for key := range svc.Networks {
				if !slices.Contains(r.Networks, p.Networks[key].Name) {
					t.Fatalf("%s is not on %s", r.Name, key)
				}
			}
		}
		slices.Sort(numbers)
		if len(numbers) != svc.Scale || len(slices.Compact(numbers)) != svc.Scale {
			t.Fatalf("service %s has replicas %v, not %d", name, numbers, svc.Scale)
		}
		if svc.Scale == 0 {
			continue
		}
		for key := range svc.Networks {
			if !slices.ContainsFunc(s.Networks, func(n planner.Network) bool { return n.Name == p.Networks[key].Name && n.Hash == p.Networks[key].Hash }) {
				t.Fatalf("network %s is not there as asked", key)
			}
		}
		for _, m := range svc.Mounts {
			if v := p.Volumes[m.Source]; v != nil && !slices.ContainsFunc(s.Volumes, func(o planner.Volume) bool { return o.Name == v.Name }) {
				t.Fatalf("volume %s is not there", m.Source)
			}
		}
	}
	if opt.RemoveOrphans {
		for _, r := range s.Replicas {
			if p.Services[r.Service] == nil && !(r.OneOff && r.Status == planner.StatusRunning) {
				t.Fatalf("orphan %s is left", r.Name)
			}
		}
	}
}

// checkNeeds replays a plan with every step as late as its edges allow: what a
// step uses must be there because of its edges, not because of luck.
func checkNeeds(t *rapid.T, p planner.Plan, desired *spec.Project, s planner.State, in map[string]bool) {
	t.Helper()
	before := make([]map[int]bool, len(p.Steps)+1) // all that must have happened
	for i, step := range p.Steps {
		before[i+1] = map[int]bool{}
		for _, a := range step.After {
			before[i+1][a] = true
			for b := range before[a] {
				before[i+1][b] = true
			}
		}
	}
	must := func(step planner.Step, verb planner.Verb, noun planner.Noun, name string) {
		for _, other := range p.Steps {
			if other.Verb == verb && other.Noun == noun && other.Name == name && other.ID != step.ID && !before[step.ID][other.ID] {
				t.Fatalf("%d %s %s does not wait for %d %s %s %s\n%s", step.ID, step.Verb, step.Name, other.ID, verb, noun, name, p)
			}
		}
	}
	after := planner.Apply(s, p, desired, now)
	for _, step := range p.Steps {
		if step.Verb == planner.Attach || step.Verb == planner.Detach {
			for _, r := range s.Replicas { // nobody has it while it moves
				up := r.Status == planner.StatusRunning || r.Status == planner.StatusPaused || r.Status == planner.StatusRestarting
				if !up || r.OneOff || !slices.Contains(r.Volumes, step.Name) {
					continue
				}
				must(step, planner.Stop, planner.ReplicaNoun, r.Name)
				if !slices.ContainsFunc(p.Steps, func(o planner.Step) bool { return o.Verb == planner.Stop && o.Replica == r.ID }) {
					t.Fatalf("%s %s while %s has it\n%s", step.Verb, step.Name, r.Name, p)
				}
			}
		}
		svc := desired.Services[step.Service]
		if step.Noun != planner.ReplicaNoun && step.Noun != planner.HookNoun || svc == nil {
			continue
		}
		switch step.Verb {
		case planner.Create, planner.Recreate:
			for _, c := range svc.Containers() {
				must(step, planner.Pull, planner.ImageNoun, c.Image)
			}
			for key := range svc.Networks {
				must(step, planner.Create, planner.NetworkNoun, desired.Networks[key].Name)
				must(step, planner.Recreate, planner.NetworkNoun, desired.Networks[key].Name)
			}
			for _, m := range svc.Mounts {
				v := desired.Volumes[m.Source]
				if v == nil {
					continue
				}
				must(step, planner.Create, planner.VolumeNoun, v.Name)
				must(step, planner.Recreate, planner.VolumeNoun, v.Name)
				if !step.Boot {
					continue
				}
				must(step, planner.Attach, planner.VolumeNoun, v.Name)
				must(step, planner.Detach, planner.VolumeNoun, v.Name)
				if slices.Contains(s.Storage.Volumes, v.Name) && slices.Contains(after.Storage.Volumes, v.Name) {
					continue // in the storage machine all the time
				}
				for _, r := range s.Replicas { // whoever holds the disk lets go first
					if slices.Contains(r.Volumes, v.Name) && r.ID != step.Replica {
						must(step, planner.Stop, planner.ReplicaNoun, r.Name)
					}
				}
			}
			must(step, planner.Stop, planner.ReplicaNoun, step.Name)
			starts := slices.ContainsFunc(p.Steps, func(o planner.Step) bool { return o.Verb == planner.Start && o.Name == step.Name })
			if starts != step.Boot {
				t.Fatalf("%s: boot is %v, started later: %v", step.Name, step.Boot, starts)
			}
		case planner.Start:
			must(step, planner.Create, planner.ReplicaNoun, step.Name)
			must(step, planner.Recreate, planner.ReplicaNoun, step.Name)
			must(step, planner.Stop, planner.ReplicaNoun, step.Name)
			if !in[step.Service] {
				continue // started again after a network was made anew, as it was
			}
			for _, m := range svc.Mounts {
				if v := desired.Volumes[m.Source]; v != nil {
					must(step, planner.Attach, planner.VolumeNoun, v.Name)
					must(step, planner.Detach, planner.VolumeNoun, v.Name)
					if slices.Contains(after.Storage.Volumes, v.Name) {
						must(step, planner.Start, planner.StorageNoun, "shop")
						if !after.Storage.Running {
							t.Fatalf("%s starts without the storage machine\n%s", step.Name, p)
						}
					}
				}
			}
			if replica(s, step.Replica).Status != planner.StatusPaused {
				ran := map[int]bool{}
				for _, other := range p.Steps {
					if other.Verb == planner.Run && other.Service == step.Service && before[step.ID][other.ID] {
						ran[other.Hook] = true
					}
				}
				if len(ran) != len(svc.PreStart) {
					t.Fatalf("%s starts after hooks %v of %d\n%s", step.Name, ran, len(svc.PreStart), p)
				}
			}
			for dep, how := range svc.DependsOn {
				if !in[dep] {
					continue // --no-deps
				}
				for _, other := range p.Steps {
					if other.Service != dep || other.Noun != planner.ReplicaNoun {
						continue
					}
					waits := other.Verb == planner.Wait && other.Condition == how.Condition && (how.Condition != spec.ConditionStarted || !how.Required)
					if (other.Verb == planner.Start || waits) && !before[step.ID][other.ID] {
						t.Fatalf("%s starts before %s is %s\n%s", step.Name, other.Name, how.Condition, p)
					}
				}
			}
		case planner.Run:
			must(step, planner.Create, planner.ReplicaNoun, step.Machine)
			must(step, planner.Recreate, planner.ReplicaNoun, step.Machine)
			must(step, planner.Stop, planner.ReplicaNoun, step.Machine)
		case planner.Wait:
			must(step, planner.Start, planner.ReplicaNoun, step.Name)
		}
	}
}

// checkData checks that no data goes unless asked.
func checkData(t *rapid.T, p planner.Plan, recreateVolumes, renew bool, s planner.State) {
	t.Helper()
	for _, step := range p.Steps {
		if step.Noun == planner.VolumeNoun && (step.Verb == planner.Remove || step.Verb == planner.Recreate) && !recreateVolumes {
			t.Fatalf("%s %s without being asked\n%s", step.Verb, step.Name, p)
		}
		if len(step.Discard) > 0 && !renew {
			t.Fatalf("%s %s discards %v without being asked", step.Verb, step.Name, step.Discard)
		}
		if step.Verb == planner.Recreate && step.Noun == planner.ReplicaNoun {
			i := slices.IndexFunc(s.Replicas, func(r planner.Replica) bool { return r.ID == step.Replica })
			if i < 0 {
				t.Fatalf("recreates %s, which is not there", step.Name)
			}
			if !renew && !slices.Equal(step.Inherit, s.Replicas[i].Anonymous) {
				t.Fatalf("%s inherits %v of %v", step.Name, step.Inherit, s.Replicas[i].Anonymous)
			}
		}
	}
}

// BenchmarkDiff plans 1,000 services with 3,000 dependencies: from nothing, and
// when nothing has changed.
func BenchmarkDiff(b *testing.B) {
	const services, edges = 1000, 3000
	p := &spec.Project{
		Name: "big", Services: map[string]*spec.Service{}, Volumes: map[string]*spec.Volume{},
		Networks: map[string]*spec.Network{"default": {Key: "default", Name: "big_default", Hash: "h"}},
	}
	name := func(i int) string { return fmt.Sprintf("s%04d", i) }
	for i := range services {
		key := "v" + name(i)
		p.Volumes[key] = &spec.Volume{Key: key, Name: "big_" + key, Hash: "h"}
		p.Services[name(i)] = &spec.Service{
			Name: name(i), Image: "image" + name(i%50), Hash: "h", Scale: 1, DependsOn: map[string]spec.Dependency{},
			Networks: map[string]spec.Attachment{"default": {}}, Mounts: []spec.Mount{{Type: spec.MountVolume, Source: key, Target: "/data"}},
		}
	}
	conditions := []string{spec.ConditionStarted, spec.ConditionHealthy, spec.ConditionCompleted}
	for n := 0; n < edges; {
		for i := 1; i < services && n < edges; i++ {
			to := name((i * (7 + n/services*13)) % i)
			if n >= services {
				to = name((n * 31) % i)
			}
			if _, ok := p.Services[name(i)].DependsOn[to]; ok && n < edges-services/2 {
				to = name(i - 1)
			}
			p.Services[name(i)].DependsOn[to] = spec.Dependency{Condition: conditions[n%2], Required: true}
			n++
		}
	}
	fresh, err := planner.Diff(p, planner.State{}, planner.Options{Now: now})
	if err != nil {
		b.Fatal(err)
	}
	up := planner.Apply(planner.State{}, fresh, p, now)
	for _, c := range []struct {
		name  string
		state planner.State
		steps int
	}{{"fresh", planner.State{}, len(fresh.Steps)}, {"unchanged", up, 0}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				plan, err := planner.Diff(p, c.state, planner.Options{Now: now})
				if err != nil || len(plan.Steps) != c.steps {
					b.Fatalf("%d steps: %v", len(plan.Steps), err)
				}
			}
			b.ReportMetric(float64(c.steps), "steps")
		})
	}
}

// TestLifecycleConverges: what is stopped is stopped, in reverse order; what is
// started runs; what is removed is gone; and none of them has more to do.
func TestLifecycleConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawProject(t, "")
		s := drawState(t, p)
		file := p
		if rapid.Bool().Draw(t, "no file") {
			file = nil
		}
		type command func(planner.State, *spec.Project, string, planner.Selection) (planner.Plan, error)
		carry := func(name string, do command, sel planner.Selection, s planner.State) (planner.Plan, planner.State) {
			plan, err := do(s, file, "shop", sel)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			checkPlan(t, plan)
			after := planner.Apply(s, plan, p, now)
			again, err := do(after, file, "shop", sel)
			if err != nil || !again.Empty() {
				t.Fatalf("%s again: %v\n%safter\n%s", name, err, again, plan)
			}
			return plan, after
		}
		stop, stopped := carry("stop", planner.StopAll, planner.Selection{}, s)
		for _, r := range stopped.Replicas {
			if !r.OneOff && (r.Status == planner.StatusRunning || r.Status == planner.StatusPaused || r.Status == planner.StatusRestarting) {
				t.Fatalf("%s is %s after stop", r.Name, r.Status)
			}
		}
		checkReverse(t, stop, p, func(service string) bool { // without the file, what was never made is not known to depend
			return file != nil || slices.ContainsFunc(s.Replicas, func(r planner.Replica) bool { return r.Service == service && r.DependsOn != nil })
		})

		_, removed := carry("rm", planner.RemoveAll, planner.Selection{Stop: true}, s)
		for _, r := range removed.Replicas {
			if !r.OneOff {
				t.Fatalf("%s is there after rm", r.Name)
			}
		}

		start, err := planner.StartAll(stopped, nil, "shop", planner.Selection{})
		if none := !slices.ContainsFunc(stopped.Replicas, func(r planner.Replica) bool { return !r.OneOff }); err != nil || none {
			if !none || err == nil || err.Error() != `no container found for project "shop": not found` {
				t.Fatalf("start: %v", err)
			}
			return
		}
		checkPlan(t, start)
		for _, r := range planner.Apply(stopped, start, p, now).Replicas {
			if !r.OneOff && r.Status != planner.StatusRunning && (r.Status != planner.StatusExited || r.ExitCode != 0) {
				t.Fatalf("%s is %s after start\n%s", r.Name, r.Status, start)
			}
		}
	})
}

// checkReverse checks that a service stops after all that depend on it, also
// through services that have nothing to stop.
func checkReverse(t *rapid.T, plan planner.Plan, p *spec.Project, known func(string) bool) {
	t.Helper()
	before := make([]map[int]bool, len(plan.Steps)+1)
	for _, step := range plan.Steps {
		before[step.ID] = map[int]bool{}
		for _, a := range step.After {
			before[step.ID][a] = true
			maps.Copy(before[step.ID], before[a])
		}
	}
	var needs func(from, to string) bool
	needs = func(from, to string) bool {
		for dep := range p.Services[from].DependsOn {
			if dep == to || known(dep) && needs(dep, to) {
				return true
			}
		}
		return false
	}
	for _, a := range plan.Steps {
		for _, b := range plan.Steps {
			if a.Service != "" && needs(a.Service, b.Service) && !before[b.ID][a.ID] {
				t.Fatalf("%s may stop before %s, which needs it\n%s", b.Name, a.Name, plan)
			}
		}
	}
}
