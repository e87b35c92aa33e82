package planner_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/spec"
)

var update = flag.Bool("update", false, "rewrite the wanted plans of testdata")

// now is when every command of these tests begins.
var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// TestGolden runs testdata/*.txtar. A file holds:
//
//	compose.yaml   what is asked for; further files may be named in it
//	was.yaml       what the observed replicas, networks and volumes were made
//	               from, where that is not compose.yaml
//	observed       one object a line: "replica NAME STATUS [key=value …]",
//	               "network NAME", "volume NAME", "image REF [id=ID] [age=1h]",
//	               "storage running|stopped [VOLUME …]" (the storage machine);
//	               what is not said is as was.yaml has it
//	command        "up --scale web=2" and the like; "up" if absent
//	want           the plan, its warnings after it; or "error: …"
//
// Every plan that is no error is also carried out on the model.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			sections := map[string]string{}
			dir := t.TempDir()
			for _, f := range ar.Files {
				sections[f.Name] = string(f.Data)
				if err := os.WriteFile(filepath.Join(dir, f.Name), f.Data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			desired := load(t, dir, "compose.yaml", strings.Fields(sections["command"]))
			was := desired
			if _, ok := sections["was.yaml"]; ok {
				was = load(t, dir, "was.yaml", nil)
			}
			observed := parseObserved(t, was, sections["observed"])
			got := run(t, desired, observed, strings.Fields(sections["command"]))
			if *update {
				i := slices.IndexFunc(ar.Files, func(f txtar.File) bool { return f.Name == "want" })
				if i < 0 {
					ar.Files = append(ar.Files, txtar.File{Name: "want"})
					i = len(ar.Files) - 1
				}
				ar.Files[i].Data = []byte(got)
				if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(sections["want"], got); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

func load(t *testing.T, dir, name string, command []string) *spec.Project {
	t.Helper()
	o := spec.Options{Files: []string{filepath.Join(dir, name)}, ProjectName: "shop", Dir: dir, Environ: []string{}, HashKey: []byte("key")}
	for i, arg := range command {
		if arg == "--profile" {
			o.Profiles = append(o.Profiles, command[i+1])
		}
	}
	p, _, err := spec.Load(context.Background(), o)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return p
}

// run turns a command into a plan and prints it.
func run(t *testing.T, desired *spec.Project, s planner.State, command []string) string {
	t.Helper()
	if len(command) == 0 {
		command = []string{"up"}
	}
	opt := planner.Options{Now: now}
	down := planner.DownOptions{}
	file := desired
	verb := command[0]
	var services []string
	for i := 1; i < len(command); i++ {
		arg := command[i]
		next := func() string { i++; return command[i] }
		switch arg {
		case "--profile":
			next()
		case "--scale":
			name, n, _ := strings.Cut(next(), "=")
			if opt.Scale == nil {
				opt.Scale = map[string]int{}
			}
			opt.Scale[name], _ = strconv.Atoi(n)
		case "--force-recreate":
			opt.Recreate = planner.RecreateForce
		case "--no-recreate":
			opt.Recreate, opt.RecreateDeps = planner.RecreateNever, planner.RecreateNever
		case "--always-recreate-deps":
			opt.RecreateDeps = planner.RecreateForce
		case "--remove-orphans":
			opt.RemoveOrphans, down.RemoveOrphans = true, true
		case "--renew-anon-volumes":
			opt.RenewAnonymous = true
		case "--recreate-volumes":
			opt.RecreateVolumes = true
		case "--keep-volume":
			opt.KeepVolumes = append(opt.KeepVolumes, next())
		case "--ignore-orphans":
			opt.IgnoreOrphans = true
		case "--no-deps":
			opt.NoDeps = true
		case "--no-start":
			opt.NoStart = true
		case "--wait":
			opt.Wait = true
		case "--include-deps":
			opt.WithDeps = true
		case "--ignore-buildable":
			opt.NoBuildable = true
		case "--pull", "--policy":
			opt.Pull = next()
		case "--no-file":
			file = nil
		case "-v":
			down.Volumes = true
		case "--rmi":
			down.Images = next()
		case "-t":
			n, _ := strconv.Atoi(next())
			d := time.Duration(n) * time.Second
			opt.Timeout, down.Timeout = &d, &d
		default:
			if strings.HasPrefix(arg, "-") {
				t.Fatalf("unknown flag %s", arg)
			}
			services = append(services, arg)
		}
	}
	opt.Services, down.Services = services, services
	sel := planner.Selection{Services: services, Timeout: opt.Timeout, Volumes: down.Volumes, Wait: opt.Wait, NoDeps: opt.NoDeps}
	var p planner.Plan
	var skipped []planner.Skip
	var err error
	switch verb {
	case "up":
		p, err = planner.Diff(desired, s, opt)
	case "down":
		p, err = planner.Down(s, file, "shop", down)
	case "stop":
		p, err = planner.StopAll(s, file, "shop", sel)
	case "autostart": // whatever has exited
		p, err = planner.Resume(s, "shop", func(r *planner.Replica) bool { return r.Status == planner.StatusExited })
	case "start":
		p, err = planner.StartAll(s, file, "shop", sel)
	case "restart":
		p, err = planner.RestartAll(s, file, "shop", sel)
	case "rm":
		p, err = planner.RemoveAll(s, file, "shop", sel)
	case "pull":
		p, skipped, err = planner.PullAll(s, desired, opt)
	default:
		t.Fatalf("unknown command %s", verb)
	}
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	checkPlan(t, p)
	if verb == "up" {
		after := planner.Apply(s, p, desired, now)
		again, err := planner.Diff(desired, after, opt)
		if opt.Recreate != planner.RecreateForce && opt.RecreateDeps != planner.RecreateForce && (err != nil || !again.Empty()) {
			t.Errorf("a second plan is not empty: %v\n%s", err, again)
		}
	}
	out := p.String()
	for _, s := range skipped {
		out += fmt.Sprintf("skip %s of %s: %s\n", s.Image, s.Service, s.Why)
	}
	for _, w := range p.Warnings {
		out += "warning: " + w + "\n"
	}
	return out
}

func parseObserved(t *testing.T, was *spec.Project, text string) planner.State {
	t.Helper()
	s := planner.State{Images: map[string]planner.Image{}}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		attr := map[string]string{}
		var words []string
		for _, w := range f[1:] {
			if k, v, ok := strings.Cut(w, "="); ok && !strings.Contains(k, "/") {
				attr[k] = v
			} else {
				words = append(words, w)
			}
		}
		switch f[0] {
		case "image":
			age, _ := time.ParseDuration(cmpOr(attr["age"], "1h"))
			s.Images[words[0]] = planner.Image{ID: cmpOr(attr["id"], "id-of-"+words[0]), Pulled: now.Add(-age)}
		case "network":
			n := planner.Network{ID: "net-" + words[0], Name: words[0], Project: "shop", Key: attr["key"]}
			for key, w := range was.Networks {
				if w.Name == n.Name {
					n.Key, n.Hash = key, w.Hash
				}
			}
			if p, ok := attr["project"]; ok {
				n.Project = p
			}
			s.Networks = append(s.Networks, n)
		case "volume":
			v := planner.Volume{Name: words[0], Project: "shop", Key: attr["key"], Anonymous: attr["anonymous"] != ""}
			for key, w := range was.Volumes {
				if w.Name == v.Name {
					v.Key, v.Hash = key, w.Hash
				}
			}
			if p, ok := attr["project"]; ok {
				v.Project = p
			}
			s.Volumes = append(s.Volumes, v)
		case "provider": // ran before this command, unless it says now
			if s.Providers == nil {
				s.Providers = map[string]planner.Provider{}
			}
			p := planner.Provider{Ran: now.Add(-time.Hour), Variables: attr["variables"]}
			if slices.Contains(words, "now") {
				p.Ran = now
			}
			if dep := attr["depends"]; dep != "" {
				p.DependsOn = map[string]string{dep: spec.ConditionStarted}
			}
			s.Providers[words[0]] = p
		case "storage": // the storage machine: "storage STATUS VOLUME…"
			s.Storage = planner.Storage{Name: "shop", Running: words[0] == "running", Volumes: words[1:]}
		case "replica":
			s.Replicas = append(s.Replicas, parseReplica(t, was, words, attr))
		default:
			t.Fatalf("observed: %s", line)
		}
	}
	for i := range s.Replicas {
		r := &s.Replicas[i]
		if img, ok := s.Images[r.Image]; ok && r.ImageID == "" {
			r.ImageID = img.ID
		}
	}
	return s
}

func parseReplica(t *testing.T, was *spec.Project, words []string, attr map[string]string) planner.Replica {
	t.Helper()
	name := words[0]
	r := planner.Replica{ID: "id-of-" + name, Name: name, Status: planner.Status(words[1]), DependsOn: map[string]string{}}
	r.OneOff = slices.Contains(words, "oneoff")
	parts := strings.Split(name, "-")
	r.Service = cmpOr(attr["service"], parts[1])
	r.Number, _ = strconv.Atoi(cmpOr(attr["number"], parts[len(parts)-1]))
	r.Health, r.ImageID = attr["health"], attr["imageid"]
	r.ExitCode, _ = strconv.Atoi(attr["exit"])
	if svc := was.Services[r.Service]; svc != nil {
		r.Hash, r.Aspects, r.Image = svc.Hash, svc.Aspects, svc.Image
		for key := range svc.Networks {
			r.Networks = append(r.Networks, was.Networks[key].Name)
		}
		for _, m := range svc.MachineMounts() {
			if m.Type == spec.MountVolume && m.Source != "" {
				r.Volumes = append(r.Volumes, was.Volumes[m.Source].Name)
			}
		}
		for dep, how := range svc.DependsOn {
			r.DependsOn[dep] = how.Condition
		}
		for _, h := range svc.PreStart {
			r.PreStart = append(r.PreStart, planner.Hook{PerReplica: h.PerReplica})
		}
	}
	list := func(key string, to *[]string) {
		if v, ok := attr[key]; ok {
			*to = strings.FieldsFunc(v, func(c rune) bool { return c == ',' })
		}
	}
	list("networks", &r.Networks)
	list("volumes", &r.Volumes)
	list("anonymous", &r.Anonymous)
	if v, ok := attr["depends"]; ok {
		r.DependsOn = map[string]string{}
		for _, d := range strings.Split(v, ",") {
			r.DependsOn[d] = spec.ConditionStarted
		}
	}
	if v, ok := attr["provided"]; ok {
		r.Provided = map[string]string{}
		for _, kv := range strings.Split(v, ",") {
			name, digest, _ := strings.Cut(kv, ":")
			r.Provided[name] = digest
		}
	}
	if v, ok := attr["hash"]; ok {
		r.Hash, r.Aspects = v, nil
	}
	slices.Sort(r.Networks)
	slices.Sort(r.Volumes)
	return r
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// checkPlan checks what holds of every plan.
func checkPlan(t testingT, p planner.Plan) {
	t.Helper()
	for i, s := range p.Steps {
		if s.ID != i+1 {
			t.Errorf("step %d has the number %d", i+1, s.ID)
		}
		if s.Cause == "" || s.Name == "" {
			t.Errorf("step %d has no cause or no name: %+v", s.ID, s)
		}
		for _, a := range s.After {
			if a < 1 || a >= s.ID {
				t.Errorf("step %d comes after step %d", s.ID, a)
			}
		}
		loses := s.Noun == planner.VolumeNoun && (s.Verb == planner.Remove || s.Verb == planner.Recreate) || len(s.Discard) > 0
		if loses != s.Destructive {
			t.Errorf("step %d: destructive is %v: %+v", s.ID, s.Destructive, s)
		}
	}
	data, err := p.JSON()
	if err != nil {
		t.Errorf("JSON: %v", err)
	}
	back, err := planner.Parse(data)
	if err != nil {
		t.Errorf("Parse: %v", err)
	}
	if again, _ := back.JSON(); !bytes.Equal(data, again) {
		t.Errorf("a plan read back differs:\n%s\n%s", data, again)
	}
	if dot := p.DOT(); strings.Count(dot, "label=") != len(p.Steps) {
		t.Errorf("DOT has not one node a step:\n%s", dot)
	}
}

type testingT interface {
	Helper()
	Errorf(format string, args ...any)
}
