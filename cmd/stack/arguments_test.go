package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-multierror"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/spec"
)

var now = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func TestParseTime(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want time.Time
	}{
		{"", time.Time{}},
		{"42m", now.Add(-42 * time.Minute)},
		{"1h30m", now.Add(-90 * time.Minute)},
		{"2013-01-02T13:23:37Z", time.Date(2013, 1, 2, 13, 23, 37, 0, time.UTC)},
		{"2013-01-02T13:23:37.123456789+02:00", time.Date(2013, 1, 2, 11, 23, 37, 123456789, time.UTC)},
		{"2013-01-02T13:23:37", time.Date(2013, 1, 2, 13, 23, 37, 0, time.Local)},
		{"2013-01-02T13:23", time.Date(2013, 1, 2, 13, 23, 0, 0, time.Local)},
		{"2013-01-02T13", time.Date(2013, 1, 2, 13, 0, 0, 0, time.Local)},
		{"2013-01-02", time.Date(2013, 1, 2, 0, 0, 0, 0, time.Local)},
		{"2013-01-02Z", time.Date(2013, 1, 2, 0, 0, 0, 0, time.UTC)},
		{"1136073845", time.Unix(1136073845, 0)},
		{"1136073845.5", time.Unix(1136073845, 5e8)},
	} {
		if got, err := parseTime(tc.in, now); err != nil || !got.Equal(tc.want) {
			t.Errorf("%q: %v, %v, want %v", tc.in, got, err, tc.want)
		}
	}
	for _, in := range []string{"yesterday", "2013-13-01", "-5", "NaN", "Inf", "1e300", "42 m", "\x00"} {
		if got, err := parseTime(in, now); err == nil {
			t.Errorf("%q: %v, want an error", in, got)
		}
	}
}

func FuzzParseTime(f *testing.F) {
	for _, s := range []string{"", "42m", "2013-01-02", "1136073845.5", "9223372036854775807", "2013-01-02T13:23:37Z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		got, err := parseTime(in, now)
		if err != nil {
			if !got.IsZero() {
				t.Errorf("%q: %v beside %v", in, got, err)
			}
			return
		}
		if in == "" {
			return
		}
		again, err := parseTime(got.Format(time.RFC3339Nano), now)
		if got.Year() >= 0 && got.Year() < 10000 && (err != nil || !again.Equal(got)) {
			t.Errorf("%q is %v, which reads as %v, %v", in, got, again, err)
		}
	})
}

func TestParseTail(t *testing.T) {
	for in, want := range map[string]int{"": -1, "all": -1, "0": 0, "12": 12} {
		if got, err := parseTail(in); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"some", "1.5", "99999999999999999999"} {
		if _, err := parseTail(in); err == nil {
			t.Errorf("%q was taken", in)
		}
	}
}

func TestParseScale(t *testing.T) {
	got, err := parseScale([]string{"web=3", "db=0", "web=2"})
	if diff := cmp.Diff(map[string]int{"web": 2, "db": 0}, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	for _, in := range []string{"", "web", "web=", "=3", "web=-1", "web=x", "web=1=2"} {
		if got, err := parseScale([]string{in}); err == nil {
			t.Errorf("%q: %v, want an error", in, got)
		}
	}
}

func TestSplitCopy(t *testing.T) {
	for in, want := range map[string][2]string{
		"web:/etc/hosts": {"web", "/etc/hosts"},
		"web:a:b":        {"web", "a:b"},
		"web:":           {"web", ""},
		"file":           {"", "file"},
		"./web:x":        {"", "./web:x"},
		"../web:x":       {"", "../web:x"},
		"/web:x":         {"", "/web:x"},
		"-":              {"", "-"},
	} {
		if service, path := splitCopy(in); service != want[0] || path != want[1] {
			t.Errorf("%q: %q, %q, want %q", in, service, path, want)
		}
	}
}

func TestSplitTag(t *testing.T) {
	for in, want := range map[string][2]string{
		"nginx:1.27":                {"nginx", "1.27"},
		"nginx":                     {"nginx", "latest"},
		"registry.test:5000/a/b":    {"registry.test:5000/a/b", "latest"},
		"registry.test:5000/a/b:v1": {"registry.test:5000/a/b", "v1"},
	} {
		if repository, tag := splitTag(in); repository != want[0] || tag != want[1] {
			t.Errorf("%q: %q, %q, want %q", in, repository, tag, want)
		}
	}
}

func TestFromEnvironment(t *testing.T) {
	t.Setenv("STACK_TEST_SET", "a=b")
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{".env": "STACK_TEST_FILE=f\nSTACK_TEST_SET=other\n", "compose.yaml": "services: {}"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a := &app{environ: spec.LookupTable(spec.Options{})}
	got, err := a.fromEnvironment([]string{"K=V", "EMPTY=", "STACK_TEST_SET", "STACK_TEST_FILE", "STACK_TEST_UNSET"})
	if diff := cmp.Diff([]string{"K=V", "EMPTY=", "STACK_TEST_SET=a=b", "STACK_TEST_FILE=f"}, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if _, err := a.fromEnvironment([]string{"=V"}); err == nil {
		t.Error("a variable without a name was taken")
	}
}

// TestExitStatus holds the statuses that scripts rely on, docker compose's.
func TestExitStatus(t *testing.T) {
	var many error = multierror.Append(nil, errors.New("one"), errors.New("two"))
	for _, tc := range []struct {
		name   string
		err    error
		status int
		says   string
	}{
		{"success", nil, 0, ""},
		{"an error", errors.New("no such service: x"), 1, "no such service: x\n"},
		{"several", many, 1, "one\ntwo\n"},
		{"interrupted", fmt.Errorf("pulling: %w", context.Canceled), 130, ""},
		{"interrupted up", statusInterrupted, 130, ""},
		{"the command's own", status(wire.ExitStatus{Code: 7}, nil), 7, ""},
		{"the command succeeded", status(wire.ExitStatus{}, nil), 0, ""},
		{"could not run", status(wire.ExitStatus{Code: 126, Error: "not executable"}, nil), 126, "not executable\n"},
		{"not found", commandFailure(&api.Error{Code: api.CodeCommand, Message: "not found", ExitCode: 127}), 127, "not found\n"},
		{"another fault", commandFailure(&api.Error{Code: api.CodeNotFound, Message: "no container"}), 1, "no container\n"},
		{"plan --exit-code", statusChanges, 2, ""},
	} {
		var said bytes.Buffer
		a := &app{err: &said}
		if got := a.report(tc.err); got != tc.status || said.String() != tc.says {
			t.Errorf("%s: status %d, %q, want %d, %q", tc.name, got, said.String(), tc.status, tc.says)
		}
	}
}

func TestParseForwards(t *testing.T) {
	tcp := func(service string, port uint16) api.ForwardPort {
		return api.ForwardPort{Service: service, Target: port, Protocol: "tcp", Local: port, Prefer: true}
	}
	at := func(p api.ForwardPort, local uint16) api.ForwardPort {
		p.Local, p.Prefer = local, false
		return p
	}
	dns := tcp("dns", 53)
	dns.Protocol = "udp"
	for _, tc := range []struct {
		in   []string
		want []api.ForwardPort
		err  string
	}{
		{in: []string{"db:5432"}, want: []api.ForwardPort{tcp("db", 5432)}},
		{in: []string{"db:5432", "15432"}, want: []api.ForwardPort{at(tcp("db", 5432), 15432)}},
		{in: []string{"db:5432", "0", "dns:53/udp", "web:80/TCP", "65535"}, want: []api.ForwardPort{at(tcp("db", 5432), 0), dns, at(tcp("web", 80), 65535)}},
		{err: "a SERVICE:PORT to forward is needed"},
		{in: []string{"15432"}, err: "port 15432: no SERVICE:PORT before it"},
		{in: []string{"db:5432", "1", "2"}, err: "port 2: no SERVICE:PORT before it"},
		{in: []string{"db"}, err: `"db": should be SERVICE:PORT[/PROTOCOL], or a port of this host from 0 to 65535`},
		{in: []string{"db:5432", "65536"}, err: `"65536": should be SERVICE:PORT[/PROTOCOL], or a port of this host from 0 to 65535`},
		{in: []string{":80"}, err: `":80": no service before the port`},
		{in: []string{"db:"}, err: `"db:": the port should be a number from 1 to 65535`},
		{in: []string{"db:0"}, err: `"db:0": the port should be a number from 1 to 65535`},
		{in: []string{"db:80/sctp"}, err: `"db:80/sctp": the protocol should be tcp or udp`},
	} {
		got, err := parseForwards(tc.in)
		fault := ""
		if err != nil {
			fault = err.Error()
		}
		if diff := cmp.Diff(tc.want, got); diff != "" || fault != tc.err {
			t.Errorf("%q: error %q, want %q (-want +got):\n%s", tc.in, fault, tc.err, diff)
		}
	}
}

// What names a forward's target finds that forward.
func FuzzForwardTarget(f *testing.F) {
	for _, s := range []string{"db:5432", "dns:53/udp", "a.b-c_d:1/TCP", "x::1", ":/", "15432/tcp"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		ports, err := parseForwards([]string{in})
		if err != nil {
			return
		}
		p := ports[0]
		made := state.Forward{Service: p.Service, Target: p.Target, Protocol: p.Protocol, Local: 7}
		for _, name := range []string{in, made.String(), "7", "7/" + p.Protocol} {
			if match, err := matchForward(name); err != nil || !match(made) {
				t.Errorf("%q does not find %+v, of %q: %v", name, made, in, err)
			}
		}
	})
}

func TestIPAMPools(t *testing.T) {
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	type in struct{ subnets, ranges, gateways, aux []string }
	for _, tc := range []struct {
		in   in
		want []spec.IPAMPool
		err  string
	}{
		{in: in{}},
		{
			in: in{[]string{"10.9.8.7/24", "fd01::/64"}, []string{"10.9.8.128/25"}, []string{"fd01::5", "10.9.8.1"}, []string{"nas=10.9.8.9", "old=10.9.8.10"}},
			want: []spec.IPAMPool{
				{Subnet: prefix("10.9.8.0/24"), Range: prefix("10.9.8.128/25"), Gateway: addr("10.9.8.1"), Aux: map[string]netip.Addr{"nas": addr("10.9.8.9"), "old": addr("10.9.8.10")}},
				{Subnet: prefix("fd01::/64"), Gateway: addr("fd01::5")},
			},
		},
		{in: in{subnets: []string{"10.9.8.0"}}, err: `subnet "10.9.8.0" is no network in CIDR notation`},
		{in: in{ranges: []string{"10.9.8.0/25"}}, err: "no matching subnet for ip-range 10.9.8.0/25"},
		{in: in{subnets: []string{"10.9.8.0/24"}, ranges: []string{"x"}}, err: `ip-range "x" is no network in CIDR notation`},
		{in: in{subnets: []string{"10.9.8.0/24"}, ranges: []string{"10.9.8.0/16"}}, err: "ip-range 10.9.8.0/16 is larger than subnet 10.9.8.0/24"},
		{in: in{subnets: []string{"10.9.8.0/24"}, ranges: []string{"10.9.8.0/25", "10.9.8.128/25"}}, err: "subnet 10.9.8.0/24 has two ip-ranges"},
		{in: in{subnets: []string{"10.9.8.0/24"}, gateways: []string{"10.9.9.1"}}, err: "no matching subnet for gateway 10.9.9.1"},
		{in: in{subnets: []string{"10.9.8.0/24"}, gateways: []string{"10.9.8.1", "10.9.8.2"}}, err: "subnet 10.9.8.0/24 has two gateways"},
		{in: in{gateways: []string{"x"}}, err: `gateway "x" is no address`},
		{in: in{aux: []string{"10.9.8.1"}}, err: `aux-address "10.9.8.1" should be NAME=ADDRESS`},
		{in: in{aux: []string{"a=10.9.8.1"}}, err: "no matching subnet for aux-address a=10.9.8.1"},
	} {
		got, err := ipamPools(tc.in.subnets, tc.in.ranges, tc.in.gateways, tc.in.aux)
		fault := ""
		if err != nil {
			fault = err.Error()
		}
		if diff := cmp.Diff(tc.want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || fault != tc.err {
			t.Errorf("%+v: error %q, want %q (-want +got):\n%s", tc.in, fault, tc.err, diff)
		}
	}
}
