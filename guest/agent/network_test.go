//go:build linux

package agent_test

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stackvm/stack/guest/agent/boottest"
	"github.com/stackvm/stack/guest/wire"
)

// answer is the DNS response to query with one address, or with a code.
func answer(query []byte, rcode byte, a [4]byte) []byte {
	end := 12
	for query[end] != 0 {
		end += int(query[end]) + 1
	}
	end += 5
	out := append([]byte(nil), query[:end]...)
	out[2], out[3] = query[2]|0x80, 0x80|rcode
	out[6], out[7], out[8], out[9], out[10], out[11] = 0, 0, 0, 0, 0, 0
	if query[end-3] == 1 && rcode == 0 { // A
		out[7] = 1
		out = append(out, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4)
		out = append(out, a[:]...)
	}
	return out
}

// name is the first label of the query's name.
func name(query []byte) string { return string(query[13 : 13+query[12]]) }

// Interfaces come and go, names resolve by whichever network knows them, a
// resolver that is away for a second is not noticed, and a container may serve
// port 53 itself.
func TestNetwork(t *testing.T) {
	m := boottest.Boot(t, boottest.Options{Disks: []boottest.Disk{
		{Serial: "img", Path: boottest.Image(t, nil), ReadOnly: true},
	}})
	var away, recursion atomic.Int32
	network := func(vlan uint16, addr string, known string, a [4]byte) boottest.Peer {
		return boottest.Peer{VLAN: vlan, Addr: netip.MustParseAddr(addr), Handle: func(port uint16, q []byte) []byte {
			if port != 53 {
				return nil
			}
			if away.Add(-1) >= 0 {
				return nil
			}
			if q[2]&1 != 0 {
				recursion.Add(1)
			}
			if name(q) == known {
				return answer(q, 0, a)
			}
			return answer(q, 3, a)
		}}
	}
	outside := network(10, "10.1.0.99", "example", [4]byte{192, 0, 2, 1})
	m.Peers(
		network(10, "10.1.0.1", "db", [4]byte{10, 1, 0, 7}),
		network(20, "10.2.0.1", "cache", [4]byte{10, 2, 0, 8}),
		outside,
	)
	first := wire.Interface{VLAN: 10, MAC: "02:00:00:00:01:02", Addrs: []string{"10.1.0.2/24", "fd00::2/64", "169.254.7.7/16"}, Sysctls: map[string]string{"net.ipv4.conf.IFNAME.log_martians": "1"}, Gateways: []string{"10.1.0.1"}, Resolver: "10.1.0.1"}
	second := wire.Interface{VLAN: 20, MAC: "02:00:00:00:02:02", Addrs: []string{"10.2.0.2/24"}, Resolver: "10.2.0.1"}
	c := shell(idA, "trap exit TERM; while :; do sleep 1000 & wait; done")
	c.Root.Scratch = ""
	c.Interfaces = []wire.Interface{first}
	c.Hosts = []wire.Host{{Addr: "10.9.9.9", Names: []string{"elsewhere"}}}
	m.Call(wire.OpCreate, c, nil)
	m.Call(wire.OpStart, wire.ContainerRef{ID: idA}, nil)

	ip := m.Sh(idA, "ip addr; ip route; cat /etc/resolv.conf /etc/hosts; echo martians $(cat /proc/sys/net/ipv4/conf/eth0/log_martians)")
	for _, want := range []string{"eth0", "10.1.0.2/24", "fd00::2/64", "169.254.7.7/16", "martians 1", "02:00:00:00:01:02", "default via 10.1.0.1", "nameserver 127.0.0.11", "10.9.9.9\telsewhere", "10.1.0.2\taaaaaaaaaaaa"} {
		if !strings.Contains(ip, want) {
			t.Errorf("no %q in:\n%s", want, ip)
		}
	}
	lookup := func(host, want string) {
		t.Helper()
		r, err := m.Exec(wire.Exec{ID: idA, Args: []string{"nslookup", "-type=a", host}})
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Stdout + r.Stderr; !strings.Contains(got, want) {
			t.Errorf("nslookup %s: no %q in:\n%s", host, want, got)
		}
	}
	lookup("db", "10.1.0.7")
	lookup("cache", "NXDOMAIN")
	for _, key := range []string{"net.ipv4.conf.IFNAME.nothing", "net.ipv4/../../../kernel/IFNAME", "kernel.panic"} {
		bad := second
		bad.Sysctls = map[string]string{key: "1"}
		if err := m.Try(wire.OpConnect, wire.Connect{Container: idA, Interface: bad}, nil); err == nil {
			t.Errorf("setting %s of an interface succeeded", key)
		}
	}
	m.Call(wire.OpConnect, wire.Connect{Container: idA, Interface: second}, nil)
	lookup("cache", "10.2.0.8")
	away.Store(3)
	lookup("db", "10.1.0.7")
	if out := m.Sh(idA, "ip link show eth1 && cat /proc/sys/net/ipv6/conf/eth1/disable_ipv6"); !strings.Contains(out, "\n1\n") {
		t.Errorf("a network without IPv6: %q", out)
	}

	// The container's own server, on every address, beside the stub.
	out := m.Sh(idA, "nc -u -l -p 53 -s 127.0.0.1 </dev/null & sleep 0.2; nslookup -type=a db 2>&1; kill %1; netstat -lnu")
	if !strings.Contains(out, "10.1.0.7") {
		t.Errorf("with port 53 taken: %s", out)
	}
	m.Call(wire.OpCut, wire.Connect{Container: idA, Interface: wire.Interface{VLAN: 20}}, nil)
	lookup("cache", "NXDOMAIN")
	if err := m.Try(wire.OpCut, wire.Connect{Container: idA, Interface: wire.Interface{VLAN: 20}}, nil); err == nil {
		t.Error("cutting a network that is not there succeeded")
	}
	m.Call(wire.OpStop, wire.Stop{ID: idA, Grace: boottest.Patience}, nil)
	m.Call(wire.OpRemove, wire.ContainerRef{ID: idA}, nil)

	// The same VLAN at once again, and a user's own servers for outside names.
	recursion.Store(0)
	c.DNS.Servers = []string{"10.1.0.99"}
	m.Call(wire.OpCreate, c, nil)
	m.Call(wire.OpStart, wire.ContainerRef{ID: idA}, nil)
	lookup("db", "10.1.0.7")
	if recursion.Load() != 0 {
		t.Error("a network's resolver was asked to recurse although the user has servers")
	}
	lookup("example.test", "192.0.2.1")
}

// What a container listens on is told as it comes and goes: who is a client only
// is not, and a loopback's port has one that leads there.
func TestPorts(t *testing.T) {
	m := boottest.Boot(t, boottest.Options{Disks: []boottest.Disk{
		{Serial: "img", Path: boottest.Image(t, nil), ReadOnly: true},
	}})
	m.Peers(boottest.Peer{VLAN: 10, Addr: netip.MustParseAddr("10.1.0.1")})
	events := m.Events()
	c := shell(idA, "trap exit TERM; while :; do sleep 1000 & wait; done")
	c.Root.Scratch, c.TellPorts = "", true
	c.Interfaces = []wire.Interface{{VLAN: 10, MAC: "02:00:00:00:01:02", Addrs: []string{"10.1.0.2/24"}, Gateways: []string{"10.1.0.1"}, Resolver: "10.1.0.1"}}
	m.Call(wire.OpCreate, c, nil)
	m.Call(wire.OpStart, wire.ContainerRef{ID: idA}, nil)
	relay := uint16(0)
	told := func(want string) {
		t.Helper()
		var last []string
		m.Await(events, func(e wire.Event) bool {
			if e.Kind != wire.EventPorts || e.Container != idA {
				return false
			}
			last = nil
			for _, p := range e.Ports {
				if (p.Relay != 0) != p.Addr.IsLoopback() {
					t.Errorf("%v", p)
				}
				relay = max(relay, p.Relay)
				last = append(last, p.Protocol+"/"+netip.AddrPortFrom(p.Addr, p.Port).String())
			}
			return strings.Join(last, " ") == want
		})
	}
	m.Sh(idA, "httpd -f -p 8080 & echo $! >/tmp/every")
	told("tcp/0.0.0.0:8080 tcp/[::]:8080")
	m.Sh(idA, "httpd -f -p 127.0.0.1:8081 & echo $! >/tmp/loopback")
	told("tcp/0.0.0.0:8080 tcp/[::]:8080 tcp/127.0.0.1:8081")
	// A look-up binds no port by its number; the next change would show it.
	_, _ = m.Exec(wire.Exec{ID: idA, Args: []string{"nslookup", "nobody"}})
	m.Sh(idA, "httpd -f -p 10.1.0.2:9000 &")
	told("tcp/0.0.0.0:8080 tcp/[::]:8080 tcp/127.0.0.1:8081 tcp/0.0.0.0:9000")
	m.Sh(idA, "kill $(cat /tmp/every)")
	told("tcp/127.0.0.1:8081 tcp/0.0.0.0:9000")
	// Nobody but the gateway gets to a loopback by its relay.
	get := func(at string) string {
		t.Helper()
		return m.Sh(idA, `printf 'GET / HTTP/1.0\r\n\r\n' | nc `+at+"; true")
	}
	if out := get(fmt.Sprintf("10.1.0.2 %d", relay)); out != "" {
		t.Errorf("the relay says %q", out)
	}
	if out := get("127.0.0.1 8081"); !strings.Contains(out, "404") {
		t.Errorf("the loopback says %q", out)
	}
	again := m.Events() // as of a supervisor that came later
	snapshot := m.Await(again, func(e wire.Event) bool { return e.Kind == wire.EventPorts })
	if len(snapshot.Ports) != 2 {
		t.Errorf("the present state has %v", snapshot.Ports)
	}
	m.Call(wire.OpStop, wire.Stop{ID: idA, Grace: boottest.Patience}, nil)
	told("")
	m.Call(wire.OpRemove, wire.ContainerRef{ID: idA}, nil)
}
