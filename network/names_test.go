package network

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stackvm/stack/network/ipam"
)

// Just enough of DNS to ask for addresses as a C library does; package dns has
// the thorough tests.
const (
	typeA    = 1
	typePTR  = 12
	typeAAAA = 28
)

func dnsQuery(name string, qtype uint16) []byte {
	b := []byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for label := range strings.SplitSeq(name, ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	b = binary.BigEndian.AppendUint16(append(b, 0), qtype)
	return binary.BigEndian.AppendUint16(b, 1) // class IN
}

// resolve asks the name service at a gateway and returns the code and the
// addresses, sorted.
func resolve(t *testing.T, c net.Conn, name string, qtype uint16) string {
	t.Helper()
	c.SetDeadline(time.Now().Add(patience))
	q := dnsQuery(name, qtype)
	if _, err := c.Write(q); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	b = b[:n]
	var got []string
	at := len(q)
	for range binary.BigEndian.Uint16(b[6:]) {
		for b[at] != 0 && b[at] < 0xc0 {
			at += 1 + int(b[at])
		}
		if at++; b[at-1] >= 0xc0 { // a pointer to the rest
			at++
		}
		kind, size := binary.BigEndian.Uint16(b[at:]), int(binary.BigEndian.Uint16(b[at+8:]))
		data := b[at+10 : at+10+size]
		if kind == typePTR {
			var labels []string
			for len(data) > 1 && data[0] < 64 {
				labels = append(labels, string(data[1:1+data[0]]))
				data = data[1+data[0]:]
			}
			got = append(got, strings.Join(labels, "."))
		} else {
			a, _ := netip.AddrFromSlice(data)
			got = append(got, a.String())
		}
		at += 10 + size
	}
	slices.Sort(got)
	return strings.TrimSpace(map[byte]string{0: "ok", 2: "failed", 3: "no such name"}[b[3]&15] + " " + strings.Join(got, " "))
}

func TestNames(t *testing.T) {
	f := newFabric(t, Options{})
	create(t, f, front, back)
	web := join(t, f, "web", 5, []string{"web", "shop-web-1", "WWW"}, front)
	app := join(t, f, "app", 6, []string{"app", "shop-app-1", "app.shop"}, front, back)
	db := join(t, f, "db", 7, []string{"db", "shop-db-1"}, back)
	join(t, f, "db2", 8, []string{"db", "shop-db-2"}, back)
	asks := map[string]net.Conn{
		"web":        web.udp("10.1.0.5:5000", "10.1.0.1:53"),
		"web6":       web.udp("[fd01::5]:5000", "[fd01::1]:53"),
		"app":        app.udp("10.1.0.6:5000", "10.1.0.1:53"),
		"app (back)": app.udp("10.2.0.6:5000", "10.2.0.1:53"),
		"db":         db.udp("10.2.0.7:5000", "10.2.0.1:53"),
	}
	for _, tc := range []struct {
		who, name string
		qtype     uint16
		want      string
	}{
		{"web", "app", typeA, "ok 10.1.0.6"},
		{"web", "APP.shop", typeA, "ok 10.1.0.6"},
		{"web", "app.shop_front", typeA, "ok 10.1.0.6"},
		{"web", "www", typeAAAA, "ok fd01::5"},
		{"web6", "app", typeA, "ok 10.1.0.6"},
		{"web", "db", typeA, "no such name"},
		{"app", "db", typeA, "ok 10.2.0.7 10.2.0.8"},
		{"app", "web", typeA, "ok 10.1.0.5"},
		{"app (back)", "web", typeA, "ok 10.1.0.5"},
		{"app", "app", typeA, "ok 10.1.0.6 10.2.0.6"},
		{"db", "app", typeA, "ok 10.2.0.6"},
		{"db", "web", typeA, "no such name"},
		{"db", "example.com", typeA, "no such name"}, // internal: not asked
		{"web", "example.com", typeA, "failed"},      // asked: nobody answers in this test
		{"web", "host.docker.internal", typeA, "ok 10.1.0.1"},
		{"web", "gateway.docker.internal", typeAAAA, "ok fd01::1"},
		{"db", "host.docker.internal", typeA, "no such name"},
		{"web", "6.0.1.10.in-addr.arpa", typePTR, "ok app.shop_front"},
		{"web", "99.0.1.10.in-addr.arpa", typePTR, "no such name"},
		{"web", "7.0.2.10.in-addr.arpa", typePTR, "no such name"}, // not on its networks, nor the outside's
	} {
		if got := resolve(t, asks[tc.who], tc.name, tc.qtype); got != tc.want {
			t.Errorf("%s asks for %s: %s, want %s", tc.who, tc.name, got, tc.want)
		}
	}
	if err := f.SetNames("db2", "back", "db2", nil); err != nil { // it stops
		t.Fatal(err)
	}
	if got := resolve(t, asks["app"], "db", typeA); got != "ok 10.2.0.7" {
		t.Error(got)
	}
	if err := f.SetNames("db2", "back", "db2", []string{"db"}); err != nil {
		t.Fatal(err)
	}
	if err := f.Detach("db", "back", "db"); err != nil {
		t.Fatal(err)
	}
	if got := resolve(t, asks["app"], "db", typeA); got != "ok 10.2.0.8" {
		t.Error(got)
	}
	// Over TCP, from the same service.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := web.dial(ctx, "10.1.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	q := dnsQuery("app", typeA)
	c.SetDeadline(time.Now().Add(patience))
	c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...))
	b := make([]byte, 512)
	if n, err := c.Read(b); err != nil || n < 2+len(q)+16 {
		t.Errorf("%x, %v", b[:n], err)
	}
}

// A link is known to who has it alone, and a link-local address by no name.
func TestLinks(t *testing.T) {
	f := newFabric(t, Options{})
	create(t, f, front)
	endpoint := func(name, ip string) Endpoint {
		return Endpoint{Network: front.ID, VLAN: 9, MAC: ipam.MAC(name, front.ID), Addrs: []netip.Addr{addr(ip)}, Names: []string{name}, Container: name}
	}
	web, db, other := endpoint("web", "10.1.0.5"), endpoint("db", "10.1.0.6"), endpoint("other", "10.1.0.7")
	web.Links = map[string]string{"Base": "db", "far": "not-there", "other": "db"}
	db.LinkLocal = []netip.Addr{addr("169.254.7.7")}
	for _, ep := range []Endpoint{web, db, other} {
		if err := f.Attach(ep.Container, ep); err != nil {
			t.Fatal(err)
		}
	}
	z := zone{f, f.networks[front.ID]}
	for _, tc := range []struct {
		from Endpoint
		name string
		want string
	}{
		{web, "base", "[10.1.0.6] true"},
		{web, "db", "[10.1.0.6] true"},
		{web, "other", "[10.1.0.6] true"}, // an alias goes before what it hides
		{web, "far", "[] false"},
		{other, "base", "[] false"},
		{other, "other", "[10.1.0.7] true"},
	} {
		addrs, known := z.Addrs(tc.from.Addrs[0], tc.name)
		if got := fmt.Sprint(addrs, known); got != tc.want {
			t.Errorf("%s asks for %s: %s, want %s", tc.from.Container, tc.name, got, tc.want)
		}
	}
	web.Links = map[string]string{"base": "other"} // attached again, as after a restart
	if err := f.Attach("web", web); err != nil {
		t.Fatal(err)
	}
	if addrs, _ := z.Addrs(web.Addrs[0], "base"); fmt.Sprint(addrs) != "[10.1.0.7]" {
		t.Error(addrs)
	}
	bad := endpoint("bad", "10.1.0.8")
	bad.LinkLocal = []netip.Addr{addr("10.1.0.9")}
	if err := f.Attach("bad", bad); err == nil {
		t.Error("an address that is not link-local was taken for one")
	}
}

// TestRestart: a new Fabric over the same trunks. A connection between machines
// goes on, the gateway is the same neighbour, and what came to a published port
// in between is served.
func TestRestart(t *testing.T) {
	f := newFabric(t, Options{})
	create(t, f, front)
	a := join(t, f, "a", 5, []string{"a"}, front)
	b := join(t, f, "b", 6, []string{"b"}, front)
	l := b.listen("10.1.0.6:80")
	echo(t, b.listen("10.1.0.6:81"))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := a.dial(ctx, "10.1.0.6:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c.SetDeadline(time.Now().Add(patience))
	s.SetDeadline(time.Now().Add(patience))
	say := func(what string) {
		t.Helper()
		if _, err := c.Write([]byte(what)); err != nil {
			t.Fatal(err)
		}
	}
	hear := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if n, err := s.Read(got); err != nil || string(got[:n]) != want {
			t.Fatalf("%q, %v; want %q", got[:n], err, want)
		}
	}
	say("before")
	hear("before")
	held, err := net.Listen("tcp", "127.0.0.1:0") // the keeper's
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	gateway := macOfGateway(t, f)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	say("meanwhile")
	client := dialHost(t, held.Addr().String())

	f = newFabric(t, Options{})
	create(t, f, front)
	if got := macOfGateway(t, f); got != gateway {
		t.Errorf("the gateway is now %s, was %s", got, gateway)
	}
	for n, m := range map[int]*machine{5: a, 6: b} {
		if err := f.Attach(m.name, Endpoint{
			Network: "front", VLAN: uint16(n), MAC: ipam.MAC(m.name, "front"), Container: m.name,
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 0, byte(n)})},
		}); err != nil {
			t.Fatal(err)
		}
		if err := f.Plug(m.name, m.ours); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Publish(Publish{ID: "p", Network: "front", Proto: "tcp", Target: netip.MustParseAddrPort("10.1.0.6:81"), Listener: duplicate(t, held)}); err != nil {
		t.Fatal(err)
	}
	hear("meanwhile")
	say("after")
	hear("after")
	if got := ask(t, client, "hello"); got != "10.1.0.1 HELLO" {
		t.Errorf("got %q", got)
	}
}

func macOfGateway(t *testing.T, f *Fabric) string {
	t.Helper()
	for _, e := range f.Stats().Ethernet.Endpoints {
		if e.Machine == "" && e.Network == "front" {
			return e.MAC
		}
	}
	t.Fatal("no gateway")
	return ""
}

func duplicate(t *testing.T, l net.Listener) net.Listener {
	t.Helper()
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	dup, err := net.FileListener(file)
	if err != nil {
		t.Fatal(err)
	}
	return dup
}

func TestRefusals(t *testing.T) {
	f := newFabric(t, Options{})
	create(t, f, front)
	join(t, f, "a", 5, nil, front)
	good := Endpoint{Network: "front", VLAN: 9, MAC: ipam.MAC("x", "front"), Addrs: []netip.Addr{addr("10.1.0.9")}, Container: "x"}
	change := func(how func(*Endpoint)) func() error {
		return func() error {
			e := good
			how(&e)
			return f.Attach("x", e)
		}
	}
	for want, try := range map[string]func() error{
		"it exists":                           func() error { return f.Create(front) },
		"one gateway a subnet is needed":      func() error { c := back; c.Gateways = c.Gateways[:1]; return f.Create(c) },
		"has no gateway":                      func() error { c := back; c.Gateways = front.Gateways; return f.Create(c) },
		"MTU 100 is not between":              func() error { c := back; c.MTU = 100; return f.Create(c) },
		`machine "a" is attached to it`:       func() error { return f.Remove("front") },
		`removing network "nosuch"`:           func() error { return f.Remove("nosuch") },
		`network "nosuch" does not exist`:     change(func(e *Endpoint) { e.Network = "nosuch" }),
		"address 10.9.0.9 is not on network":  change(func(e *Endpoint) { e.Addrs = []netip.Addr{addr("10.9.0.9")} }),
		"is the gateway of network":           change(func(e *Endpoint) { e.Addrs = front.Gateways }),
		"address 10.1.0.5 is in use":          change(func(e *Endpoint) { e.Addrs = []netip.Addr{addr("10.1.0.5")} }),
		"not plugged":                         func() error { return f.Unplug("nosuch") },
		`trunk of machine "x"`:                func() error { r, w, _ := os.Pipe(); defer r.Close(); defer w.Close(); return f.Plug("x", r) },
		"has it not on network":               func() error { return f.Detach("a", "front", "nosuch") },
		`naming container "nosuch"`:           func() error { return f.SetNames("a", "front", "nosuch", nil) },
		`publication "nosuch" does not exist`: func() error { return f.Unpublish("nosuch") },
		"a tcp listener or a udp socket": func() error {
			return f.Publish(Publish{ID: "p", Network: "front", Proto: "tcp", Target: netip.MustParseAddrPort("10.1.0.5:80")})
		},
		"publishing 10.9.0.5:80/tcp: the addr": func() error {
			return f.Publish(Publish{ID: "p", Network: "front", Proto: "tcp", Target: netip.MustParseAddrPort("10.9.0.5:80")})
		},
	} {
		before := len(f.Stats().Ethernet.Endpoints)
		if err := try(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if after := len(f.Stats().Ethernet.Endpoints); after != before {
			t.Errorf("%s: %d endpoints, were %d", want, after, before)
		}
	}
	if err := f.Attach("x", good); err != nil {
		t.Fatal(err)
	}
	if err := f.Attach("x", good); err != nil {
		t.Errorf("attaching the same again: %v", err)
	}
	if err := f.Detach("x", "front", "x"); err != nil {
		t.Fatal(err)
	}
	if err := f.Detach("a", "front", "a"); err != nil {
		t.Fatal(err)
	}
	if err := f.Remove("front"); err != nil {
		t.Error(err)
	}
	if err := f.Create(front); err != nil {
		t.Errorf("creating it again: %v", err)
	}
}
