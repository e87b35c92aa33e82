package spec

import (
	"net/netip"
	"os"
	"path/filepath"
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
	_, s, err := p.OneOff("web", OneOff{Command: []string{"sh", "-c", "id"}, Environment: []string{"A=2", "B=x=y"}, User: "nobody", TTY: true})
	if err != nil {
		t.Fatal(err)
	}
	want := &Service{
		Name: "web", Scale: 1, Restart: Restart{Policy: "no"}, User: "nobody", TTY: true,
		Command: []string{"sh", "-c", "id"}, Environment: map[string]string{"A": "2", "B": "x=y"}, Labels: map[string]string{},
		Networks: map[string]Attachment{"default": {Aliases: []string{"www"}}},
	}
	if diff := cmp.Diff(want, s, addresses); diff != "" {
		t.Errorf("one-off (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(&before, web, addresses); diff != "" || web.Environment["A"] != "1" {
		t.Errorf("the service changed (-before +after):\n%s", diff)
	}
	if _, _, err := p.OneOff("db", OneOff{}); err == nil {
		t.Error("a service that does not exist was found")
	}
}

// TestOneOffFlags has a row for each flag of run that changes the service.
func TestOneOffFlags(t *testing.T) {
	dir := t.TempDir()
	env := filepath.Join(dir, "vars.env")
	if err := os.WriteFile(env, []byte("FILE=1\nBOTH=file\nFROM=${GIVEN}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	base := func() *Project {
		return &Project{
			Services: map[string]*Service{"web": {
				Name: "web", Command: []string{"serve"}, CapAdd: []string{"NET_ADMIN"}, CapDrop: []string{"CHOWN"}, Labels: map[string]string{"a": "1", "b": "1"},
				Environment: map[string]string{"OWN": "1", "BOTH": "own"}, Ports: []Port{{Target: 80, Protocol: "tcp"}},
				Mounts: []Mount{{Type: MountVolume, Source: "data", Target: "/data"}, {Type: MountTmpfs, Target: "/run"}},
			}},
			Volumes: map[string]*Volume{"data": {Key: "data", Name: "shop_data"}},
		}
	}
	for _, tc := range []struct {
		name  string
		o     OneOff
		check func(p *Project, s *Service) (got, want any)
	}{
		{"no ports", OneOff{}, func(_ *Project, s *Service) (got, want any) { return s.Ports, []Port(nil) }},
		{"-P", OneOff{Ports: true}, func(_ *Project, s *Service) (got, want any) { return s.Ports, []Port{{Target: 80, Protocol: "tcp"}} }},
		{"-p", OneOff{Publish: []string{"8080:90", "127.0.0.1:53:53/udp"}}, func(_ *Project, s *Service) (got, want any) {
			return s.Ports, []Port{{Published: 8080, Target: 90, Protocol: "tcp"}, {HostIP: netip.MustParseAddr("127.0.0.1"), Published: 53, Target: 53, Protocol: "udp"}}
		}},
		{"-v bind, relative", OneOff{Volumes: []string{"./src:/data:ro"}}, func(_ *Project, s *Service) (got, want any) {
			return s.Mounts, []Mount{{Type: MountTmpfs, Target: "/run"}, {Type: MountBind, Source: filepath.Join(dir, "src"), Target: "/data", ReadOnly: true, CreateHostPath: true}}
		}},
		{"-v volume of the project", OneOff{Volumes: []string{"data:/more/data"}}, func(p *Project, s *Service) (got, want any) {
			return []any{s.Mounts[2], p.Volumes}, []any{Mount{Type: MountVolume, Source: "data", Target: "/more/data"}, map[string]*Volume{"data": {Key: "data", Name: "shop_data"}}}
		}},
		{"-v another volume", OneOff{Volumes: []string{"extra:/x"}}, func(p *Project, _ *Service) (got, want any) {
			return p.Volumes["extra"], &Volume{Name: "extra"}
		}},
		{"-v anonymous", OneOff{Volumes: []string{"/cache"}}, func(_ *Project, s *Service) (got, want any) {
			return s.Mounts[2], Mount{Type: MountVolume, Target: "/cache"}
		}},
		{"--entrypoint", OneOff{Entrypoint: `/bin/sh -c "echo a b"`, EntrypointSet: true}, func(_ *Project, s *Service) (got, want any) {
			return [][]string{s.Entrypoint, s.Command}, [][]string{{"/bin/sh", "-c", "echo a b"}, {}}
		}},
		{"--entrypoint with a command", OneOff{Entrypoint: "", EntrypointSet: true, Command: []string{"id"}}, func(_ *Project, s *Service) (got, want any) {
			return [][]string{s.Entrypoint, s.Command}, [][]string{{}, {"id"}}
		}},
		{"--env-from-file and -e", OneOff{EnvFiles: []string{env}, Environment: []string{"GIVEN=g", "OWN=2"}}, func(_ *Project, s *Service) (got, want any) {
			return s.Environment, map[string]string{"OWN": "2", "BOTH": "file", "FILE": "1", "FROM": "g", "GIVEN": "g"}
		}},
		{"--label", OneOff{Labels: []string{"b=2", "c=x=y"}}, func(_ *Project, s *Service) (got, want any) {
			return s.Labels, map[string]string{"a": "1", "b": "2", "c": "x=y"}
		}},
		{"--cap-add and --cap-drop", OneOff{CapAdd: []string{"CHOWN"}, CapDrop: []string{"NET_ADMIN"}}, func(_ *Project, s *Service) (got, want any) {
			return [][]string{s.CapAdd, s.CapDrop}, [][]string{{"CHOWN"}, {"NET_ADMIN"}}
		}},
		{"-i, -t", OneOff{StdinOpen: true, TTY: true}, func(_ *Project, s *Service) (got, want any) {
			return []bool{s.StdinOpen, s.TTY}, []bool{true, true}
		}},
	} {
		p := base()
		with, s, err := p.OneOff("web", tc.o)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		got, want := tc.check(with, s)
		if diff := cmp.Diff(want, got, addresses); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
		if diff := cmp.Diff(base(), p, addresses); diff != "" {
			t.Errorf("%s: the project changed:\n%s", tc.name, diff)
		}
	}
	for _, o := range []OneOff{
		{Publish: []string{"80:70000"}},
		{Publish: []string{"x"}},
		{Publish: []string{"80:80/sctp"}},
		{Volumes: []string{"a:b"}},
		{Volumes: []string{"/var/run/docker.sock:/x"}},
		{Volumes: []string{""}},
		{Labels: []string{"bare"}},
		{EnvFiles: []string{"none"}},
		{Entrypoint: `"`, EntrypointSet: true},
	} {
		if _, _, err := base().OneOff("web", o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

var addresses = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
