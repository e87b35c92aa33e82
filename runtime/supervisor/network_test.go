package supervisor

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/spec"
)

// external puts a project on a network that no project makes.
func external(p *spec.Project, name string) *spec.Project {
	p.Networks["default"] = &spec.Network{Key: "default", Name: name, External: true, IPv4: true, Hash: "x"}
	return p
}

// A network made by hand outlives supervisors and the projects on it, which reach
// each other there, and is not removed while one of them is on it.
func TestExternalNetwork(t *testing.T) {
	w := newWorld(t)
	first := external(project("first", service("web", "server")), "corp")
	second := external(project("second", service("app", "server")), "corp")
	if _, err := w.apply(api.Apply{Command: api.Up, Name: "first", Project: first}); err == nil || !strings.Contains(err.Error(), "stack network create corp") {
		t.Errorf("without the network: %v", err)
	}
	subnet := netip.MustParsePrefix("10.9.8.0/24")
	id, err := w.serve().CreateNetwork(t.Context(), api.NetworkCreate{
		Name: "corp", Labels: map[string]string{"team": "web"}, Internal: true, Pools: []spec.IPAMPool{{Subnet: subnet}},
	})
	if err != nil || id == "" {
		t.Fatal(id, err)
	}
	w.restart()
	c := w.serve()
	if _, err := c.CreateNetwork(t.Context(), api.NetworkCreate{Name: "corp"}); code(err) != api.CodeConflict {
		t.Errorf("made again: %v", err)
	}
	for _, n := range []api.NetworkCreate{{Name: ""}, {Name: "-x"}, {Name: "a/b"}, {Name: "none", NoIPv4: true}, {Name: "range", Pools: []spec.IPAMPool{{Range: subnet}}}} {
		if _, err := c.CreateNetwork(t.Context(), n); code(err) != api.CodeInvalid {
			t.Errorf("%+v: %v", n, err)
		}
	}
	w.up(first)
	w.up(second)
	for name, service := range map[string]string{"first-web-1": "web", "second-app-1": "app"} {
		rec := w.rec(name)
		if got := w.fabric.resolve(service); !slices.Equal(got, []string{rec.ID}) {
			t.Errorf("%s resolves to %v", service, got)
		}
		if e := rec.Endpoints[0]; e.NetworkID != id || !subnet.Contains(e.Addrs[0].Addr()) {
			t.Errorf("%s is on %s with %v", name, e.NetworkID, e.Addrs)
		}
	}
	w.command(api.Stop, first)
	w.down(second, true)
	if err := c.RemoveNetwork(t.Context(), "corp"); code(err) != api.CodeConflict || !strings.Contains(err.Error(), "in use by first-web-1") {
		t.Errorf("removed under a stopped container: %v", err)
	}
	w.down(first, true)
	networks, err := w.s.opt.State.Networks()
	if err != nil || len(networks) != 1 {
		t.Fatal(networks, err)
	}
	if n := networks[0]; !n.Internal || n.Labels["team"] != "web" || len(n.Labels) != 1 || n.Project != "" {
		t.Errorf("recorded %+v", n)
	}
	if err := c.RemoveNetwork(t.Context(), "corp"); err != nil {
		t.Error(err)
	}
	if err := c.RemoveNetwork(t.Context(), "corp"); code(err) != api.CodeNotFound {
		t.Errorf("removed twice: %v", err)
	}
	w.nothingLeft()
}

// One with compose's labels is the project's, as with docker.
func TestNetworkLabelledForProject(t *testing.T) {
	w := newWorld(t)
	labels := map[string]string{labelProject: "shop", labelNetwork: "default"}
	id, err := w.serve().CreateNetwork(t.Context(), api.NetworkCreate{Name: "shop_default", Labels: labels})
	if err != nil {
		t.Fatal(err)
	}
	p := project("shop", service("web", "server"))
	if got := warnings(w.up(p)); slices.ContainsFunc(got, func(w string) bool { return strings.Contains(w, "network") }) {
		t.Errorf("warnings %q", got)
	}
	if e := w.rec("shop-web-1").Endpoints[0]; e.NetworkID != id {
		t.Errorf("it is on %s, want %s", e.NetworkID, id)
	}
	w.down(p, true)
	w.nothingLeft()
}
