package network

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stackvm/stack/network/dns"
	"github.com/stackvm/stack/network/ipam"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

var (
	addr   = netip.MustParseAddr
	prefix = netip.MustParsePrefix
)

// noUpstream fails every query for the outside.
type noUpstream struct{}

func (noUpstream) Exchange(context.Context, []byte) ([]byte, error) {
	return nil, errors.New("no resolvers in this test")
}

func newFabric(t *testing.T, opt Options) *Fabric {
	t.Helper()
	if opt.Upstream == nil {
		opt.Upstream = noUpstream{}
	}
	f := New(opt)
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// two networks, front and back, both with IPv4 and IPv6.
var front = Config{
	ID: "front", Name: "shop_front",
	Subnets:  []netip.Prefix{prefix("10.1.0.0/24"), prefix("fd01::/64")},
	Gateways: []netip.Addr{addr("10.1.0.1"), addr("fd01::1")}, HostAccess: true,
}

var back = Config{
	ID: "back", Name: "shop_back",
	Subnets:  []netip.Prefix{prefix("10.2.0.0/24"), prefix("fd02::/64")},
	Gateways: []netip.Addr{addr("10.2.0.1"), addr("fd02::1")}, Internal: true,
}

// join attaches a new machine's container of the same name to networks, with
// host number n on each and VLANs from n up.
func join(t testing.TB, f *Fabric, name string, n int, names []string, networks ...Config) *machine {
	t.Helper()
	m := newMachine(t, name)
	for i, c := range networks {
		ep := Endpoint{Network: c.ID, VLAN: uint16(n + i), MAC: ipam.MAC(name, c.ID), Names: names, Container: name}
		var own []netip.Prefix
		for _, s := range c.Subnets {
			a := s.Addr()
			for range n {
				a = a.Next()
			}
			ep.Addrs = append(ep.Addrs, a)
			own = append(own, netip.PrefixFrom(a, s.Bits()))
		}
		if err := f.Attach(name, ep); err != nil {
			t.Fatal(err)
		}
		var gateways []netip.Addr
		if i == 0 {
			gateways = c.Gateways
		}
		m.connect(ep.VLAN, ep.MAC, DefaultMTU, own, gateways...)
	}
	if err := f.Plug(name, m.ours); err != nil {
		t.Fatal(err)
	}
	return m
}

func create(t *testing.T, f *Fabric, networks ...Config) {
	t.Helper()
	for _, c := range networks {
		if err := f.Create(c); err != nil {
			t.Fatal(err)
		}
	}
}

// echo answers each connection of l with what it got, upper case, after the
// client has closed its side: a test of half-close.
func echo(t *testing.T, l net.Listener) {
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b, _ := io.ReadAll(c)
			io.WriteString(c, c.RemoteAddr().(*net.TCPAddr).IP.String()+" "+strings.ToUpper(string(b)))
			c.Close()
		}
	}()
}

type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// ask sends, closes its side, and returns all that comes back.
func ask(t *testing.T, c halfCloser, what string) string {
	t.Helper()
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, what); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func dialHost(t *testing.T, to string) halfCloser {
	t.Helper()
	c, err := net.DialTimeout("tcp", to, patience)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

func TestMachinesOfOneNetworkTalk(t *testing.T) {
	f := newFabric(t, Options{})
	create(t, f, front)
	a := join(t, f, "a", 5, nil, front)
	b := join(t, f, "b", 6, nil, front)
	for _, at := range []string{"10.1.0.6:80", "[fd01::6]:80"} {
		echo(t, b.listen(at))
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c, err := a.dial(ctx, at)
		if err != nil {
			t.Fatalf("%s: %v", at, err)
		}
		big := strings.Repeat("x", 1<<20)
		if got := ask(t, c, big); !strings.HasSuffix(got, " "+strings.ToUpper(big)) {
			t.Errorf("%s: answer of %d bytes", at, len(got))
		}
	}
}

func TestNetworksAreApart(t *testing.T) {
	f := newFabric(t, Options{Policy: func(netip.Addr) error { return nil }})
	create(t, f, front, back)
	a := join(t, f, "a", 5, nil, front)
	b := join(t, f, "b", 6, nil, back)
	for _, at := range []string{"10.2.0.6:80", "[fd02::6]:80"} {
		echo(t, b.listen(at))
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if c, err := a.dial(ctx, at); err == nil {
			c.Close()
			t.Errorf("%s was reached from another network", at)
		} else if !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v, want refused", at, err)
		}
	}
}

func TestPublish(t *testing.T) {
	f := newFabric(t, Options{})
	create(t, f, front)
	b := join(t, f, "b", 6, nil, front)
	for _, tc := range []struct{ host, target, want string }{
		{"127.0.0.1:0", "10.1.0.6:80", "10.1.0.1 HELLO"},
		{"[::1]:0", "10.1.0.6:81", "10.1.0.1 HELLO"},
		{"[::1]:0", "[fd01::6]:80", "fd01::1 HELLO"},
	} {
		l, err := net.Listen("tcp", tc.host)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c := dialHost(t, l.Addr().String()) // waits in the queue
		file, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		dup, err := net.FileListener(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		echo(t, b.listen(tc.target))
		if err := f.Publish(Publish{ID: tc.target, Network: "front", Proto: "tcp", Target: netip.MustParseAddrPort(tc.target), Listener: dup}); err != nil {
			t.Fatal(err)
		}
		if got := ask(t, c, "hello"); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.target, got, tc.want)
		}
		if err := f.Unpublish(tc.target); err != nil {
			t.Fatal(err)
		}
		// The original still queues for whoever comes next.
		dialHost(t, l.Addr().String()).Close()
	}
}

func TestPublishBeforeTheServiceListens(t *testing.T) {
	f := newFabric(t, Options{})
	create(t, f, front)
	join(t, f, "b", 6, nil, front)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Publish(Publish{ID: "p", Network: "front", Proto: "tcp", Target: netip.MustParseAddrPort("10.1.0.6:80"), Listener: l}); err != nil {
		t.Fatal(err)
	}
	c, err := net.DialTimeout("tcp", l.Addr().String(), patience)
	if errors.Is(err, syscall.ECONNRESET) {
		return // it came before the dialling had ended
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if n, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d, %v: want the connection to end", n, err)
	}
}

func TestHostAccess(t *testing.T) {
	f := newFabric(t, Options{})
	create(t, f, front, back)
	a := join(t, f, "a", 5, nil, front)
	b := join(t, f, "b", 6, nil, back)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	echo(t, l)
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := a.dial(ctx, netip.AddrPortFrom(addr("10.1.0.1"), port).String())
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(t, c, "hello"); got != "127.0.0.1 HELLO" {
		t.Errorf("got %q", got)
	}
	// Nor has who is denied it, nor a name for it.
	denied := newMachine(t, "denied")
	ep := Endpoint{Network: front.ID, VLAN: 9, MAC: ipam.MAC("denied", front.ID), Addrs: []netip.Addr{addr("10.1.0.99")}, Container: "denied", HostDeny: true}
	if err := errors.Join(f.Attach("denied", ep), f.Plug("denied", denied.ours)); err != nil {
		t.Fatal(err)
	}
	denied.connect(ep.VLAN, ep.MAC, DefaultMTU, []netip.Prefix{netip.MustParsePrefix("10.1.0.99/24")}, front.Gateways...)
	if c, err := denied.dial(ctx, netip.AddrPortFrom(addr("10.1.0.1"), port).String()); err == nil {
		c.Close()
		t.Error("the host was reached by who is denied it")
	}
	z := zone{f, f.networks[front.ID]}
	if addrs, known := z.Addrs(ep.Addrs[0], hostNames[0]); known {
		t.Errorf("%s resolves to %v for who is denied it", hostNames[0], addrs)
	}
	if _, known := z.Addrs(addr("10.1.0.5"), hostNames[0]); !known {
		t.Errorf("%s does not resolve", hostNames[0])
	}
	// An internal network has no such way, and nobody reaches the host's own
	// addresses by any other.
	if c, err := b.dial(ctx, netip.AddrPortFrom(addr("10.2.0.1"), port).String()); err == nil {
		c.Close()
		t.Error("the host was reached from an internal network")
	}
	for _, own := range hostAddrs(t) {
		if c, err := a.dial(ctx, netip.AddrPortFrom(own, port).String()); err == nil {
			c.Close()
			t.Errorf("the host's %s was reached", own)
		}
	}
}

func hostAddrs(t *testing.T) []netip.Addr {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	var out []netip.Addr
	for _, a := range all {
		p := netip.MustParsePrefix(a.String())
		if p.Addr().IsGlobalUnicast() {
			out = append(out, p.Addr())
		}
	}
	return out
}

var _ dns.Upstream = noUpstream{}
