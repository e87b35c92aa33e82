package state

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/network/ipam"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/machine"
	"github.com/stackvm/stack/spec"
)

func example() *Replica {
	grace := 3 * time.Second
	return &Replica{
		ID: NewID(), Name: "shop-web-1", Labels: map[string]string{"a": "b"}, Created: time.Unix(5, 0).UTC(), Phase: Made,
		Project: "shop", Service: "web", Number: 1, Hash: "h", Image: "nginx", ImageID: "i", StopGrace: &grace,
		Mounts: []MountUse{
			{Type: spec.MountVolume, Volume: "shop_data", Target: "/data"},
			{Type: spec.MountVolume, Volume: "anon", Anonymous: true, Target: "/anon"},
			{Type: spec.MountBind, Source: "/src", Target: "/bind"},
		},
		Endpoints: []Endpoint{{Network: "shop_default", NetworkID: NewID(), MAC: "02:00:00:00:00:01", Addrs: []netip.Prefix{netip.MustParsePrefix("172.17.0.2/16")}}},
		Status:    planner.StatusRunning, Health: &Health{Status: wire.HealthHealthy},
	}
}

func TestRecordsComeBackAsTheyWent(t *testing.T) {
	s := Open(filepath.Join(t.TempDir(), "state"))
	r := example()
	m := &Machine{
		ID: NewID(), Name: r.Name, Phase: Made, Replicas: []string{r.ID}, VLANs: map[uint16]VLAN{2: {NetworkID: "n", Replica: r.ID}},
		Record: machine.Record{PID: 7, Key: wire.NewKey()},
	}
	n := &Network{ID: NewID(), Name: "shop_default", Phase: Made, Project: "shop", Addresses: ipam.State{
		Name: "shop_default", Subnets: []ipam.Subnet{{Prefix: netip.MustParsePrefix("172.17.0.0/16"), Gateway: netip.MustParseAddr("172.17.0.1")}},
	}}
	p := &Project{Name: "shop", WorkingDir: "/w", Desired: &spec.Project{Name: "shop"}}
	resolved := &Resolved{Container: wire.Container{ID: r.ID, Env: []string{"PASSWORD=x"}}}
	if err := errors.Join(s.PutReplica(r), s.PutResolved(r.ID, resolved), s.PutMachine(m), s.PutNetwork(n), s.PutProject(p)); err != nil {
		t.Fatal(err)
	}
	opts := cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})
	gotR, err := s.Replica(r.ID)
	if d := cmp.Diff(r, gotR, opts); d != "" || err != nil {
		t.Errorf("replica: %v\n%s", err, d)
	}
	gotM, err := s.Machine(m.ID)
	if d := cmp.Diff(m, gotM, opts); d != "" || err != nil {
		t.Errorf("machine: %v\n%s", err, d)
	}
	networks, err := s.Networks()
	if d := cmp.Diff([]*Network{n}, networks, opts); d != "" || err != nil {
		t.Errorf("networks: %v\n%s", err, d)
	}
	projects, err := s.Projects()
	if d := cmp.Diff([]*Project{p}, projects, opts); d != "" || err != nil {
		t.Errorf("projects: %v\n%s", err, d)
	}
	// Every file is this user's alone.
	err = filepath.WalkDir(s.Dir(), func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.DeleteReplica(r.ID), s.DeleteMachine(m.ID), s.DeleteNetwork(n.ID), s.DeleteProject("shop")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Replica(r.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("the replica is still there: %v", err)
	}
	if _, err := os.Stat(s.ReplicaDir(r.ID)); err == nil {
		t.Error("its directory is still there")
	}
}

func TestObserve(t *testing.T) {
	s := Open(t.TempDir())
	r := example()
	m := &Machine{ID: NewID(), Phase: Made, Replicas: []string{r.ID}}
	r.Machine = m.ID
	half := example()
	half.Phase, half.Name = Making, "shop-web-2"
	other := example()
	other.Project = "other"
	n := &Network{ID: r.Endpoints[0].NetworkID, Name: "shop_default", Phase: Made, Project: "shop", Key: "default", Hash: "n"}
	if err := errors.Join(s.PutReplica(r), s.PutReplica(half), s.PutReplica(other), s.PutMachine(m), s.PutNetwork(n)); err != nil {
		t.Fatal(err)
	}
	for _, alive := range []bool{true, false} {
		st, err := s.Observe("shop", func(*Machine) bool { return alive })
		if err != nil {
			t.Fatal(err)
		}
		if len(st.Replicas) != 2 || len(st.Networks) != 1 {
			t.Fatalf("observed %+v", st)
		}
		byName := map[string]planner.Replica{}
		for _, o := range st.Replicas {
			byName[o.Name] = o
		}
		web := byName["shop-web-1"]
		want := map[bool]planner.Status{true: planner.StatusRunning, false: planner.StatusExited}[alive]
		if web.Status != want || byName["shop-web-2"].Status != planner.StatusDead {
			t.Errorf("alive %v: statuses %s, %s", alive, web.Status, byName["shop-web-2"].Status)
		}
		if alive && (web.Health != "healthy" || strings.Join(web.Volumes, " ") != "shop_data" || strings.Join(web.Anonymous, " ") != "anon" || strings.Join(web.Networks, " ") != "shop_default") {
			t.Errorf("observed %+v", web)
		}
	}
}

func TestANewerStateIsRefusedAndLeftAlone(t *testing.T) {
	s := Open(t.TempDir())
	r := example()
	if err := s.PutReplica(r); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.ReplicaDir(r.ID), replicaFile)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	newer := strings.Replace(string(text), `"format":1`, `"format":2`, 1)
	if err := os.WriteFile(path, []byte(newer), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = s.Replicas()
	if e, ok := errors.AsType[*NewerError](err); !ok || e.Format != 2 {
		t.Errorf("error %v", err)
	}
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(path); string(text) != newer {
		t.Error("the file was changed")
	}
}

func TestSweepRemovesWhatWasNeverWhole(t *testing.T) {
	s := Open(t.TempDir())
	r := example()
	if err := s.PutReplica(r); err != nil {
		t.Fatal(err)
	}
	orphan := s.ReplicaDir(NewID())
	stray := filepath.Join(s.ReplicaDir(r.ID), tmpPrefix+"1")
	if err := errors.Join(os.MkdirAll(filepath.Join(orphan, "x"), 0o700), os.WriteFile(stray, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{orphan, stray} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
	if _, err := s.Replica(r.ID); err != nil {
		t.Error(err)
	}
}

func TestNamesThatAreNoFiles(t *testing.T) {
	s := Open(t.TempDir())
	for _, name := range []string{"", "../x", ".hidden", "a/b", strings.Repeat("x", 300)} {
		if err := s.PutProject(&Project{Name: name}); err == nil {
			t.Errorf("a project %q was recorded", name)
		}
	}
	if err := s.PutReplica(&Replica{ID: "../../etc"}); err == nil {
		t.Error("a replica outside was recorded")
	}
}

// Whatever is in a file, reading it ends with a record or an error, and what was
// read writes and reads the same.
func FuzzDecode(f *testing.F) {
	text, err := encode(example())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"format":1}`))
	f.Add([]byte(`{"format":9,"id":3}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var r Replica
		if err := decode(text, "f", &r); err != nil {
			return
		}
		again, err := encode(&r)
		if err != nil {
			return // such as a time outside what JSON can say
		}
		var r2 Replica
		if err := decode(again, "f", &r2); err != nil {
			t.Fatalf("%v\n%s", err, again)
		}
		third, err := encode(&r2)
		if err != nil || string(third) != string(again) {
			t.Errorf("%v\n%s\n%s", err, again, third)
		}
		r.Observed()
	})
}

func BenchmarkPutReplica(b *testing.B) {
	s := Open(b.TempDir())
	r := example()
	for b.Loop() {
		if err := s.PutReplica(r); err != nil {
			b.Fatal(err)
		}
	}
}
