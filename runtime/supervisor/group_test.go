package supervisor

import (
	"slices"
	"testing"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/spec"
)

// together is a project of three services in one machine: app has the network
// of vpn, tool its processes, IPC and, read-only, the mounts of app.
func together(t *testing.T) *spec.Project {
	p := project("shop", service("vpn", "server"), service("app", "server"), service("tool", "server"), service("alone", "server"))
	p.Services["vpn"].Hostname = "gate"
	p.Services["vpn"].Mounts = []spec.Mount{{Type: spec.MountVolume, Target: "/anonymous"}}
	app, tool := p.Services["app"], p.Services["tool"]
	app.Networks, app.NetworkMode = nil, "service:vpn"
	app.Mounts = []spec.Mount{
		{Type: spec.MountBind, Source: t.TempDir(), Target: "/srv"},
		{Type: spec.MountVolume, Source: "data", Target: "/data"},
	}
	tool.IPC, tool.PID = "service:vpn", "service:vpn"
	tool.NetworkMode, tool.Networks = "service:app", nil
	tool.VolumesFrom = []spec.VolumesFrom{{Service: "app", ReadOnly: true}, {Service: "vpn"}}
	for _, name := range []string{"vpn", "app", "tool"} {
		p.Services[name].Machine = &spec.Machine{Host: "vpn", Services: []string{"app", "tool", "vpn"}}
	}
	dependsOn(app, "vpn", spec.ConditionStarted)
	dependsOn(dependsOn(tool, "vpn", spec.ConditionStarted), "app", spec.ConditionStarted)
	return p
}

func (w *world) resolved(name string) wire.Container {
	w.t.Helper()
	r, err := w.s.opt.State.Resolved(w.rec(name).ID)
	if err != nil {
		w.t.Fatal(err)
	}
	return r.Container
}

func TestServicesShareAMachine(t *testing.T) {
	w := newWorld(t)
	p := together(t)
	p.Services["app"].Extension.KernelArgs = []string{"quiet"} // the machine is everybody's
	w.up(p)
	if args := w.guest("shop-vpn-1").Config().Cmdline; !slices.Equal(args, []string{"quiet"}) {
		t.Errorf("the machine is booted with %q", args)
	}
	if n := len(w.driver.Guests()); n != 2 {
		t.Errorf("%d machines run, want that of three services and one", n)
	}
	vpn := w.rec("shop-vpn-1")
	for _, name := range []string{"shop-app-1", "shop-tool-1"} {
		c := w.resolved(name)
		if w.rec(name).Machine != vpn.Machine {
			t.Errorf("%s is in another machine", name)
		}
		if c.JoinNetwork != vpn.ID || c.Hostname != "gate" {
			t.Errorf("%s: network %.12s, hostname %s", name, c.JoinNetwork, c.Hostname)
		}
	}
	tool := w.resolved("shop-tool-1")
	if tool.JoinIPC != vpn.ID || tool.JoinPID != vpn.ID {
		t.Errorf("ipc %.12s, pid %.12s, want %.12s", tool.JoinIPC, tool.JoinPID, vpn.ID)
	}
	got := map[string]wire.Mount{}
	for _, m := range tool.Mounts {
		got[m.Target] = m
	}
	if !got["/srv"].ReadOnly || got["/srv"].Kind != wire.MountShare || !got["/data"].ReadOnly || got["/data"].Source != volumeSerial("shop_data") ||
		got["/anonymous"].ReadOnly || got["/anonymous"].Source != volumeSerial(vpn.Mounts[0].Volume) {
		t.Errorf("mounts %+v", tool.Mounts)
	}

	// One that stops leaves the machine to the others, and comes back into it.
	if _, err := w.apply(api.Apply{Command: api.Stop, Name: "shop", Project: p, Selection: planner.Selection{Services: []string{"app"}, NoDeps: true}}); err != nil {
		t.Fatal(err)
	}
	if w.rec("shop-app-1").Machine != "" || w.rec("shop-vpn-1").Machine != vpn.Machine {
		t.Errorf("app in machine %.12q, vpn in %.12q", w.rec("shop-app-1").Machine, w.rec("shop-vpn-1").Machine)
	}
	w.up(p)
	if w.rec("shop-app-1").Machine != vpn.Machine {
		t.Error("app has not come back into its machine")
	}

	// Another supervisor adopts them all in one machine.
	w.restart()
	for _, name := range []string{"shop-vpn-1", "shop-app-1", "shop-tool-1"} {
		if r := w.rec(name); r.Status != planner.StatusRunning || r.Machine != vpn.Machine {
			t.Errorf("%s is %s after adoption, in machine %.12q", name, r.Status, r.Machine)
		}
	}
	if _, err := w.apply(api.Apply{Command: api.Up, Name: "shop", Project: p, DryRun: true}); err != nil {
		t.Error(err)
	}
	w.down(p, true)
	w.nothingLeft()
	if left, err := w.volumes.List(); err != nil || len(left) != 0 {
		t.Errorf("%d volumes are left (%v)", len(left), err)
	}
}

// When a machine with several replicas crashes, those whose policy wants it come
// back, in one machine again.
func TestAGroupComesBackAfterACrash(t *testing.T) {
	w := newWorld(t)
	p := together(t)
	for _, s := range p.Services {
		s.Restart.Policy = "always"
	}
	w.up(p)
	was := w.rec("shop-vpn-1").Machine
	w.guest("shop-vpn-1").Crash("gone")
	var machines []string
	for _, name := range []string{"shop-vpn-1", "shop-app-1", "shop-tool-1"} {
		r := w.until(name, func(r *state.Replica) bool {
			return r.Status == planner.StatusRunning && r.Machine != was && r.Machine != ""
		})
		machines = append(machines, r.Machine)
	}
	if machines[0] != machines[1] || machines[1] != machines[2] {
		t.Errorf("machines %v", machines)
	}
	w.down(p, true)
	w.nothingLeft()
}

// All that live in a machine may end at the same time: it ends with them.
func TestAGroupThatEndsAtOnce(t *testing.T) {
	w := newWorld(t)
	p := project("shop", service("a", "true"), service("b", "true"), service("c", "true"))
	for _, s := range p.Services {
		s.Machine = &spec.Machine{Host: "a", Services: []string{"a", "b", "c"}, All: true}
	}
	w.up(p)
	for _, name := range []string{"shop-a-1", "shop-b-1", "shop-c-1"} {
		w.until(name, func(r *state.Replica) bool { return r.Status == planner.StatusExited && r.Machine == "" })
	}
	if n := len(w.driver.Guests()); n != 0 {
		t.Errorf("%d machines are left", n)
	}
	w.down(p, false)
	w.nothingLeft()
}

func TestSharingWithAContainerThatIsNotThere(t *testing.T) {
	w := newWorld(t)
	p := project("shop", service("app", "server"))
	p.Services["app"].NetworkMode, p.Services["app"].Networks = "container:other-vpn-1", nil
	p.Services["app"].Machine = &spec.Machine{Container: "other-vpn-1", Services: []string{"app"}, Pos: spec.Pos{File: "compose.yaml", Line: 4}}
	_, err := w.apply(api.Apply{Command: api.Up, Name: "shop", Project: p})
	const want = `compose.yaml:4: service "app": no such container: other-vpn-1`
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if len(w.driver.Guests()) != 0 {
		t.Error("a machine runs")
	}
}
