package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var (
	addr   = netip.MustParseAddr
	prefix = netip.MustParsePrefix

	comparePrefix = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	compareAddr   = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
)

func TestSubnets(t *testing.T) {
	for _, tc := range []struct {
		name  string
		in    Request
		taken []string
		want  []Subnet
		err   string
	}{
		{name: "default", want: []Subnet{{Prefix: prefix("172.17.0.0/16"), Gateway: addr("172.17.0.1")}}},
		{
			name: "second default", taken: []string{"172.17.0.0/16", "172.18.4.0/24"},
			want: []Subnet{{Prefix: prefix("172.19.0.0/16"), Gateway: addr("172.19.0.1")}},
		},
		{
			name: "after docker's first pool", taken: []string{"172.16.0.0/12"},
			want: []Subnet{{Prefix: prefix("192.168.0.0/20"), Gateway: addr("192.168.0.1")}},
		},
		{
			name: "after docker's last pool", taken: []string{"172.16.0.0/12", "192.168.0.0/16"},
			want: []Subnet{{Prefix: prefix("10.192.0.0/24"), Gateway: addr("10.192.0.1")}},
		},
		{name: "nothing left", taken: []string{"0.0.0.0/0"}, err: `network "net": no free default subnet`},
		{
			name: "IPv6 of its own", in: Request{Network: "id", IPv6: true},
			want: []Subnet{
				{Prefix: prefix("172.17.0.0/16"), Gateway: addr("172.17.0.1")},
				{Prefix: unique6("id", nil, nil), Gateway: unique6("id", nil, nil).Addr().Next()},
			},
		},
		{
			name: "given in full",
			in: Request{Config: []Config{{
				Subnet: prefix("10.5.0.0/16"), Range: prefix("10.5.8.0/24"), Gateway: addr("10.5.0.254"),
				Aux: map[string]netip.Addr{"printer": addr("10.5.8.0")},
			}}},
			want: []Subnet{{
				Prefix: prefix("10.5.0.0/16"), Range: prefix("10.5.8.0/24"), Gateway: addr("10.5.0.254"),
				Aux: map[string]netip.Addr{"printer": addr("10.5.8.0")},
			}},
		},
		{
			name: "gateway moves aside",
			in:   Request{Config: []Config{{Subnet: prefix("10.5.0.0/29"), Aux: map[string]netip.Addr{"x": addr("10.5.0.1")}}}},
			want: []Subnet{{Prefix: prefix("10.5.0.0/29"), Gateway: addr("10.5.0.2"), Aux: map[string]netip.Addr{"x": addr("10.5.0.1")}}},
		},
		{
			name: "IPv6 only", in: Request{NoIPv4: true, Config: []Config{{Subnet: prefix("2001:db8::/64")}}},
			want: []Subnet{{Prefix: prefix("2001:db8::/64"), Gateway: addr("2001:db8::1")}},
		},
		{
			name: "two addresses", in: Request{Config: []Config{{Subnet: prefix("10.5.0.0/31")}}},
			want: []Subnet{{Prefix: prefix("10.5.0.0/31"), Gateway: addr("10.5.0.0")}},
		},
		{name: "gateway alone", in: Request{Config: []Config{{Gateway: addr("10.5.0.1")}}}, err: "need the subnet they are part of"},
		{name: "empty entry", in: Request{Config: []Config{{}}}, want: []Subnet{{Prefix: prefix("172.17.0.0/16"), Gateway: addr("172.17.0.1")}}},
		{name: "host bits", in: Request{Config: []Config{{Subnet: prefix("10.5.0.1/16")}}}, err: "subnet 10.5.0.1/16: it should be 10.5.0.0/16"},
		{name: "neither", in: Request{NoIPv4: true}, err: "neither IPv4 nor IPv6 is enabled"},
		{name: "foreign gateway", in: Request{Config: []Config{{Subnet: prefix("10.5.0.0/16"), Gateway: addr("10.6.0.1")}}}, err: "gateway 10.6.0.1: not in subnet 10.5.0.0/16"},
		{name: "gateway is broadcast", in: Request{Config: []Config{{Subnet: prefix("10.5.0.0/24"), Gateway: addr("10.5.0.255")}}}, err: "it is the broadcast address"},
		{name: "foreign range", in: Request{Config: []Config{{Subnet: prefix("10.5.0.0/16"), Range: prefix("10.0.0.0/8")}}}, err: "ip_range 10.0.0.0/8: not a part of subnet"},
		{name: "overlap", in: Request{Config: []Config{{Subnet: prefix("10.5.0.0/16")}, {Subnet: prefix("10.5.1.0/24")}}}, err: "subnet 10.5.1.0/24: overlaps 10.5.0.0/16"},
		{name: "loopback", in: Request{Config: []Config{{Subnet: prefix("127.0.0.0/8")}}}, err: "not a range for hosts"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.in.Name = "net"
			var taken []netip.Prefix
			for _, p := range tc.taken {
				taken = append(taken, prefix(p))
			}
			got, err := Subnets(tc.in, taken)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.want, got, comparePrefix, compareAddr); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestLease(t *testing.T) {
	n, err := New("shop_back", []Subnet{
		{Prefix: prefix("10.5.0.0/29"), Gateway: addr("10.5.0.1"), Aux: map[string]netip.Addr{"x": addr("10.5.0.3")}},
		{Prefix: prefix("fd00::/64"), Gateway: addr("fd00::1")},
	})
	if err != nil {
		t.Fatal(err)
	}
	lease := func(holder string, static ...string) string {
		t.Helper()
		var s []netip.Addr
		for _, a := range static {
			s = append(s, addr(a))
		}
		got, err := n.Lease(holder, s...)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprint(got)
	}
	for _, step := range []struct{ got, want string }{
		{lease("a"), "[10.5.0.2 fd00::2]"},
		{lease("b"), "[10.5.0.4 fd00::3]"},
		{lease("a"), "[10.5.0.2 fd00::2]"},
		{lease("c", "fd00::100"), "[10.5.0.5 fd00::100]"},
		{lease("d", "10.5.0.5"), `network "shop_back": address for "d": 10.5.0.5 is held by "c"`},
		{lease("d", "10.5.0.1"), `network "shop_back": address for "d": 10.5.0.1 is the gateway`},
		{lease("d", "10.5.0.3"), `network "shop_back": address for "d": 10.5.0.3 is reserved as aux_address "x"`},
		{lease("d", "10.5.0.7"), `network "shop_back": address for "d": 10.5.0.7 is the broadcast address`},
		{lease("d", "10.6.0.7"), `network "shop_back": address for "d": 10.6.0.7 is not in [10.5.0.0/29 fd00::/64]`},
		{lease("e"), "[10.5.0.6 fd00::4]"},
		{lease("f"), `network "shop_back": address for "f": no free address in [10.5.0.0/29], all 4 are leased or reserved: give the network a larger subnet or ip_range`},
	} {
		if step.got != step.want {
			t.Errorf("got  %s\nwant %s", step.got, step.want)
		}
	}
	if _, err := n.Lease("f"); !errors.Is(err, ErrExhausted) {
		t.Errorf("not ErrExhausted: %v", err)
	}
	n.Release("b")
	if got := lease("f"); got != "[10.5.0.4 fd00::3]" {
		t.Errorf("after a release: %s", got)
	}
	if err := n.Reserve("g", addr("fd00::200")); err != nil {
		t.Fatal(err)
	}
	n.Release("a")
	if got := lease("g"); got != "[10.5.0.2 fd00::200]" {
		t.Errorf("after a reservation: %s", got)
	}
}

// TestLeaseProperties checks over random calls what always holds: no address
// is held twice, reserved ones never, answers lie in range, a refused call
// changes nothing, and a restored network goes on as the first would have.
func TestLeaseProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		subnets, err := Subnets(Request{Network: "id", Name: "net", IPv6: rapid.Bool().Draw(t, "ipv6"), Config: []Config{{
			Subnet: netip.PrefixFrom(addr("10.5.0.0"), rapid.IntRange(26, 30).Draw(t, "bits")),
		}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		n, err := New("net", subnets)
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 60).Draw(t, "calls") {
			holder := rapid.StringMatching("[a-h]").Draw(t, "holder")
			before := n.State()
			var err error
			switch rapid.IntRange(0, 3).Draw(t, "call") {
			case 0:
				n.Release(holder)
				if len(n.Held(holder)) != 0 {
					t.Fatalf("%s holds after a release", holder)
				}
			case 1:
				_, err = n.Lease(holder, addr(fmt.Sprintf("10.5.0.%d", rapid.IntRange(0, 80).Draw(t, "static"))))
			case 2:
				err = n.Reserve(holder, addr(fmt.Sprintf("10.5.0.%d", rapid.IntRange(0, 80).Draw(t, "static"))))
			default:
				held := n.Held(holder)
				var got []netip.Addr
				got, err = n.Lease(holder)
				if err == nil && len(got) != len(subnets) {
					t.Fatalf("leased %v", got)
				}
				for _, a := range held {
					if err == nil && !slices.Contains(got, a) {
						t.Fatalf("%s lost %s", holder, a)
					}
				}
			}
			after := n.State()
			if err != nil {
				if d := cmp.Diff(before, after, comparePrefix, compareAddr); d != "" {
					t.Fatalf("a refused call changed: %s", d)
				}
			}
			for _, l := range after.Leases {
				i := slices.IndexFunc(subnets, func(s Subnet) bool { return s.Prefix.Contains(l.Addr) })
				if i < 0 || subnets[i].reserved(l.Addr) != "" {
					t.Fatalf("leased %s", l.Addr)
				}
			}
			data, err := json.Marshal(after)
			if err != nil {
				t.Fatal(err)
			}
			var back State
			if err := json.Unmarshal(data, &back); err != nil {
				t.Fatal(err)
			}
			if n, err = Restore(back); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(after, n.State(), comparePrefix, compareAddr); d != "" {
				t.Fatalf("restored: %s", d)
			}
		}
	})
}

// TestDefaultSubnetsAreDisjoint takes more than docker has.
func TestDefaultSubnetsAreDisjoint(t *testing.T) {
	var taken []netip.Prefix
	for i := range 100 {
		got, err := Subnets(Request{Network: fmt.Sprint(i), Name: "net", IPv6: true}, taken)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range got {
			if slices.ContainsFunc(taken, s.Prefix.Overlaps) {
				t.Fatalf("%s overlaps", s.Prefix)
			}
			taken = append(taken, s.Prefix)
		}
	}
}

func TestMAC(t *testing.T) {
	a := MAC("machine", "network")
	if a[0]&3 != 2 {
		t.Errorf("%s is not unicast and locally administered", a)
	}
	if a.String() != MAC("machine", "network").String() || a.String() == MAC("machine", "other").String() || a.String() == MAC("other", "network").String() {
		t.Error("not a function of machine and network")
	}
}
