package main

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/network/ipam"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/runtime/volume"
)

// TestLists holds the lists beside ps in the forms that scripts read.
func TestLists(t *testing.T) {
	vol := lineOfVolume(&volume.Volume{Name: "shop_data", Disk: "/d/disk.img", Labels: map[string]string{"b": "2", "a": "1"}})
	project := projectLine{Name: "shop", Status: "exited(1), running(2)", ConfigFiles: "/srv/compose.yaml"}
	image := imageLine{ID: "sha256:0123456789abcdef", ContainerName: "shop-web-1", Repository: "nginx", Tag: "1.27", Platform: "linux/amd64", Size: 12_345_678}
	corp := &state.Network{
		ID: "0123456789abcdef", Name: "corp", Created: now, Internal: true, Labels: map[string]string{"b": "2", "a": "1"},
		Addresses: ipam.State{Subnets: []ipam.Subnet{{Prefix: netip.MustParsePrefix("10.9.8.0/24")}}},
	}
	first := api.Stats{At: now}
	second := api.Stats{At: now.Add(2 * time.Second), MachineMemory: 1 << 30, ContainerStats: wire.ContainerStats{
		CPUNanos: int64(3 * time.Second), MemoryBytes: 256 << 20, PIDs: 7, NetRx: 1500, NetTx: 20, BlockRead: 1_200_000, BlockWrite: 0,
	}}
	stats := newStatsLine(webReplica(), first, second)
	stats.ID = shortID(stats.ID)
	stats.Container = stats.ID
	for _, tc := range []struct {
		name string
		do   func(w *bytes.Buffer) error
		want string
	}{
		{"volumes", func(w *bytes.Buffer) error { return render.Rows(w, "table", volumeLayout, []volumeLine{vol}) }, "DRIVER    VOLUME NAME\nlocal     shop_data\n"},
		{"volumes, empty", func(w *bytes.Buffer) error { return render.Rows(w, "", volumeLayout, []volumeLine(nil)) }, "DRIVER    VOLUME NAME\n"},
		{
			"volumes as JSON", func(w *bytes.Buffer) error { return render.Rows(w, "json", volumeLayout, []volumeLine{vol}) },
			`{"Availability":"N/A","Driver":"local","Group":"N/A","Labels":"a=1,b=2","Links":"N/A","Mountpoint":"/d/disk.img","Name":"shop_data","Scope":"local","Size":"N/A","Status":"N/A"}` + "\n",
		},
		{"volumes, a label", func(w *bytes.Buffer) error {
			return render.Rows(w, `{{.Name}} {{.Label "b"}}`, volumeLayout, []volumeLine{vol})
		}, "shop_data 2\n"},
		{
			"forwards as JSON", func(w *bytes.Buffer) error {
				return render.Rows(w, "json", forwardLayout, []forwardLine{lineOfForward(api.Forwarded{
					Forward: state.Forward{Project: "shop", Service: "dns", Target: 53, Protocol: "udp", Local: 5353, Detached: true},
					Addrs:   []string{"127.0.0.1:5353"}, Replica: "shop-dns-1",
				})})
			},
			`{"Address":"127.0.0.1:5353","Container":"shop-dns-1","Detached":true,"Index":0,"LocalPort":5353,"Port":53,"Project":"shop","Protocol":"udp","Service":"dns","Status":"forwarding"}` + "\n",
		},
		{"forwards", func(w *bytes.Buffer) error {
			return render.Rows(w, "table", forwardLayout, []forwardLine{lineOfForward(api.Forwarded{
				Forward: state.Forward{Project: "shop", Service: "db", Target: 5432, Protocol: "tcp", Local: 15432}, Addrs: []string{"127.0.0.1:15432"},
			})})
		}, "ADDRESS           TARGET        PROJECT   CONTAINER   STATUS\n127.0.0.1:15432   db:5432/tcp   shop                  waiting for a container\n"},
		{"networks", func(w *bytes.Buffer) error {
			return render.Rows(w, "table", networkLayout, []networkLine{lineOfNetwork(corp, false)})
		}, "NETWORK ID     NAME      DRIVER    SCOPE\n0123456789ab   corp      bridge    local\n"},
		{
			"networks as JSON", func(w *bytes.Buffer) error {
				return render.Rows(w, "json", networkLayout, []networkLine{lineOfNetwork(corp, true)})
			},
			`{"CreatedAt":"2030-01-02 03:04:05 +0000 UTC","Driver":"bridge","ID":"0123456789abcdef","IPv4":"true","IPv6":"false","Internal":"true","Labels":"a=1,b=2","Name":"corp","Scope":"local"}` + "\n",
		},
		{"ls", func(w *bytes.Buffer) error { return render.Rows(w, "table", projectLayout, []projectLine{project}) }, "NAME                STATUS                  CONFIG FILES\nshop                exited(1), running(2)   /srv/compose.yaml\n"},
		{"images", func(w *bytes.Buffer) error {
			return render.Rows(w, `table {{.ContainerName}}\t{{.ShortID}}\t{{.HumanSize}}\t{{.Since}}`, imageLayout, []imageLine{image})
		}, "CONTAINER           IMAGE ID            SIZE                CREATED\nshop-web-1          0123456789ab        12.3MB              N/A\n"},
		{"stats", func(w *bytes.Buffer) error { return render.Rows(w, "", statsLayout, []statsLine{stats}) }, "CONTAINER ID   NAME         CPU %     MEM USAGE / LIMIT   MEM %     NET I/O       BLOCK I/O    PIDS\n" +
			"0123456789ab   shop-web-1   150.00%   256MiB / 1GiB       25.00%    1.5kB / 20B   1.2MB / 0B   7\n"},
		{
			"stats as JSON", func(w *bytes.Buffer) error { return render.Rows(w, "json", statsLayout, []statsLine{stats}) },
			`{"BlockIO":"1.2MB / 0B","CPUPerc":"150.00%","Container":"0123456789ab","ID":"0123456789ab","MemPerc":"25.00%","MemUsage":"256MiB / 1GiB","Name":"shop-web-1","NetIO":"1.5kB / 20B","PIDs":"7"}` + "\n",
		},
	} {
		var out bytes.Buffer
		if err := tc.do(&out); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		if diff := cmp.Diff(tc.want, out.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

// TestStatsBackwards: counters that begin anew, as those of a container that was
// started again, are no negative percentage.
func TestStatsBackwards(t *testing.T) {
	line := newStatsLine(webReplica(), api.Stats{At: now, ContainerStats: wire.ContainerStats{CPUNanos: 9}}, api.Stats{At: now})
	if line.CPUPerc != "0.00%" || line.MemPerc != "0.00%" {
		t.Errorf("%+v", line)
	}
}

func TestTopRows(t *testing.T) {
	top := func(name, service string, number int, titles []string, processes ...[]string) api.Top {
		return api.Top{Replica: api.ReplicaRef{Name: name}, Service: service, Number: number, Top: wire.Top{Titles: titles, Processes: processes}}
	}
	header, rows := topRows([]api.Top{
		top("shop-web-1", "web", 1, []string{"PID", "CMD", "TTY"}, []string{"1", "nginx", "?"}, []string{"7", "worker", "?"}),
		top("shop-db-2", "db", 2, []string{"PID", "CMD"}, []string{"1", "postgres"}),
		top("shop-web-run-1", "web", 0, []string{"PID", "CMD"}, []string{"1"}),
	})
	if diff := cmp.Diff([]string{"SERVICE", "#", "PID", "TTY", "CMD"}, header); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
	want := [][]string{{"db", "2", "1", "-", "postgres"}, {"web", "1", "1", "?", "nginx"}, {"web", "1", "7", "?", "worker"}, {"web", "", "1", "-", "-"}}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
}

func TestChosen(t *testing.T) {
	replica := func(name string, number int, status planner.Status, oneOff bool) *state.Replica {
		return &state.Replica{Name: name, Number: number, Status: status, OneOff: oneOff}
	}
	all := []*state.Replica{
		replica("run", 0, planner.StatusRunning, true), replica("10", 10, planner.StatusRunning, false),
		replica("2", 2, planner.StatusRunning, false), replica("1", 1, planner.StatusExited, false),
	}
	for _, tc := range []struct {
		from    []*state.Replica
		index   int
		oneOffs bool
		want    string
	}{
		{all, 0, true, "2"}, {all, 10, false, "10"}, {all, 1, true, ""}, {all[:1], 0, true, "run"}, {all[:1], 0, false, ""}, {all[:1], 1, true, ""}, {nil, 0, true, ""},
	} {
		got := ""
		if r := chosen(tc.from, tc.index, tc.oneOffs); r != nil {
			got = r.Name
		}
		if got != tc.want {
			t.Errorf("index %d of %d, one-offs %v: %q, want %q", tc.index, len(tc.from), tc.oneOffs, got, tc.want)
		}
	}
}

func TestNameFilter(t *testing.T) {
	for _, tc := range []struct {
		filters []string
		names   string
	}{
		{nil, "shop blog"}, {[]string{"name=shop"}, "shop"}, {[]string{"name=^b"}, "blog"}, {[]string{"name=shop", "name=blog"}, "shop blog"}, {[]string{"name=x"}, ""},
	} {
		match, err := nameFilter(tc.filters)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, n := range []string{"shop", "blog"} {
			if match(n) {
				got = append(got, n)
			}
		}
		if strings.Join(got, " ") != tc.names {
			t.Errorf("%q: %q, want %q", tc.filters, got, tc.names)
		}
	}
	for _, f := range []string{"name", "status=running", "name=("} {
		if _, err := nameFilter([]string{f}); err == nil {
			t.Errorf("%q was taken", f)
		}
	}
}

func TestPrintEvent(t *testing.T) {
	e := api.ObjectEvent{
		Time: now, Type: "container", Action: "die", ID: "0123", Name: "shop-web-1", Service: "web",
		Attributes: map[string]string{"exitCode": "3", "image": "nginx", "com.docker.compose.service": "web", "mine": "<x>"},
	}
	var out bytes.Buffer
	a := &app{out: &out}
	if err := a.printEvent(e, true); err != nil {
		t.Fatal(err)
	}
	if err := a.printEvent(e, false); err != nil {
		t.Fatal(err)
	}
	want := `{"action":"die","attributes":{"exitCode":"3","image":"nginx","mine":"<x>","name":"shop-web-1"},"id":"0123","service":"web","time":"2030-01-02T03:04:05Z","type":"container"}` + "\n" +
		now.Local().Format("2006-01-02 15:04:05.000000") + " container die 0123 (exitCode=3, image=nginx, mine=<x>, name=shop-web-1)\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseReplicas(t *testing.T) {
	got, err := parseReplicas([]string{"web=3", "db=0"})
	if diff := cmp.Diff(map[string]int{"web": 3, "db": 0}, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	for _, in := range []string{"web", "web=", "=1", "web=-1", "web=x"} {
		if _, err := parseReplicas([]string{in}); err == nil || !strings.HasPrefix(err.Error(), "invalid scale specifier: ") {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestDetachKeys(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	if got, err := detachKeys("ctrl-a,d"); err != nil || string(got) != "\x01d" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := detachKeys("ctrl-nothing"); err == nil {
		t.Error("keys that are none were taken")
	}
}

// TestUnsupportedCommands: what needs a builder says so in one line and ends with
// 1, whatever its arguments.
func TestUnsupportedCommands(t *testing.T) {
	for _, args := range [][]string{
		{"build"},
		{"build", "--no-cache", "web"},
		{"push", "-q"},
		{"publish", "x/y"},
		{"commit", "web", "x"},
		{"watch", "--no-up"},
		{"bridge", "convert"},
		{"alpha", "viz"},
		{"create", "--build"},
		{"run", "--build", "web"},
	} {
		var said bytes.Buffer
		a := &app{out: &said, err: &said}
		root := a.root()
		root.SetArgs(args)
		if status := a.report(root.ExecuteContext(t.Context())); status != 1 || strings.Count(said.String(), "\n") != 1 || !strings.Contains(said.String(), "not supported yet") {
			t.Errorf("%v: status %d, %q", args, status, said.String())
		}
	}
}
