package supervisor

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/image"
	"github.com/stackvm/stack/spec"
)

// A provider is run by every up and gives variables to what depends on its service,
// which is made again for others; stop and down call it too, down without the file.
// Its variables, which may be secret, are in no event and go with the last down.
func TestProvider(t *testing.T) {
	w := newWorld(t)
	w.images.add("tool:1", image.Config{})
	dir := t.TempDir()
	script := `#!/bin/sh
if [ "$2" = metadata ]; then echo '{"description":"d","up":{"parameters":[{"name":"size"}]},"stop":{}}'; exit; fi
echo "$PWD: $*" >>"$LOG"
if [ "$3" = up ]; then
	echo '{"type":"info","message":"making it"}'
	printf '%s\n' '{"type":"setenv","message":"URL=xyzzy-'$SECRET'"}' '{"type":"rawsetenv","message":"RAW=plugh"}'
fi
`
	if err := os.WriteFile(filepath.Join(dir, "aws"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "log")
	given := func(secret string) api.Providers {
		return api.Providers{Paths: map[string]string{"aws": filepath.Join(dir, "aws")}, Env: []string{"PATH=" + os.Getenv("PATH"), "LOG=" + log, "SECRET=" + secret}, Dir: dir}
	}
	web := dependsOn(service("web", "server"), "my-db", spec.ConditionHealthy)
	web.Environment = map[string]string{"RAW": "own"}
	web.PreStart = []spec.PreStart{hook("env")}
	p := project("shop", web)
	p.Services["my-db"] = &spec.Service{Name: "my-db", Scale: 1, Hash: "h", Provider: &spec.Provider{Type: "aws", Options: map[string][]string{"size": {"9"}, "down": {"x"}}}}
	up := func(secret string) ([]api.Event, planner.Plan) {
		t.Helper()
		events, err := w.apply(api.Apply{Command: api.Up, Name: "shop", Project: p, Providers: given(secret)})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e.Kind == api.EventPlan {
				return events, *e.Plan
			}
		}
		t.Fatal("no plan")
		return nil, planner.Plan{}
	}
	events, _ := up("1")
	for _, e := range events {
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind != api.EventOutput && (strings.Contains(string(text), "xyzzy") || strings.Contains(string(text), "plugh")) {
			t.Errorf("an event tells a variable: %s", text)
		}
	}
	if !slices.ContainsFunc(events, func(e api.Event) bool { return e.Kind == api.EventStep && e.Step.Text == "making it" }) {
		t.Error("what it says is not passed on")
	}
	if !slices.Contains(warnings(events), `provider "my-db" overrides environment variable "RAW" in service "web"`) {
		t.Errorf("warnings: %q", warnings(events))
	}
	for _, want := range []string{"MY-DB_URL=xyzzy-1", "RAW=plugh"} {
		if got := outputs(events); !slices.Contains(got, "web pre_start[0] -> "+want) {
			t.Errorf("the hook has %q, not %s", got, want)
		}
	}
	first := w.rec("shop-web-1")
	env := func() []string {
		resolved, err := w.s.opt.State.Resolved(w.rec("shop-web-1").ID)
		if err != nil {
			t.Fatal(err)
		}
		return resolved.Container.Env
	}
	if got := env(); !slices.Contains(got, "MY-DB_URL=xyzzy-1") || !slices.Contains(got, "RAW=plugh") {
		t.Errorf("the container has %q", got)
	}
	if _, plan := up("1"); !plan.Empty() || w.rec("shop-web-1").ID != first.ID {
		t.Errorf("the same variables: %s", plan)
	}
	if _, plan := up("2"); !strings.Contains(plan.String(), `variables of provider "my-db" changed`) || !slices.Contains(env(), "MY-DB_URL=xyzzy-2") {
		t.Errorf("other variables: %s%q", plan, env())
	}
	if _, err := w.apply(api.Apply{Command: api.Stop, Name: "shop", Project: p, Providers: given("2")}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.apply(api.Apply{Command: api.Down, Name: "shop", Providers: api.Providers{Env: given("").Env, Dir: dir}}); err != nil {
		t.Fatal(err)
	}
	calls, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	call := func(args string) string { return dir + ": compose --project-name=shop " + args + " my-db\n" }
	if want := strings.Repeat(call("up --size=9"), 3) + call("stop") + call("down"); string(calls) != want {
		t.Errorf("calls:\n%swant:\n%s", calls, want)
	}
	w.nothingLeft()
	_ = filepath.WalkDir(filepath.Join(w.dir, "state"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if text, _ := os.ReadFile(path); strings.Contains(string(text), "xyzzy") {
				t.Errorf("%s tells a variable after down", path)
			}
		}
		return nil
	})
}

// A provider that fails fails the up at its line; what it may have begun is taken
// down by down. Nothing is begun where the plan is refused.
func TestProviderFails(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "aws")
	if err := os.WriteFile(path, []byte("#!/bin/sh\ntest $2 = metadata && exit 1\necho $3 >>"+path+".log\ntest $3 = down\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	web := dependsOn(service("web", "server"), "db", spec.ConditionStarted)
	p := project("shop", web)
	p.Services["db"] = &spec.Service{
		Name: "db", Scale: 1, Hash: "h", Provider: &spec.Provider{Type: "aws"},
		Keys: map[string]spec.Pos{"provider": {File: "compose.yaml", Line: 7}},
	}
	given := api.Providers{Paths: map[string]string{"aws": path}, Env: os.Environ()}
	web.Mounts = []spec.Mount{{Type: spec.MountBind, Source: filepath.Join(w.dir, "missing"), Target: "/x"}}
	if _, err := w.apply(api.Apply{Command: api.Up, Name: "shop", Project: p, Providers: given}); err == nil || !strings.Contains(err.Error(), "bind source path does not exist") {
		t.Errorf("up of what is refused: %v", err)
	}
	if log, err := os.ReadFile(path + ".log"); err == nil {
		t.Errorf("before that it did %s", log)
	}
	web.Mounts = nil
	_, err := w.apply(api.Apply{Command: api.Up, Name: "shop", Project: p, Providers: given})
	if want := `compose.yaml:7: service "db": failed to create service provider: exit status 1`; err == nil || err.Error() != want {
		t.Errorf("up: %v, want %s", err, want)
	}
	if _, err := w.s.find("shop-web-1"); err == nil {
		t.Error("what depends on it was made")
	}
	if _, err := w.apply(api.Apply{Command: api.Down, Name: "shop", Project: p, Providers: given}); err != nil {
		t.Error(err)
	}
	log, err := os.ReadFile(path + ".log")
	if got := fmt.Sprintf("%q %v", log, err); got != `"up\ndown\n" <nil>` {
		t.Errorf("it did %s", got)
	}
	w.nothingLeft()
}
