package dns

import (
	"context"
	"encoding/binary"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

const (
	headerLen = 12
	flagQR    = 0x80 // in byte 2: the message is an answer
	flagTC    = 0x02 // in byte 2: it was cut

	// ednsSize is the largest datagram we say we take and send (RFC 6891
	// suggests 4096; no path here is narrower than what a client asks for).
	ednsSize = 4096
)

// reply is the answer to a query in wire form, or nil where there is none to
// give. stream says that the answer need not fit a datagram.
func (s *Server) reply(raw []byte, client netip.Addr, stream bool) []byte {
	if len(raw) < headerLen || raw[2]&flagQR != 0 {
		s.refused.Add(1)
		return nil // answering answers makes loops
	}
	var q dns.Msg
	if err := q.Unpack(raw); err != nil {
		s.refused.Add(1)
		m := dns.Msg{MsgHdr: dns.MsgHdr{Id: binary.BigEndian.Uint16(raw), Response: true, Rcode: dns.RcodeFormatError}}
		return pack(&m)
	}
	switch {
	case q.Opcode != dns.OpcodeQuery:
		s.refused.Add(1)
		return s.fail(&q, dns.RcodeNotImplemented)
	case len(q.Question) != 1:
		s.refused.Add(1)
		return s.fail(&q, dns.RcodeFormatError)
	}
	limit := maxMessage
	if !stream {
		limit = dns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			limit = min(max(limit, int(opt.UDPSize())), ednsSize)
		}
	}
	if m := s.local(&q, client); m != nil {
		s.answered.Add(1)
		m.Truncate(limit)
		return pack(m)
	}
	return s.forward(&q, raw, limit)
}

// local is the answer the Zone has, or nil if the query is the outside's.
func (s *Server) local(q *dns.Msg, client netip.Addr) *dns.Msg {
	question := q.Question[0]
	name := strings.ToLower(strings.TrimSuffix(question.Name, "."))
	if question.Qclass != dns.ClassINET && question.Qclass != dns.ClassANY {
		return s.answer(q, dns.RcodeRefused)
	}
	if addr, ok := reverseAddr(name); ok {
		if name, owned := s.zone.Name(client, addr); owned {
			if name == "" {
				return s.answer(q, dns.RcodeNameError)
			}
			return s.names(q, name)
		}
	} else if addrs, known := s.addrs(client, name); known {
		return s.addresses(q, addrs)
	}
	if !s.zone.Forwards(client) || name == "localhost" || single(name, question.Qtype) {
		return s.answer(q, dns.RcodeNameError)
	}
	if !q.RecursionDesired {
		// What the asker does not want fetched is not fetched: so an agent whose
		// container has resolvers of its own learns which names are not ours.
		return s.answer(q, dns.RcodeRefused)
	}
	return nil
}

// addrs is the Zone's answer, with the names every resolver has to know
// (RFC 6761).
func (s *Server) addrs(client netip.Addr, name string) ([]netip.Addr, bool) {
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, true
	}
	return s.zone.Addrs(client, name)
}

// single tells that an unknown name can only have been meant for a service: it
// has one label, and its address is asked for. Outside resolvers know no such
// names, and should not learn those of services that are not running.
func single(name string, qtype uint16) bool {
	if name == "" || strings.Contains(name, ".") {
		return false
	}
	switch qtype {
	case dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS, dns.TypeSVCB, dns.TypeANY:
		return true
	}
	return false
}

// answer is an empty answer to q: "no data" if rcode is success.
func (s *Server) answer(q *dns.Msg, rcode int) *dns.Msg {
	m := new(dns.Msg).SetRcode(q, rcode)
	m.RecursionAvailable = true
	m.Compress = true
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(ednsSize, opt.Do())
	}
	return m
}

func (s *Server) addresses(q *dns.Msg, addrs []netip.Addr) *dns.Msg {
	m := s.answer(q, dns.RcodeSuccess)
	question := q.Question[0]
	var v4, v6 []dns.RR
	for _, a := range addrs {
		hdr := dns.RR_Header{Name: question.Name, Class: dns.ClassINET, Ttl: TTL}
		if a = a.Unmap(); a.Is4() {
			hdr.Rrtype = dns.TypeA
			v4 = append(v4, &dns.A{Hdr: hdr, A: a.AsSlice()})
		} else {
			hdr.Rrtype = dns.TypeAAAA
			v6 = append(v6, &dns.AAAA{Hdr: hdr, AAAA: a.AsSlice()})
		}
	}
	n := s.rotation.Add(1)
	switch question.Qtype {
	case dns.TypeA:
		m.Answer = rotate(v4, n)
	case dns.TypeAAAA:
		m.Answer = rotate(v6, n)
	case dns.TypeANY:
		m.Answer = append(rotate(v4, n), rotate(v6, n)...)
	}
	return m
}

// rotate lets each of several records be first in turn, which is all the
// balancing most clients do.
func rotate(rrs []dns.RR, by uint32) []dns.RR {
	if len(rrs) < 2 {
		return rrs
	}
	k := int(by % uint32(len(rrs)))
	return append(append(make([]dns.RR, 0, len(rrs)), rrs[k:]...), rrs[:k]...)
}

func (s *Server) names(q *dns.Msg, name string) *dns.Msg {
	m := s.answer(q, dns.RcodeSuccess)
	if t := q.Question[0].Qtype; t == dns.TypePTR || t == dns.TypeANY {
		m.Answer = append(m.Answer, &dns.PTR{
			Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: TTL},
			Ptr: dns.Fqdn(name),
		})
	}
	return m
}

// forward relays the query as it came, so that record types, flags and options
// unknown to us pass.
func (s *Server) forward(q *dns.Msg, raw []byte, limit int) []byte {
	ctx, cancel := context.WithTimeout(s.ctx, queryTimeout)
	defer cancel()
	reply, err := s.upstream.Exchange(ctx, raw)
	if err != nil || !answers(raw, reply) {
		s.failed.Add(1)
		s.log.Debug("name not resolved", "name", q.Question[0].Name, "error", err)
		return s.fail(q, dns.RcodeServerFailure)
	}
	s.forwarded.Add(1)
	if len(reply) <= limit {
		return reply
	}
	var m dns.Msg
	if err := m.Unpack(reply); err != nil {
		m = *s.answer(q, int(reply[3]&0x0f))
		m.Truncated = true // over TCP it comes as it is
	}
	m.Truncate(limit) // compresses first, and cuts only if that is not enough
	return pack(&m)
}

func (s *Server) fail(q *dns.Msg, rcode int) []byte {
	if len(q.Question) > 1 {
		q.Question = q.Question[:1]
	}
	return pack(s.answer(q, rcode))
}

func pack(m *dns.Msg) []byte {
	b, err := m.Pack()
	if err != nil { // a name out of the Zone that is no domain name
		fail := dns.Msg{MsgHdr: dns.MsgHdr{Id: m.Id, Response: true, Rcode: dns.RcodeServerFailure}}
		b, _ = fail.Pack() // a bare header always packs
	}
	return b
}

// answers tells whether reply can be the answer to query: same identifier,
// and the same question unless the resolver left it out with an error.
func answers(query, reply []byte) bool {
	if len(reply) < headerLen || reply[2]&flagQR == 0 || reply[0] != query[0] || reply[1] != query[1] {
		return false
	}
	if binary.BigEndian.Uint16(reply[4:]) == 0 {
		return reply[3]&0x0f != dns.RcodeSuccess
	}
	want, got := questionOf(query), questionOf(reply)
	return want != nil && strings.EqualFold(string(want), string(got))
}

// questionOf is the first question in wire form: a name is never compressed
// there, having nothing before it. nil if the message ends too early.
func questionOf(b []byte) []byte {
	for at := headerLen; at < len(b); {
		n := int(b[at])
		if n >= 0x40 {
			return nil
		}
		at += 1 + n
		if n == 0 {
			if at+4 > len(b) {
				return nil
			}
			return b[headerLen : at+4]
		}
	}
	return nil
}

// reverseAddr is the address that a name under in-addr.arpa or ip6.arpa spells.
func reverseAddr(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		parts := strings.Split(rest, ".")
		if len(parts) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
		return a, err == nil
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(rest) != 63 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i := range 32 {
		if i < 31 && rest[2*i+1] != '.' {
			return netip.Addr{}, false
		}
		digit := strings.IndexByte("0123456789abcdef", rest[2*i])
		if digit < 0 {
			return netip.Addr{}, false
		}
		b[15-i/2] |= byte(digit) << (4 * (i % 2))
	}
	return netip.AddrFrom16(b), true
}
