package supervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/spec"
)

// forward makes detached forwards and returns them.
func (w *world) forward(ports ...api.ForwardPort) ([]api.Forwarded, error) {
	w.t.Helper()
	made, err := w.s.makeForwards(api.Forward{Project: "shop", Ports: ports, Detach: true})
	if err != nil {
		return nil, err
	}
	w.s.forwards.mu.Lock()
	defer w.s.forwards.mu.Unlock()
	return w.s.describe(made), nil
}

// leads waits until the only forward leads to a replica, "" is nowhere, and returns
// where the fabric carries it.
func (w *world) leads(replica string) []string {
	w.t.Helper()
	deadline := time.After(patience)
	for {
		w.s.forwards.mu.Lock()
		changed, all := w.s.forwards.changed, w.s.describe(w.s.forwards.all)
		w.s.forwards.mu.Unlock()
		if len(all) == 1 && all[0].Replica == replica {
			break
		}
		select {
		case <-changed:
		case <-deadline:
			w.t.Fatalf("forwards are %+v, want one to %q", all, replica)
		}
	}
	var targets []string
	w.fabric.mu.Lock()
	defer w.fabric.mu.Unlock()
	for id, p := range w.fabric.published {
		if strings.HasPrefix(id, "forward/") {
			targets = append(targets, p.Target.String())
		}
	}
	slices.Sort(targets)
	return slices.Compact(targets)
}

func (w *world) command(c api.Command, p *spec.Project, services ...string) {
	w.t.Helper()
	if _, err := w.apply(api.Apply{Command: c, Name: p.Name, Project: p, Selection: planner.Selection{Services: services}}); err != nil {
		w.t.Fatal(err)
	}
}

func TestForward(t *testing.T) {
	w := newWorld(t)
	p := project("shop", service("db", "server"), service("web", "server"))
	w.up(p)
	made, err := w.forward(api.ForwardPort{Service: "db", Target: 5432, Protocol: "tcp"})
	if err != nil {
		t.Fatal(err)
	}
	f := made[0]
	if f.Replica != "shop-db-1" || f.Local == 0 || f.Addrs[0] != fmt.Sprintf("127.0.0.1:%d", f.Local) {
		t.Errorf("made %+v", f)
	}
	target := func() []string {
		return []string{w.rec("shop-db-1").Endpoints[0].Addrs[0].Addr().String() + ":5432"}
	}
	reach := func(when string) {
		t.Helper()
		c, err := net.DialTimeout("tcp", f.Addrs[0], patience)
		if err != nil {
			t.Errorf("%s: %v", when, err)
			return
		}
		c.Close()
	}
	if got := w.leads("shop-db-1"); !slices.Equal(got, target()) {
		t.Errorf("it leads to %v, want %v", got, target())
	}

	w.restart()
	if got := w.leads("shop-db-1"); !slices.Equal(got, target()) {
		t.Errorf("after the supervisor's restart it leads to %v", got)
	}
	reach("after the supervisor's restart")

	// Clients wait while there is nobody to lead them to.
	w.command(api.Stop, p, "db")
	if got := w.leads(""); got != nil {
		t.Errorf("stopped, it leads to %v", got)
	}
	reach("stopped")
	w.restart()
	reach("stopped, after the supervisor's restart")
	w.command(api.Start, p, "db")
	w.leads("shop-db-1")

	before := w.rec("shop-db-1").ID
	p.Services["db"].Hash = "changed"
	w.up(p)
	if got := w.leads("shop-db-1"); !slices.Equal(got, target()) || w.rec("shop-db-1").ID == before {
		t.Errorf("recreated, it leads to %v", got)
	}

	w.command(api.Remove, p, "web") // not the project's end
	w.leads("shop-db-1")
	w.down(p, true)
	w.nothingLeft()
	if left, err := os.ReadDir(filepath.Join(w.dir, "state", "forwards")); err == nil && len(left) != 0 {
		t.Errorf("%d forwards are recorded", len(left))
	}
	if c, err := net.Dial("tcp", f.Addrs[0]); err == nil {
		c.Close()
		t.Error("the port is listened on after down")
	}
}

// A forward stays with its replica, and goes to another one only when that ends;
// one with an index does not.
func TestForwardChoosesReplica(t *testing.T) {
	w := newWorld(t)
	p := project("shop", service("web", "server"))
	p.Services["web"].Scale = 2
	w.up(p)
	if _, err := w.forward(api.ForwardPort{Service: "web", Target: 80, Protocol: "udp"}); err != nil {
		t.Fatal(err)
	}
	w.leads("shop-web-1")
	end := func(name string) {
		t.Helper()
		r, err := w.s.find(name)
		if err == nil {
			err = w.s.stop(context.Background(), r, -1)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	begin := func(name string) {
		t.Helper()
		r, err := w.s.find(name)
		if err == nil {
			err = w.s.start(context.Background(), r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	end("shop-web-1")
	w.leads("shop-web-2")
	begin("shop-web-1")
	w.leads("shop-web-2")
	w.s.endForwards("", func(*forward) bool { return true })

	if _, err := w.forward(api.ForwardPort{Service: "web", Index: 2, Target: 80, Protocol: "tcp"}); err != nil {
		t.Fatal(err)
	}
	end("shop-web-2")
	w.leads("")
	w.down(p, true)
	w.nothingLeft()
}

// A service that shares another's network is reached by that one's place on it.
func TestForwardSharedNetwork(t *testing.T) {
	w := newWorld(t)
	app := dependsOn(service("app", "server"), "vpn", "service_started")
	app.NetworkMode, app.Networks = "service:vpn", nil
	off := service("off", "server")
	off.NetworkMode, off.Networks = "none", nil
	p := project("shop", service("vpn", "server"), app, off)
	w.up(p)
	if _, err := w.forward(api.ForwardPort{Service: "app", Target: 80, Protocol: "tcp"}); err != nil {
		t.Fatal(err)
	}
	want := []string{w.rec("shop-vpn-1").Endpoints[0].Addrs[0].Addr().String() + ":80"}
	if got := w.leads("shop-app-1"); !slices.Equal(got, want) {
		t.Errorf("it leads to %v, want %v", got, want)
	}
	if _, err := w.forward(api.ForwardPort{Service: "off", Target: 80, Protocol: "tcp"}); err == nil || !strings.Contains(err.Error(), "on no network") {
		t.Errorf("to a service without a network: %v", err)
	}
	w.down(p, true)
	w.nothingLeft()
}

func TestForwardRefused(t *testing.T) {
	w := newWorld(t)
	p := project("shop", service("web", "server"))
	p.Services["web"].Ports = []spec.Port{{Target: 80, Protocol: "tcp"}}
	w.up(p)
	published := w.rec("shop-web-1").Published[0].HostPort
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	foreign := uint16(l.Addr().(*net.TCPAddr).Port)
	made, err := w.forward(api.ForwardPort{Service: "web", Target: 81, Protocol: "tcp"})
	if err != nil {
		t.Fatal(err)
	}
	forwarded := made[0].Local
	for _, tc := range []struct {
		port api.ForwardPort
		want string
	}{
		{api.ForwardPort{Service: "web", Target: 80, Protocol: "tcp", Local: published}, fmt.Sprintf("forwarding web:80/tcp: port %d: address already in use: container shop-web-1 publishes it", published)},
		{api.ForwardPort{Service: "web", Target: 80, Protocol: "tcp", Local: forwarded}, fmt.Sprintf("stack -p shop forward rm %d/tcp", forwarded)},
		{api.ForwardPort{Service: "web", Target: 80, Protocol: "tcp", Local: foreign}, fmt.Sprintf("process %d (", os.Getpid())},
		{api.ForwardPort{Service: "web", Target: 80, Protocol: "sctp"}, "a port of tcp or udp is needed"},
		{api.ForwardPort{Service: "web", Protocol: "tcp"}, "a port of tcp or udp is needed"},
		{api.ForwardPort{Service: "db", Target: 80, Protocol: "tcp"}, `service "db" is not running`},
		{api.ForwardPort{Service: "web", Index: 2, Target: 80, Protocol: "tcp"}, `service "web" is not running container #2`},
	} {
		// What can be made is not, beside what cannot.
		fault := ""
		if _, err := w.forward(api.ForwardPort{Service: "web", Target: 82, Protocol: "tcp"}, tc.port); err != nil {
			fault = err.Error()
		}
		if !strings.Contains(fault, tc.want) {
			t.Errorf("%+v: %q, want %q", tc.port, fault, tc.want)
		}
	}
	w.leads("shop-web-1") // alone
	made, err = w.forward(api.ForwardPort{Service: "web", Target: 80, Protocol: "tcp", Local: foreign, Prefer: true})
	if err != nil || made[0].Local == foreign || made[0].Local == 0 {
		t.Errorf("%+v, %v, want another port", made, err)
	}

	// A port that a forward has is not published.
	second := project("second", service("web", "server"))
	second.Services["web"].Ports = []spec.Port{{Published: forwarded, Target: 80, Protocol: "tcp", Pos: spec.Pos{File: "compose.yaml", Line: 7}}}
	_, err = w.apply(api.Apply{Command: api.Up, Name: "second", Project: second})
	want := fmt.Sprintf("compose.yaml:7: service \"web\": publishing port %d: address already in use: stack forward has it, for web:81/tcp of project shop", forwarded)
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
	w.down(p, true)
	w.nothingLeft()
}

// A port that was taken while no supervisor ran is tried again when there is
// something to lead to.
func TestForwardPortLost(t *testing.T) {
	w := newWorld(t)
	p := project("shop", service("web", "server"))
	w.up(p)
	made, err := w.forward(api.ForwardPort{Service: "web", Target: 80, Protocol: "tcp"})
	if err != nil {
		t.Fatal(err)
	}
	w.command(api.Stop, p)
	w.close()
	w.keeper.close() // as it ends without machines
	l, err := net.Listen("tcp4", made[0].Addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	w.open()
	all, err := w.s.listForwards(context.Background(), nil)
	if err != nil || len(all) != 1 || !strings.Contains(all[0].Fault, "address already in use") {
		t.Errorf("%+v, %v", all, err)
	}
	l.Close()
	w.command(api.Start, p)
	w.leads("shop-web-1")
	w.down(p, true)
	w.nothingLeft()
}

// A forward that is not detached ends with the request, and tells its client what
// it leads to.
func TestForwardRequest(t *testing.T) {
	w := newWorld(t)
	p := project("shop", service("web", "server"))
	w.up(p)
	server := httptest.NewServer(w.s.handler())
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	ask := func(ctx context.Context) (next func() api.Forwarding, end func()) {
		body, err := json.Marshal(api.Forward{Project: "shop", Ports: []api.ForwardPort{{Service: "web", Target: 80, Protocol: "tcp"}}})
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+api.PathForward, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		dec := json.NewDecoder(resp.Body)
		return func() (line api.Forwarding) {
			t.Helper()
			if err := dec.Decode(&line); err != nil {
				t.Fatal(err)
			}
			return line
		}, func() { resp.Body.Close() }
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	next, end := ask(ctx)
	if got := next().Forwards; len(got) != 1 || got[0].Replica != "shop-web-1" {
		t.Errorf("first %+v", got)
	}
	if records, err := state.Open(filepath.Join(w.dir, "state")).Forwards(); err != nil || len(records) != 0 {
		t.Errorf("recorded %v, %v", records, err)
	}
	w.command(api.Stop, p)
	if got := next().Forwards; len(got) != 1 || got[0].Replica != "" {
		t.Errorf("stopped %+v", got)
	}
	w.s.forwards.mu.Lock()
	changed := w.s.forwards.changed
	w.s.forwards.mu.Unlock()
	end() // the client goes
	<-changed
	if all, err := w.s.listForwards(ctx, nil); err != nil || len(all) != 0 {
		t.Errorf("left %+v, %v", all, err)
	}

	w.command(api.Start, p)
	next, end = ask(ctx)
	defer end()
	next()
	w.down(p, true)
	for {
		line := next()
		if line.Error != nil {
			break
		}
	}
	w.nothingLeft()
}
