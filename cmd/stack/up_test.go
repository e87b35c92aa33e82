package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/logs"
	"github.com/stackvm/stack/spec"
)

func TestUpFlags(t *testing.T) {
	t.Setenv("STACK_HOME", t.TempDir())
	dir := writeFiles(t, map[string]string{"compose.yaml": "services: {a: {image: a}}\n"})
	for args, want := range map[string]string{
		"--abort-on-container-exit --abort-on-container-failure": "--abort-on-container-failure cannot be combined with --abort-on-container-exit",
		"-d --abort-on-container-exit":                           "--detach cannot be combined with",
		"-d --exit-code-from a":                                  "--detach cannot be combined with",
		"-d --attach a":                                          "--detach cannot be combined with",
		"--wait --attach-dependencies":                           "--wait cannot be combined with",
		"--attach a --attach-dependencies":                       "--attach and --attach-dependencies are incompatible",
		"--no-recreate -V":                                       "--no-recreate and --renew-anon-volumes are incompatible",
		"--no-recreate --force-recreate":                         "--force-recreate and --no-recreate are incompatible",
		"--no-recreate --always-recreate-deps":                   "--always-recreate-deps and --no-recreate are incompatible",
		"--build --no-build":                                     "--build and --no-build are incompatible",
		"--build":                                                "not supported yet",
		"--watch":                                                "not supported yet",
		"--wait --wait-timeout=-1":                               "--wait-timeout -1",
		"--scale a=x":                                            "invalid --scale option",
		"--pull sometimes":                                       `--pull "sometimes"`,
		"nobody":                                                 "no such service: nobody",
	} {
		_, _, err := inProject(t, dir, nil, append([]string{"--dry-run", "up"}, strings.Fields(args)...)...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("up %s: %v, want %s", args, err, want)
		}
	}
}

func TestUpWithoutServices(t *testing.T) {
	t.Setenv("STACK_HOME", t.TempDir())
	dir := writeFiles(t, map[string]string{"compose.yaml": "services: {a: {image: a, profiles: [off]}}\n"})
	if _, _, err := inProject(t, dir, nil, "--dry-run", "up"); err == nil || err.Error() != "no service selected" {
		t.Error(err)
	}
	// Named, a service brings its own profile.
	if _, out, err := inProject(t, dir, nil, "--dry-run", "up", "a"); err != nil || !strings.Contains(out, "-a-1 Started") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestAttached(t *testing.T) {
	dir := writeFiles(t, map[string]string{"compose.yaml": "services: {web: {image: a}, db: {image: a}, noisy: {image: a, attach: false}}"})
	p, _, err := spec.Load(t.Context(), spec.Options{ProjectDirectory: dir, ProjectName: "p"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name     string
		services []string
		f        following
		attached []string
		watched  []string
	}{
		{"all that do not opt out", nil, following{}, []string{"db", "web"}, []string{"db", "web"}},
		{"targets alone", []string{"web"}, following{}, []string{"web"}, []string{"web"}},
		{"and what they depend on", []string{"web"}, following{dependencies: true}, []string{"db", "web"}, []string{"web"}},
		{"named, also against the file", nil, following{attach: []string{"noisy"}}, []string{"noisy"}, []string{"noisy"}},
		{"without one", nil, following{noAttach: []string{"db"}}, []string{"web"}, []string{"web"}},
		{"an abort is everybody's", nil, following{noAttach: []string{"db"}, onFailure: true}, []string{"web"}, []string{"db", "noisy", "web"}},
	} {
		got, err := attached(p, tc.services, tc.f)
		if diff := cmp.Diff(tc.attached, got); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", tc.name, err, diff)
		}
		if diff := cmp.Diff(tc.watched, watched(p, tc.services, got, tc.f)); diff != "" {
			t.Errorf("%s, watched:\n%s", tc.name, diff)
		}
	}
	if _, err := attached(p, nil, following{attach: []string{"x", "web", "y"}}); err == nil || err.Error() != "cannot attach to services not included in up: x, y" {
		t.Error(err)
	}
}

// TestViewerEnds feeds a viewer with the ends of containers: what is printed,
// what aborts, when it is over and with which status.
func TestViewerEnds(t *testing.T) {
	end := func(service string, code int, restarting bool) api.LogEntry {
		return api.LogEntry{Replica: "shop-" + service + "-1", Service: service, Mark: &api.LogMark{Exited: true, ExitCode: code, Restarting: restarting}}
	}
	line := api.LogEntry{Replica: "shop-db-1", Service: "db", Record: logs.Record{Log: "hidden"}}
	for _, tc := range []struct {
		name   string
		f      following
		ends   []api.LogEntry
		abort  bool
		over   bool
		status error
		out    string
	}{
		{"all end", following{}, []api.LogEntry{line, end("web", 1, false), end("db", 0, false)}, false, true, nil, "web-1 exited with code 1\n"},
		{"one restarts", following{}, []api.LogEntry{end("db", 0, false), end("web", 1, true)}, false, false, nil, "web-1 exited with code 1 (restarting)\n"},
		{"the first end aborts", following{onExit: true}, []api.LogEntry{end("db", 0, false), end("web", 3, false)}, true, true, nil, "web-1 exited with code 3\n"},
		{"with its status", following{onExit: true}, []api.LogEntry{end("web", 3, false)}, true, false, exitStatus(3), "web-1 exited with code 3\n"},
		{"only a failure does", following{onFailure: true}, []api.LogEntry{end("db", 0, false)}, false, false, nil, ""},
		{"which it does", following{onFailure: true}, []api.LogEntry{end("db", 0, false), end("web", 4, false)}, true, true, exitStatus(4), "web-1 exited with code 4\n"},
		{"another's status", following{onExit: true, exitCodeFrom: "web"}, []api.LogEntry{end("db", 7, false), end("web", 143, false)}, true, true, exitStatus(143), "web-1 exited with code 143\n"},
		{"of its first end", following{onExit: true, exitCodeFrom: "web"}, []api.LogEntry{end("web", 5, true), end("web", 6, false)}, true, false, exitStatus(5), "web-1 exited with code 5 (restarting)\nweb-1 exited with code 6\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			over := false
			v := &viewer{
				app: &app{in: os.Stdin, out: &out, err: &out}, project: &spec.Project{Name: "shop"}, attached: []string{"web"}, watched: []string{"db", "web"},
				follow: tc.f, abort: make(chan struct{}), live: map[string]bool{}, codes: map[string]int{}, finish: func() { over = true }, done: true,
			}
			plan := planner.Plan{Steps: []planner.Step{
				{Verb: planner.Start, Noun: planner.ReplicaNoun, Name: "shop-db-1", Service: "db"},
				{Verb: planner.Start, Noun: planner.ReplicaNoun, Name: "shop-web-1", Service: "web"},
			}}
			v.expect(&plan)
			p := render.NewLogPrinter(&out, &out, []string{"web-1"})
			for _, e := range tc.ends {
				v.print(p, e)
			}
			aborted := false
			select {
			case <-v.abort:
				aborted = true
			default:
			}
			if aborted != tc.abort || over != tc.over || out.String() != tc.out {
				t.Errorf("aborted %v, over %v, want %v, %v; printed:\n%s", aborted, over, tc.abort, tc.over, &out)
			}
			if got := v.status(t.Context()); tc.abort && got != tc.status { //nolint:errorlint // the status itself
				t.Errorf("status %v, want %v", got, tc.status)
			}
		})
	}
}
