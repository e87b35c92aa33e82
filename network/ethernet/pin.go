package ethernet

import (
	"encoding/binary"
	"net/netip"
)

// Numbers of IPv6 next headers (IANA) and ICMPv6 types (RFC 4443, RFC 4861).
const (
	nextHopByHop = 0
	nextRouting  = 43
	nextFragment = 44
	nextAuth     = 51
	nextICMPv6   = 58
	nextOptions  = 60

	icmp6RouterSolicit = 133
	icmp6RouterAdvert  = 134
	icmp6NeighSolicit  = 135
	icmp6NeighAdvert   = 136
	icmp6Redirect      = 137
	icmp6MLDv1Report   = 131
	icmp6MLDv1Done     = 132
	icmp6MLDv2Report   = 143

	optionSourceLink = 1
	optionTargetLink = 2
)

// pin is what an endpoint may claim in the frames it sends.
type pin struct {
	mac  mac
	ipv4 []uint32   // big-endian value; usually one
	ipv6 [][16]byte // the link-local address included
}

func newPin(m mac, addrs []netip.Addr) pin {
	p := pin{mac: m, ipv6: [][16]byte{LinkLocal(m.bytes()).As16()}}
	for _, a := range addrs {
		if a = a.Unmap(); a.Is4() {
			b := a.As4()
			p.ipv4 = append(p.ipv4, binary.BigEndian.Uint32(b[:]))
		} else {
			p.ipv6 = append(p.ipv6, a.As16())
		}
	}
	return p
}

func (p *pin) has4(b []byte) bool {
	a := binary.BigEndian.Uint32(b)
	for _, have := range p.ipv4 {
		if a == have {
			return true
		}
	}
	return false
}

func (p *pin) has6(b []byte) bool {
	a := [16]byte(b)
	for i := range p.ipv6 {
		if a == p.ipv6[i] {
			return true
		}
	}
	return false
}

// check tells why frame f may not be sent by the pin's owner, or 0.
func (p *pin) check(f Frame) Reason {
	if f.source() != p.mac {
		return DropMAC
	}
	b := f.Payload()
	switch f.Type() {
	case typeIPv4:
		if len(b) < 20 || b[0]>>4 != 4 {
			return DropMalformed
		}
		if !p.has4(b[12:16]) {
			return DropSource
		}
		return 0
	case typeIPv6:
		return p.check6(b)
	case typeARP:
		return p.checkARP(b)
	}
	return DropType
}

// checkARP accepts requests and replies in which the sender is the pin. A
// sender address of zero is a probe for a duplicate (RFC 5227): it enters no
// cache.
func (p *pin) checkARP(b []byte) Reason {
	const ethernetIPv4 = 0x0001_0800_06_04 // hardware, protocol, their lengths
	if len(b) < 28 || binary.BigEndian.Uint64(b)>>16 != ethernetIPv4 {
		return DropMalformed
	}
	if mac48(b[8:]) != p.mac {
		return DropSource
	}
	if sender := b[14:18]; binary.BigEndian.Uint32(sender) != 0 && !p.has4(sender) {
		return DropSource
	}
	return 0
}

// check6 looks through the extension headers for the messages of neighbour
// discovery, which carry addresses of their own. Those behind a fragment
// header are dropped (RFC 6980), so that none can hide from the pin.
func (p *pin) check6(b []byte) Reason {
	if len(b) < 40 || b[0]>>4 != 6 {
		return DropMalformed
	}
	src := b[8:24]
	unspecified := [16]byte(src) == [16]byte{}
	if !unspecified && !p.has6(src) {
		return DropSource
	}
	fragmented := false
	next, rest := b[6], b[40:]
	for range 8 { // more extension headers than any honest packet has
		var n int
		switch next {
		case nextICMPv6:
			return p.checkICMP6(rest, unspecified, fragmented)
		case nextHopByHop, nextRouting, nextOptions:
			if len(rest) < 8 {
				return DropMalformed
			}
			n = 8 + int(rest[1])*8
		case nextAuth:
			if len(rest) < 8 {
				return DropMalformed
			}
			n = 8 + int(rest[1])*4
		case nextFragment:
			if len(rest) < 8 {
				return DropMalformed
			}
			if binary.BigEndian.Uint16(rest[2:])>>3 != 0 {
				// Not the first fragment: what it continues was checked, or
				// dropped, when its first fragment came.
				if unspecified {
					return DropSource
				}
				return 0
			}
			fragmented, n = true, 8
		default:
			if unspecified {
				return DropSource
			}
			return 0
		}
		if len(rest) < n {
			return DropMalformed
		}
		next, rest = rest[0], rest[n:]
	}
	return DropMalformed
}

func (p *pin) checkICMP6(b []byte, unspecified, fragmented bool) Reason {
	if len(b) < 4 {
		return DropMalformed
	}
	kind := b[0]
	if kind >= icmp6RouterSolicit && kind <= icmp6Redirect && fragmented {
		return DropMalformed
	}
	switch kind {
	case icmp6RouterAdvert, icmp6Redirect:
		// No endpoint is a router: the gateway alone is, and it does not advertise.
		return DropRouter
	case icmp6RouterSolicit:
		if len(b) < 8 {
			return DropMalformed
		}
		return p.checkLinkOption(b[8:], optionSourceLink)
	case icmp6NeighSolicit:
		if len(b) < 24 {
			return DropMalformed
		}
		if unspecified && !p.has6(b[8:24]) { // detection of a duplicate of an address not given
			return DropSource
		}
		return p.checkLinkOption(b[24:], optionSourceLink)
	case icmp6NeighAdvert:
		if len(b) < 24 {
			return DropMalformed
		}
		if unspecified || !p.has6(b[8:24]) {
			return DropSource
		}
		return p.checkLinkOption(b[24:], optionTargetLink)
	case icmp6MLDv1Report, icmp6MLDv1Done, icmp6MLDv2Report:
		return 0 // sent from :: before the link-local address is valid (RFC 3590)
	}
	if unspecified {
		return DropSource
	}
	return 0
}

// checkLinkOption looks at every option of a neighbour discovery message: a
// link-layer address of the given kind must be the pin's MAC.
func (p *pin) checkLinkOption(b []byte, kind byte) Reason {
	for len(b) >= 8 {
		n := int(b[1]) * 8
		if n == 0 || n > len(b) {
			return DropMalformed
		}
		if b[0] == kind && mac48(b[2:]) != p.mac {
			return DropSource
		}
		b = b[n:]
	}
	if len(b) != 0 {
		return DropMalformed
	}
	return 0
}
