package gateway

import (
	"encoding/binary"
	"net/netip"

	"github.com/stackvm/stack/network/ethernet"
)

// EtherTypes, IP protocols, and the ICMP types that matter here (IANA).
const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeIPv6 = 0x86dd

	protoICMP     = 1
	protoTCP      = 6
	protoUDP      = 17
	protoFragment = 44
	protoICMPv6   = 58

	icmpEchoReply    = 0
	icmpUnreachable  = 3
	icmpEcho         = 8
	icmpTimeExceeded = 11
	icmpParameter    = 12

	icmpCodeNet        = 0
	icmpCodeHost       = 1
	icmpCodePort       = 3
	icmpCodeProhibited = 13

	icmp6Unreachable   = 1
	icmp6PacketTooBig  = 2
	icmp6TimeExceeded  = 3
	icmp6Parameter     = 4
	icmp6Echo          = 128
	icmp6EchoReply     = 129
	icmp6NeighSolicit  = 135
	icmp6CodeNoRoute   = 0
	icmp6CodeProhibite = 1
	icmp6CodeAddress   = 3
	icmp6CodePort      = 4
)

// Receive implements ethernet.Receiver. The stack sees only what is meant for
// it: in promiscuous mode it would answer ARP requests and pings for anyone.
func (g *Gateway) Receive(f ethernet.Frame) {
	b := f.Payload()
	switch f.Type() {
	case typeARP: // checked by the switch: Ethernet and IPv4
		if binary.BigEndian.Uint16(b[6:]) == 1 && g.own[netip.AddrFrom4([4]byte(b[24:28]))] {
			g.link.inject(f)
		}
	case typeIPv4:
		g.receive4(f, b)
	case typeIPv6:
		g.receive6(f, b)
	}
}

func (g *Gateway) receive4(f ethernet.Frame, b []byte) {
	headerLen := int(b[0]&0x0f) * 4
	total := int(binary.BigEndian.Uint16(b[2:]))
	if headerLen < 20 || total < headerLen || len(b) < total || f[0]&1 != 0 {
		return
	}
	b = b[:total]
	dst := netip.AddrFrom4([4]byte(b[16:20]))
	if !g.own[dst] && b[8] <= 1 {
		g.unreachable(f, b, icmpTimeExceeded, 0)
		return
	}
	fragment := binary.BigEndian.Uint16(b[6:])&0x3fff != 0 // more follow, or an offset
	switch b[9] {
	case protoTCP, protoUDP:
	case protoICMP:
		body := b[headerLen:]
		switch {
		case g.own[dst]:
		case fragment || len(body) < 8:
			return
		case body[0] == icmpEcho:
			g.ping(f, b, body)
			return
		case body[0] != icmpUnreachable && body[0] != icmpTimeExceeded && body[0] != icmpParameter:
			return // the errors may concern a published connection
		}
	default:
		g.unreachable(f, b, icmpUnreachable, icmpCodeProhibited)
		return
	}
	g.link.inject(f)
}

func (g *Gateway) receive6(f ethernet.Frame, b []byte) {
	total := 40 + int(binary.BigEndian.Uint16(b[4:]))
	if len(b) < total {
		return
	}
	b = b[:total]
	body := b[40:]
	dst := netip.AddrFrom16([16]byte(b[24:40]))
	if f[0]&1 != 0 || dst.IsMulticast() {
		// Of what goes to a group, only questions for our own address matter.
		if b[6] != protoICMPv6 || len(body) < 24 || body[0] != icmp6NeighSolicit || !g.own[netip.AddrFrom16([16]byte(body[8:24]))] {
			return
		}
		g.link.inject(f)
		return
	}
	if !g.own[dst] && b[7] <= 1 {
		g.unreachable(f, b, icmp6TimeExceeded, 0)
		return
	}
	switch b[6] {
	case protoTCP, protoUDP:
	case protoFragment:
		// What is inside may be ICMP or have headers of its own only for us.
		if !g.own[dst] && (len(body) < 8 || body[0] != protoTCP && body[0] != protoUDP) {
			return
		}
	case protoICMPv6:
		switch {
		case len(body) < 8:
			return
		case body[0] == icmp6NeighSolicit:
			if len(body) < 24 || !g.own[netip.AddrFrom16([16]byte(body[8:24]))] {
				return
			}
		case g.own[dst]:
		case body[0] == icmp6Echo:
			g.ping(f, b, body)
			return
		case body[0] < icmp6Unreachable || body[0] > icmp6Parameter:
			return
		}
	default:
		if !g.own[dst] {
			g.unreachable(f, b, icmp6Unreachable, icmp6CodeProhibite)
			return
		}
	}
	g.link.inject(f)
}
