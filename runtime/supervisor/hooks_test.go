package supervisor

import (
	"strings"
	"testing"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/spec"
)

// A hook that fails is an error of the command; the container runs on.
func TestHooks(t *testing.T) {
	w := newWorld(t)
	p := project("shop", service("web", "server"))
	web := p.Services["web"]
	web.PostStart = []spec.Hook{{Command: []string{"true"}}, {Command: []string{"sh", "-c", "echo no such table; exit 3"}, Environment: map[string]string{"A": "1"}}}
	web.PreStop = []spec.Hook{{Command: []string{"false"}}}
	_, err := w.apply(api.Apply{Command: api.Up, Name: "shop", Project: p})
	if err == nil || !strings.Contains(err.Error(), `container shop-web-1: post_start[1]: "sh" exited with status 3: no such table`) {
		t.Errorf("up: %v", err)
	}
	if r := w.rec("shop-web-1"); r.Status != planner.StatusRunning {
		t.Errorf("after a failed post_start it is %s", r.Status)
	}
	_, err = w.apply(api.Apply{Command: api.Stop, Name: "shop", Project: p})
	if err == nil || !strings.Contains(err.Error(), `container shop-web-1: pre_stop[0]: "false" exited with status 1`) {
		t.Errorf("stop: %v", err)
	}
	if r := w.rec("shop-web-1"); r.Status != planner.StatusRunning || r.Stopped {
		t.Errorf("after a failed pre_stop it is %s, stopped %v", r.Status, r.Stopped)
	}
	w.guest("shop-web-1").Kill() // what cannot run its hook is not asked to
	w.down(p, false)
	w.nothingLeft()
}
