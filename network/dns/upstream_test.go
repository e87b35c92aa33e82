package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// resolver is a DNS server at an address of the loopback range.
func resolver(t *testing.T, at string, handle dns.HandlerFunc) string {
	t.Helper()
	p, err := net.ListenPacket("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", p.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{PacketConn: p, Handler: handle}, {Listener: l, Handler: handle}} {
		started, done := make(chan struct{}), make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { defer close(done); s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { s.Shutdown(); <-done })
	}
	return p.LocalAddr().String()
}

func resolvConf(t *testing.T, lines string) *Host {
	t.Helper()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte(lines), 0o644); err != nil {
		t.Fatal(err)
	}
	return &Host{Path: path}
}

func exchangeMsg(t *testing.T, u Upstream, q *dns.Msg) *dns.Msg {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	b, err := u.Exchange(ctx, packed(t, q))
	if err != nil {
		t.Fatal(err)
	}
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatal(err)
	}
	if m.Id != q.Id {
		t.Errorf("id %d for %d", m.Id, q.Id)
	}
	return m
}

func rcode(code int) dns.HandlerFunc {
	return func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(new(dns.Msg).SetRcode(q, code)) }
}

func answerOne(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(one(q)) }

func TestHost(t *testing.T) {
	ids := make(chan uint16, 10)
	at := resolver(t, "127.0.0.1:0", func(w dns.ResponseWriter, q *dns.Msg) {
		ids <- q.Id
		answerOne(w, q)
	})
	port := netip.MustParseAddrPort(at).Port()
	h := resolvConf(t, "# a comment\nsearch example.com\nnameserver 127.0.0.1\n")
	h.Port = port
	q := query("example.com", dns.TypeA)
	if got := summary(exchangeMsg(t, h, q)); got != "NOERROR 192.0.2.80" {
		t.Error(got)
	}
	q.Id = <-ids
	exchangeMsg(t, h, q)
	if again := <-ids; again == q.Id {
		t.Error("the machine's identifier went out") // 1 in 65,536 otherwise
	}

	// The file changes: the next query goes elsewhere.
	if err := os.WriteFile(h.Path, []byte("nameserver 127.0.0.9\nnameserver 127.0.0.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	resolver(t, net.JoinHostPort("127.0.0.9", strings.Split(at, ":")[1]), rcode(dns.RcodeNameError))
	if got := summary(exchangeMsg(t, h, query("example.com", dns.TypeA))); got != "NXDOMAIN" {
		t.Error(got)
	}
	// While it is being replaced, the last ones stay in force.
	if err := os.Remove(h.Path); err != nil {
		t.Fatal(err)
	}
	if got := summary(exchangeMsg(t, h, query("example.com", dns.TypeA))); got != "NXDOMAIN" {
		t.Error(got)
	}
}

// TestHostNext: a resolver that fails, or that is not there, is not the last
// word; one that says there is no such name is.
func TestHostNext(t *testing.T) {
	at := resolver(t, "127.0.0.1:0", answerOne)
	port := strings.Split(at, ":")[1]
	resolver(t, "127.0.0.2:"+port, rcode(dns.RcodeServerFailure))
	resolver(t, "127.0.0.3:"+port, rcode(dns.RcodeNameError))
	for lines, want := range map[string]string{
		"nameserver 127.0.0.2\nnameserver 127.0.0.1": "NOERROR 192.0.2.80",
		"nameserver 127.0.0.4\nnameserver 127.0.0.1": "NOERROR 192.0.2.80", // nobody there
		"nameserver 127.0.0.3\nnameserver 127.0.0.1": "NXDOMAIN",
		"nameserver 127.0.0.2\nnameserver 127.0.0.4": "SERVFAIL",
	} {
		h := resolvConf(t, lines)
		h.Port = netip.MustParseAddrPort(at).Port()
		if got := summary(exchangeMsg(t, h, query("example.com", dns.TypeA))); got != want {
			t.Errorf("%q: %s, want %s", lines, got, want)
		}
	}
	h := resolvConf(t, "nameserver 127.0.0.4")
	h.Port = netip.MustParseAddrPort(at).Port()
	if _, err := h.Exchange(t.Context(), packed(t, query("example.com", dns.TypeA))); err == nil {
		t.Error("nobody there, yet no error")
	}
}

// TestHostTCP: a cut answer is asked for again over TCP, and one that is to
// another question is not taken.
func TestHostTCP(t *testing.T) {
	at := resolver(t, "127.0.0.1:0", func(w dns.ResponseWriter, q *dns.Msg) {
		m := one(q)
		if w.RemoteAddr().Network() == "udp" {
			forged := one(query("example.org", dns.TypeA))
			forged.Id = q.Id
			w.WriteMsg(forged)
			m.Answer, m.Truncated = nil, true
		}
		w.WriteMsg(m)
	})
	h := resolvConf(t, "nameserver 127.0.0.1")
	h.Port = netip.MustParseAddrPort(at).Port()
	m := exchangeMsg(t, h, query("example.com", dns.TypeA))
	if got := summary(m); got != "NOERROR 192.0.2.80" || m.Truncated {
		t.Errorf("%s, truncated %t", got, m.Truncated)
	}
}

// TestShared: equal queries share one exchange, each gets its own identifier
// back, and a query that depends on itself ends.
func TestShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exchanges := 0
		release := make(chan struct{})
		u := Shared(upstreamFunc(func(_ context.Context, b []byte) ([]byte, error) {
			exchanges++
			<-release
			var q dns.Msg
			if err := q.Unpack(b); err != nil {
				return nil, err
			}
			return one(&q).Pack()
		}))
		var wg sync.WaitGroup
		for i := range 10 {
			q := query("example.com", dns.TypeA)
			q.Id = uint16(i)
			b := packed(t, q)
			wg.Go(func() {
				got, err := u.Exchange(t.Context(), b)
				if err != nil || got[0] != b[0] || got[1] != b[1] {
					t.Errorf("got %x, %v", got, err)
				}
			})
		}
		synctest.Wait()
		close(release)
		wg.Wait()
		if exchanges != 1 {
			t.Errorf("%d exchanges", exchanges)
		}

		var loop Upstream
		loop = Shared(upstreamFunc(func(ctx context.Context, b []byte) ([]byte, error) { return loop.Exchange(ctx, b) }))
		ctx, cancel := context.WithTimeout(t.Context(), queryTimeout)
		defer cancel()
		start := time.Now()
		if _, err := loop.Exchange(ctx, packed(t, query("example.com", dns.TypeA))); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != queryTimeout {
			t.Errorf("%v after %s", err, time.Since(start))
		}
	})
}

type upstreamFunc func(context.Context, []byte) ([]byte, error)

func (f upstreamFunc) Exchange(ctx context.Context, b []byte) ([]byte, error) { return f(ctx, b) }

func TestParseResolvConf(t *testing.T) {
	for in, want := range map[string]string{
		"":                           "127.0.0.1:53",
		"search x\noptions ndots:0":  "127.0.0.1:53",
		"nameserver 192.0.2.1":       "192.0.2.1:53",
		"nameserver\t::1 # it\n":     "[::1]:53",
		"nameserver fe80::1%eth0":    "[fe80::1%eth0]:53",
		"nameserver x\nnameserver y": "127.0.0.1:53",
		"#nameserver 192.0.2.1":      "127.0.0.1:53",
		"nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4": "192.0.2.1:53 192.0.2.2:53 192.0.2.3:53",
	} {
		var got []string
		for _, s := range parseResolvConf([]byte(in), 53) {
			got = append(got, s.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %v, want %s", in, got, want)
		}
	}
}

func FuzzParseResolvConf(f *testing.F) {
	f.Add([]byte("nameserver 192.0.2.1\nnameserver fe80::1%eth0"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got := parseResolvConf(b, 53)
		if len(got) == 0 || len(got) > maxServers || slices.ContainsFunc(got, func(a netip.AddrPort) bool { return !a.IsValid() }) {
			t.Fatalf("%q: %v", b, got)
		}
	})
}
