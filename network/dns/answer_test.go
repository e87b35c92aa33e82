package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

var (
	client = netip.MustParseAddr("10.0.0.5")
	inside = netip.MustParseAddr("10.0.0.6") // may not learn names of the outside
)

// zoneMap is a Zone in a map.
type zoneMap map[string][]string

func (z zoneMap) Addrs(_ netip.Addr, name string) (addrs []netip.Addr, known bool) {
	list, known := z[name]
	for _, a := range list {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	return addrs, known
}

func (z zoneMap) Name(_, addr netip.Addr) (string, bool) {
	for _, name := range slices.Sorted(maps.Keys(z)) {
		if slices.Contains(z[name], addr.String()) {
			return name + ".shop", true
		}
	}
	return "", netip.MustParsePrefix("10.0.0.0/24").Contains(addr)
}

func (z zoneMap) Forwards(c netip.Addr) bool { return c != inside }

var zoneForTests = zoneMap{
	"web":         {"10.0.0.7"},
	"web.shop":    {"10.0.0.7"},
	"db":          {"10.0.0.8", "10.0.0.9", "10.0.0.10", "fd00::8"},
	"starting":    nil,
	"many.labels": {"10.0.0.11"},
}

// script is an Upstream that says what it was asked.
type script struct {
	asked chan string
	reply func(q *dns.Msg) *dns.Msg
}

func (s *script) Exchange(_ context.Context, query []byte) ([]byte, error) {
	var q dns.Msg
	if err := q.Unpack(query); err != nil {
		return nil, err
	}
	if s.asked != nil {
		s.asked <- q.Question[0].Name
	}
	if s.reply == nil {
		return nil, errors.New("nobody answers")
	}
	return s.reply(&q).Pack()
}

func one(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 300}, A: net.IP{192, 0, 2, 80}})
	return m
}

func query(name string, qtype uint16) *dns.Msg {
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	return m
}

func packed(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func ask(t testing.TB, s *Server, from netip.Addr, q *dns.Msg, stream bool) *dns.Msg {
	t.Helper()
	b := s.reply(packed(t, q), from, stream)
	if b == nil {
		return nil
	}
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatal(err)
	}
	if m.Id != q.Id || !m.Response {
		t.Errorf("id %d for %d, response %t", m.Id, q.Id, m.Response)
	}
	return m
}

// summary is a reply in one line: its code and its records' data, sorted.
func summary(m *dns.Msg) string {
	if m == nil {
		return "nothing"
	}
	var data []string
	for _, rr := range m.Answer {
		data = append(data, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(data)
	return strings.TrimSpace(dns.RcodeToString[m.Rcode] + " " + strings.Join(data, " "))
}

func TestReply(t *testing.T) {
	s := NewServer(zoneForTests, &script{reply: one}, nil)
	defer s.Close()
	for _, tc := range []struct {
		name  string
		qtype uint16
		from  netip.Addr
		want  string
	}{
		{"web", dns.TypeA, client, "NOERROR 10.0.0.7"},
		{"WEB", dns.TypeA, client, "NOERROR 10.0.0.7"},
		{"web.shop", dns.TypeA, client, "NOERROR 10.0.0.7"},
		{"web", dns.TypeAAAA, client, "NOERROR"},
		{"web", dns.TypeMX, client, "NOERROR"},
		{"web", dns.TypeHTTPS, client, "NOERROR"},
		{"db", dns.TypeA, client, "NOERROR 10.0.0.10 10.0.0.8 10.0.0.9"},
		{"db", dns.TypeAAAA, client, "NOERROR fd00::8"},
		{"db", dns.TypeANY, client, "NOERROR 10.0.0.10 10.0.0.8 10.0.0.9 fd00::8"},
		{"starting", dns.TypeA, client, "NOERROR"},
		{"many.labels", dns.TypeA, client, "NOERROR 10.0.0.11"},
		{"nosuch", dns.TypeA, client, "NXDOMAIN"},
		{"nosuch", dns.TypeAAAA, client, "NXDOMAIN"},
		{"com", dns.TypeNS, client, "NOERROR 192.0.2.80"}, // forwarded: a top-level domain
		{"example.com", dns.TypeA, client, "NOERROR 192.0.2.80"},
		{"example.com", dns.TypeA, inside, "NXDOMAIN"},
		{"web", dns.TypeA, inside, "NOERROR 10.0.0.7"},
		{"localhost", dns.TypeA, client, "NOERROR 127.0.0.1"},
		{"app.localhost", dns.TypeAAAA, client, "NOERROR ::1"},
		{"7.0.0.10.in-addr.arpa", dns.TypePTR, client, "NOERROR web.shop."},
		{"77.0.0.10.in-addr.arpa", dns.TypePTR, client, "NXDOMAIN"},
		{"7.2.0.192.in-addr.arpa", dns.TypePTR, client, "NOERROR 192.0.2.80"}, // forwarded
		{"8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", dns.TypePTR, client, "NOERROR db.shop."},
	} {
		for _, stream := range []bool{false, true} {
			if got := summary(ask(t, s, tc.from, query(tc.name, tc.qtype), stream)); got != tc.want {
				t.Errorf("%s %s: %s, want %s", tc.name, dns.TypeToString[tc.qtype], got, tc.want)
			}
		}
	}
	m := ask(t, s, client, query("web", dns.TypeA), false)
	if !m.RecursionAvailable || m.Answer[0].Header().Ttl != TTL || m.Question[0].Name != "web." {
		t.Errorf("got %s", m)
	}
}

// TestNoRecursion: who asks without RD gets what the network knows itself, and
// the outside is not asked.
func TestNoRecursion(t *testing.T) {
	up := &script{asked: make(chan string, 100), reply: one}
	s := NewServer(zoneForTests, up, nil)
	defer s.Close()
	for _, tc := range []struct {
		name  string
		qtype uint16
		from  netip.Addr
		want  string
	}{
		{"web", dns.TypeA, client, "NOERROR 10.0.0.7"},
		{"web", dns.TypeMX, client, "NOERROR"},
		{"7.0.0.10.in-addr.arpa", dns.TypePTR, client, "NOERROR web.shop."},
		{"77.0.0.10.in-addr.arpa", dns.TypePTR, client, "NXDOMAIN"},
		{"nosuch", dns.TypeA, client, "NXDOMAIN"},
		{"com", dns.TypeNS, client, "REFUSED"},
		{"example.com", dns.TypeA, client, "REFUSED"},
		{"7.2.0.192.in-addr.arpa", dns.TypePTR, client, "REFUSED"},
		{"example.com", dns.TypeA, inside, "NXDOMAIN"},
	} {
		q := query(tc.name, tc.qtype)
		q.RecursionDesired = false
		if got := summary(ask(t, s, tc.from, q, false)); got != tc.want {
			t.Errorf("%s %s: %s, want %s", tc.name, dns.TypeToString[tc.qtype], got, tc.want)
		}
	}
	close(up.asked)
	for name := range up.asked {
		t.Errorf("the outside was asked for %s", name)
	}
}

func TestRotation(t *testing.T) {
	s := NewServer(zoneForTests, &script{}, nil)
	defer s.Close()
	first := make(map[string]int)
	for range 30 {
		first[ask(t, s, client, query("db", dns.TypeA), false).Answer[0].(*dns.A).A.String()]++
	}
	if len(first) != 3 || first["10.0.0.8"] != 10 {
		t.Errorf("first: %v", first)
	}
}

func TestBadQueries(t *testing.T) {
	s := NewServer(zoneForTests, &script{}, nil)
	defer s.Close()
	response := query("web", dns.TypeA)
	response.Response = true
	two := query("web", dns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	update := query("web", dns.TypeA)
	update.Opcode = dns.OpcodeUpdate
	chaos := query("version.bind", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	none := new(dns.Msg)
	for _, tc := range []struct {
		name string
		q    *dns.Msg
		want string
	}{
		{"an answer", response, "nothing"},
		{"two questions", two, "FORMERR"},
		{"no question", none, "FORMERR"},
		{"an update", update, "NOTIMP"},
		{"another class", chaos, "REFUSED"},
		{"nobody upstream", query("example.com", dns.TypeA), "SERVFAIL"},
	} {
		if got := summary(ask(t, s, client, tc.q, false)); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
	if got := s.reply([]byte("short"), client, false); got != nil {
		t.Errorf("short: %x", got)
	}
	garbage := append(packed(t, query("web", dns.TypeA))[:14], 0xff, 0xff)
	if got := s.reply(garbage, client, false); len(got) != 12 || got[3]&15 != dns.RcodeFormatError {
		t.Errorf("garbage: %x", got)
	}
}

// TestTruncation: what does not fit is cut by whole records, and said so.
func TestTruncation(t *testing.T) {
	z := zoneMap{"all": nil}
	for i := range 200 {
		z["all"] = append(z["all"], fmt.Sprintf("10.0.1.%d", i))
	}
	big := func(q *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		for range 200 {
			m.Answer = append(m.Answer, one(q).Answer...)
		}
		return m
	}
	s := NewServer(z, &script{reply: big}, nil)
	defer s.Close()
	for _, name := range []string{"all", "example.com"} {
		for _, tc := range []struct {
			edns   uint16
			stream bool
			limit  int
		}{
			{0, false, 512},
			{1232, false, 1232},
			{65000, false, ednsSize},
			{0, true, maxMessage},
		} {
			q := query(name, dns.TypeA)
			if tc.edns > 0 {
				q.SetEdns0(tc.edns, false)
			}
			b := s.reply(packed(t, q), client, tc.stream)
			var m dns.Msg
			if err := m.Unpack(b); err != nil {
				t.Fatal(err)
			}
			if len(b) > tc.limit {
				t.Errorf("%s, EDNS %d: %d bytes", name, tc.edns, len(b))
			}
			if whole := len(m.Answer) == 200; whole == m.Truncated {
				t.Errorf("%s, EDNS %d: %d answers, truncated %t", name, tc.edns, len(m.Answer), m.Truncated)
			}
			if tc.stream && m.Truncated {
				t.Errorf("%s: truncated on a stream", name)
			}
			if (m.IsEdns0() != nil) != (tc.edns > 0) && name == "all" {
				t.Errorf("EDNS %d: answered %v", tc.edns, m.IsEdns0())
			}
		}
	}
}

// FuzzReply: whatever comes, the answer is none or a message that belongs to
// the query and fits.
func FuzzReply(f *testing.F) {
	for _, q := range []*dns.Msg{query("web", dns.TypeA), query("db.", dns.TypeANY), query("x.y.ip6.arpa", dns.TypePTR), query("example.com", dns.TypeTXT)} {
		f.Add(packed(f, q), false)
		q.SetEdns0(1232, true)
		f.Add(packed(f, q), true)
	}
	s := NewServer(zoneForTests, &script{reply: one}, nil)
	f.Cleanup(func() { s.Close() })
	f.Fuzz(func(t *testing.T, raw []byte, stream bool) {
		if len(raw) > maxMessage {
			return
		}
		got := s.reply(raw, client, stream)
		if got == nil {
			return
		}
		if len(got) < headerLen || got[0] != raw[0] || got[1] != raw[1] || got[2]&flagQR == 0 {
			t.Fatalf("%x answered by %x", raw, got)
		}
		if !stream && len(got) > ednsSize || len(got) > maxMessage {
			t.Fatalf("%d bytes", len(got))
		}
		var m dns.Msg
		if err := m.Unpack(got); err != nil {
			t.Fatalf("%x answered by %x: %v", raw, got, err)
		}
	})
}

func FuzzReverseAddr(f *testing.F) {
	f.Add("7.0.0.10.in-addr.arpa")
	f.Add("8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa")
	f.Fuzz(func(t *testing.T, name string) {
		a, ok := reverseAddr(name)
		if !ok {
			return
		}
		back, err := dns.ReverseAddr(a.String())
		if err != nil || !strings.EqualFold(back, name+".") {
			t.Fatalf("%q is %s, which is %q (%v)", name, a, back, err)
		}
	})
}

// TestSockets asks over UDP and TCP, several questions on one connection.
func TestSockets(t *testing.T) {
	s := NewServer(zoneForTests, &script{reply: one}, nil)
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(p, l); err != nil {
		t.Fatal(err)
	}
	for network, at := range map[string]string{"udp": p.LocalAddr().String(), "tcp": l.Addr().String()} {
		c, err := dns.DialTimeout(network, at, patience)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		for _, name := range []string{"web", "example.com", "nosuch"} {
			q := query(name, dns.TypeA)
			if err := c.WriteMsg(q); err != nil {
				t.Fatal(err)
			}
			m, err := c.ReadMsg()
			if err != nil {
				t.Fatal(err)
			}
			if m.Id != q.Id {
				t.Errorf("%s %s: another id", network, name)
			}
		}
	}
	if err := s.Close(); err != nil { // with the TCP connection open
		t.Fatal(err)
	}
	if st := s.Stats(); st.Answered != 4 || st.Forwarded != 2 {
		t.Errorf("counted %+v", st)
	}
	if err := s.Serve(nil, nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("serving after Close: %v", err)
	}
}

func TestQuestionOf(t *testing.T) {
	q := packed(t, query("a.example", dns.TypeA))
	if got := questionOf(q); len(got) != len(q)-headerLen || binary.BigEndian.Uint16(got[len(got)-4:]) != dns.TypeA {
		t.Errorf("got %x", got)
	}
	for n := range len(q) {
		if n >= headerLen && questionOf(q[:n]) != nil {
			t.Errorf("cut to %d: %x", n, questionOf(q[:n]))
		}
	}
}
