package supervisor

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/spec"
)

// hostProject has one service with the host's network.
func hostProject() *spec.Project {
	web := service("web", "server")
	web.NetworkMode, web.Networks = "host", map[string]spec.Attachment{"host": {}}
	p := project("shop", web)
	p.Networks = map[string]*spec.Network{"host": {Key: "host", Name: "shop_host", IPv4: true, Hash: "h"}}
	return p
}

var loopback = netip.MustParseAddr("127.0.0.1")

// freePort is a port of the loopback that nobody listens on.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return addrOf(l.Addr(), loopback).Port()
}

func listensOn(protocol string, port, relay uint16) wire.ListeningPort {
	return wire.ListeningPort{Protocol: protocol, Addr: loopback, Port: port, Relay: relay}
}

func (f *fakeFabric) targets() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]string{}
	for id, p := range f.published {
		to := p.Proto + "/" + p.Target.String()
		if p.Masquerade {
			to += " masqueraded"
		}
		out[id[strings.LastIndex(id, "/")+1:]] = to
	}
	return out
}

// A service with the host's network has no names, and its ports are open on the
// host while its container listens on them, also for the next supervisor.
func TestHostPorts(t *testing.T) {
	w := newWorld(t)
	p := hostProject()
	w.up(p)
	if r := w.rec("shop-web-1"); len(r.Endpoints) != 1 || len(r.Endpoints[0].Aliases) != 0 {
		t.Errorf("it is at %+v", r.Endpoints)
	}
	if c, _ := w.guest("shop-web-1").Container("shop-web-1"); !c.TellPorts || c.Hostname == c.ID[:12] {
		t.Errorf("its agent was told %+v", c)
	}
	one, two := freePort(t), freePort(t)
	has := func(want ...wire.ListeningPort) func(*state.Replica) bool {
		return func(r *state.Replica) bool { return slices.Equal(r.HostPorts, want) }
	}
	check := func(want map[string]string) {
		t.Helper()
		if diff := cmp.Diff(want, w.fabric.targets()); diff != "" {
			t.Error(diff)
		}
	}
	at := func(port uint16) string { return netip.AddrPortFrom(loopback, port).String() }
	w.guest("shop-web-1").Listen("shop-web-1", 0, listensOn("tcp", one, 0), listensOn("udp", two, 4444))
	r := w.until("shop-web-1", has(listensOn("tcp", one, 0), listensOn("udp", two, 4444)))
	to := r.Endpoints[0].Addrs[0].Addr()
	both := map[string]string{
		at(one): "tcp/" + netip.AddrPortFrom(to, one).String(),
		at(two): "udp/" + netip.AddrPortFrom(to, 4444).String() + " masqueraded",
	}
	check(both)
	if len(r.Published) != 0 || r.Unopened != "" {
		t.Errorf("published %v, unopened %q", r.Published, r.Unopened)
	}

	before := w.keeper.names()
	w.restart()
	check(both)
	if diff := cmp.Diff(before, w.keeper.names()); diff != "" {
		t.Errorf("the keeper's files changed: %s", diff)
	}

	// Another way to the same port, and one port less.
	w.guest("shop-web-1").Listen("shop-web-1", 0, listensOn("udp", two, 5555))
	w.until("shop-web-1", has(listensOn("udp", two, 5555)))
	check(map[string]string{at(two): "udp/" + netip.AddrPortFrom(to, 5555).String() + " masqueraded"})
	w.down(p, true)
	w.nothingLeft()
}

// What the host does not let it have is said, with who has it; the rest is open.
func TestHostPortsTaken(t *testing.T) {
	w := newWorld(t)
	db := service("db", "server")
	reserved, free := freePort(t), freePort(t)
	db.Ports = []spec.Port{{Published: reserved, Target: 1, Protocol: "udp", HostIP: loopback}}
	w.up(project("other", db))
	w.up(hostProject())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := addrOf(l.Addr(), loopback).Port()

	w.guest("shop-web-1").Listen("shop-web-1", 0, listensOn("tcp", taken, 0), listensOn("udp", reserved, 0), listensOn("tcp", free, 0))
	r := w.until("shop-web-1", func(r *state.Replica) bool { return r.Unopened != "" })
	if diff := cmp.Diff([]wire.ListeningPort{listensOn("tcp", free, 0)}, r.HostPorts, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	for _, want := range []string{"/tcp is not open on the host: ", " listens on it", "/udp is not open on the host: it is container other-db-1's"} {
		if !strings.Contains(r.Unopened, want) {
			t.Errorf("no %q in %q", want, r.Unopened)
		}
	}

	// A machine may say anything.
	many := []wire.ListeningPort{{Protocol: "tcp", Addr: netip.MustParseAddr("192.0.2.1"), Port: 1}, {Protocol: "sctp", Addr: loopback, Port: 1}, {Protocol: "tcp", Addr: loopback}, {Protocol: "tcp", Port: 1}}
	w.guest("shop-web-1").Listen("shop-web-1", 7, many...)
	r = w.until("shop-web-1", func(r *state.Replica) bool { return len(r.HostPorts) == 0 })
	if want := "11 ports beyond 256 are not open on the host"; r.Unopened != want {
		t.Errorf("unopened: %q, want %q", r.Unopened, want)
	}
	w.guest("shop-web-1").Listen("shop-web-1", 0)
	w.until("shop-web-1", func(r *state.Replica) bool { return r.Unopened == "" })

	// A port that is open so is another project's no more.
	w.guest("shop-web-1").Listen("shop-web-1", 0, listensOn("tcp", free, 0))
	w.until("shop-web-1", func(r *state.Replica) bool { return len(r.HostPorts) == 1 })
	late := service("late", "server")
	late.Ports = []spec.Port{{Published: free, Target: 1, Protocol: "tcp", HostIP: loopback}}
	if _, err := w.apply(api.Apply{Command: api.Up, Name: "third", Project: project("third", late), Confirm: api.ConfirmAll}); err == nil || !strings.Contains(err.Error(), "container shop-web-1 publishes it") {
		t.Errorf("publishing the port again: %v", err)
	}
}
