//go:build linux

package container

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stackvm/stack/guest/agent/netlink"
)

// What listens inside is listened on outside at the address that means the same
// there, once.
func TestOutward(t *testing.T) {
	socket := func(at string) netlink.Socket { return netlink.Socket{Addr: netip.MustParseAddrPort(at)} }
	udp := func(s netlink.Socket) netlink.Socket { s.UDP = true; return s }
	only := func(s netlink.Socket) netlink.Socket { s.V6Only = true; return s }
	for _, tt := range []struct {
		name string
		in   []netlink.Socket
		want []string
	}{
		{"nothing", nil, nil},
		{"every address", []netlink.Socket{socket("0.0.0.0:80")}, []string{"tcp 0.0.0.0:80"}},
		{"several that share a port", []netlink.Socket{socket("0.0.0.0:80"), socket("0.0.0.0:80")}, []string{"tcp 0.0.0.0:80"}},
		{"both families by one socket", []netlink.Socket{socket("[::]:80")}, []string{"tcp 0.0.0.0:80", "tcp [::]:80"}},
		{"both families by two", []netlink.Socket{socket("0.0.0.0:80"), only(socket("[::]:80"))}, []string{"tcp 0.0.0.0:80", "tcp [::]:80 relayed from [::]:80"}},
		{"loopback", []netlink.Socket{socket("127.0.0.1:53"), udp(socket("127.0.0.53:53")), socket("[::1]:53")}, []string{
			"tcp 127.0.0.1:53 relayed from 127.0.0.1:53", "tcp [::1]:53 relayed from [::1]:53", "udp 127.0.0.53:53 relayed from 127.0.0.53:53",
		}},
		{"loopback beside every address", []netlink.Socket{socket("0.0.0.0:80"), socket("127.0.0.1:80"), socket("[::1]:80"), udp(socket("127.0.0.1:80"))}, []string{
			"tcp 0.0.0.0:80", "tcp [::1]:80 relayed from [::1]:80", "udp 127.0.0.1:80 relayed from 127.0.0.1:80",
		}},
		{"an interface's own address", []netlink.Socket{socket("172.18.0.2:80"), socket("[fe80::1]:81")}, []string{"tcp 0.0.0.0:80", "tcp [::]:81 relayed from [fe80::1]:81"}},
		{"by port", []netlink.Socket{socket("0.0.0.0:90"), udp(socket("0.0.0.0:80")), socket("0.0.0.0:80")}, []string{"tcp 0.0.0.0:80", "udp 0.0.0.0:80", "tcp 0.0.0.0:90"}},
	} {
		var got []string
		for _, o := range outward(tt.in) {
			line := "tcp"
			if o.udp {
				line = "udp"
			}
			line += fmt.Sprintf(" %s", netip.AddrPortFrom(o.addr, o.to.Port()))
			if o.relayed {
				line += " relayed from " + o.to.String()
			}
			got = append(got, line)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}
