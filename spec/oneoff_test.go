package spec

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOneOffLeavesTheServiceAlone(t *testing.T) {
	web := &Service{
		Name: "web", Scale: 3, ContainerName: "w", Restart: Restart{Policy: "always"},
		Command: []string{"serve"}, Environment: map[string]string{"A": "1"},
		Ports:    []Port{{Target: 80}},
		Networks: map[string]Attachment{"default": {IPv4: netip.MustParseAddr("10.0.0.9"), MAC: "02:00:00:00:00:01", Aliases: []string{"www"}}},
	}
	p := &Project{Services: map[string]*Service{"web": web}}
	before := *web
	s, err := p.OneOff("web", OneOff{Command: []string{"sh", "-c", "id"}, Environment: []string{"A=2", "B=x=y"}, User: "nobody", TTY: true})
	if err != nil {
		t.Fatal(err)
	}
	want := &Service{
		Name: "web", Scale: 1, Restart: Restart{Policy: "no"}, User: "nobody", TTY: true,
		Command: []string{"sh", "-c", "id"}, Environment: map[string]string{"A": "2", "B": "x=y"},
		Networks: map[string]Attachment{"default": {Aliases: []string{"www"}}},
	}
	opt := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if diff := cmp.Diff(want, s, opt); diff != "" {
		t.Errorf("one-off (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(&before, web, opt); diff != "" || web.Environment["A"] != "1" {
		t.Errorf("the service changed (-before +after):\n%s", diff)
	}
	if s, err := p.OneOff("web", OneOff{Entrypoint: "/bin/sh -x", EntrypointSet: true}); err != nil || len(s.Command) != 0 || len(s.Entrypoint) != 2 {
		t.Errorf("an entrypoint of its own drops the command: %v %v %v", s.Entrypoint, s.Command, err)
	}
	if _, err := p.OneOff("db", OneOff{}); err == nil {
		t.Error("a service that does not exist was found")
	}
}
