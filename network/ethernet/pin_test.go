package ethernet

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"
)

var (
	macA = net.HardwareAddr{2, 0, 0, 0, 0, 0xa}
	macB = net.HardwareAddr{2, 0, 0, 0, 0, 0xb}
	ipA  = netip.MustParseAddr("10.0.0.10")
	ipB  = netip.MustParseAddr("10.0.0.11")
	ip6A = netip.MustParseAddr("fd00::a")
	ip6B = netip.MustParseAddr("fd00::b")
	none = netip.IPv6Unspecified()

	broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodes  = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
)

// frame builds a tagged frame.
func frame(dst, src net.HardwareAddr, vlan, etherType uint16, payload []byte) Frame {
	f := Frame(make([]byte, HeaderLen, HeaderLen+len(payload)))
	f.PutHeader(dst, src, etherType)
	f.setVLAN(vlan)
	return append(f, payload...)
}

func packet4(src, dst netip.Addr, payload ...byte) []byte {
	b := make([]byte, 20, 20+len(payload))
	b[0] = 0x45
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	return append(b, payload...)
}

func packet6(src, dst netip.Addr, next byte, payload ...byte) []byte {
	b := make([]byte, 40, 40+len(payload))
	b[0] = 0x60
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	b[6] = next
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return append(b, payload...)
}

func arpPacket(op byte, sender net.HardwareAddr, senderIP, target netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, op}
	b = append(append(b, sender...), senderIP.AsSlice()...)
	return append(append(b, make([]byte, 6)...), target.AsSlice()...)
}

// neighbor is a neighbour solicitation or advertisement.
func neighbor(kind byte, target netip.Addr, option byte, hw net.HardwareAddr) []byte {
	b := append([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, target.AsSlice()...)
	if hw != nil {
		b = append(append(b, option, 1), hw...)
	}
	return b
}

func extension(kind, next byte, rest []byte) (byte, []byte) {
	return kind, append([]byte{next, 0, 0, 0, 0, 0, 0, 0}, rest...)
}

func v6ext(src netip.Addr, kind byte, next byte, rest []byte) []byte {
	k, b := extension(kind, next, rest)
	return packet6(src, ip6B, k, b...)
}

func TestPin(t *testing.T) {
	p := newPin(mac48(macA), []netip.Addr{ipA, ip6A})
	localA := LinkLocal(macA)
	advert := neighbor(icmp6NeighAdvert, ip6B, optionTargetLink, macA)
	for _, tc := range []struct {
		name      string
		src       net.HardwareAddr
		etherType uint16
		payload   []byte
		want      Reason
	}{
		{"IPv4", macA, typeIPv4, packet4(ipA, ipB), 0},
		{"IPv4 from another", macA, typeIPv4, packet4(ipB, ipA), DropSource},
		{"IPv4 from 0.0.0.0", macA, typeIPv4, packet4(netip.IPv4Unspecified(), ipB), DropSource},
		{"IPv4 from another MAC", macB, typeIPv4, packet4(ipA, ipB), DropMAC},
		{"IPv4 cut", macA, typeIPv4, packet4(ipA, ipB)[:19], DropMalformed},
		{"IPv6 as IPv4", macA, typeIPv4, packet6(ip6A, ip6B, 6), DropMalformed},
		{"IPv6", macA, typeIPv6, packet6(ip6A, ip6B, 6), 0},
		{"IPv6 from the link-local address", macA, typeIPv6, packet6(localA, ip6B, 6), 0},
		{"IPv6 from another's link-local address", macA, typeIPv6, packet6(LinkLocal(macB), ip6A, 6), DropSource},
		{"IPv6 from another", macA, typeIPv6, packet6(ip6B, ip6A, 6), DropSource},
		{"TCP from ::", macA, typeIPv6, packet6(none, ip6B, 6), DropSource},
		{"IPv6 cut", macA, typeIPv6, packet6(ip6A, ip6B, 6)[:39], DropMalformed},
		{"ARP request", macA, typeARP, arpPacket(1, macA, ipA, ipB), 0},
		{"ARP probe", macA, typeARP, arpPacket(1, macA, netip.IPv4Unspecified(), ipA), 0},
		{"ARP for another's address", macA, typeARP, arpPacket(2, macA, ipB, ipA), DropSource},
		{"ARP for another's MAC", macA, typeARP, arpPacket(2, macB, ipA, ipB), DropSource},
		{"ARP cut", macA, typeARP, arpPacket(1, macA, ipA, ipB)[:27], DropMalformed},
		{"ARP of another hardware", macA, typeARP, append([]byte{0, 6}, arpPacket(1, macA, ipA, ipB)[2:]...), DropMalformed},
		{"LLDP", macA, 0x88cc, make([]byte, 60), DropType},
		{"a second tag", macA, typeVLAN, make([]byte, 60), DropType},
		{"solicitation", macA, typeIPv6, packet6(ip6A, ip6B, nextICMPv6, neighbor(icmp6NeighSolicit, ip6B, optionSourceLink, macA)...), 0},
		{"solicitation with another's MAC", macA, typeIPv6, packet6(ip6A, ip6B, nextICMPv6, neighbor(icmp6NeighSolicit, ip6B, optionSourceLink, macB)...), DropSource},
		{"duplicate detection", macA, typeIPv6, packet6(none, ip6B, nextICMPv6, neighbor(icmp6NeighSolicit, ip6A, 0, nil)...), 0},
		{"duplicate detection, link-local", macA, typeIPv6, packet6(none, ip6B, nextICMPv6, neighbor(icmp6NeighSolicit, localA, 0, nil)...), 0},
		{"duplicate detection of another's", macA, typeIPv6, packet6(none, ip6B, nextICMPv6, neighbor(icmp6NeighSolicit, ip6B, 0, nil)...), DropSource},
		{"advertisement", macA, typeIPv6, packet6(ip6A, ip6B, nextICMPv6, neighbor(icmp6NeighAdvert, ip6A, optionTargetLink, macA)...), 0},
		{"advertisement of another's", macA, typeIPv6, packet6(ip6A, ip6B, nextICMPv6, advert...), DropSource},
		{"advertisement with another's MAC", macA, typeIPv6, packet6(ip6A, ip6B, nextICMPv6, neighbor(icmp6NeighAdvert, ip6A, optionTargetLink, macB)...), DropSource},
		{"advertisement from ::", macA, typeIPv6, packet6(none, ip6B, nextICMPv6, neighbor(icmp6NeighAdvert, ip6A, optionTargetLink, macA)...), DropSource},
		{"second option lies", macA, typeIPv6, packet6(ip6A, ip6B, nextICMPv6, append(neighbor(icmp6NeighAdvert, ip6A, optionTargetLink, macA), append([]byte{optionTargetLink, 1}, macB...)...)...), DropSource},
		{"option of no length", macA, typeIPv6, packet6(ip6A, ip6B, nextICMPv6, append(neighbor(icmp6NeighAdvert, ip6A, 0, nil), 1, 0, 0, 0, 0, 0, 0, 0)...), DropMalformed},
		{"another's behind hop-by-hop", macA, typeIPv6, v6ext(ip6A, nextHopByHop, nextICMPv6, advert), DropSource},
		{"another's behind destination options", macA, typeIPv6, v6ext(ip6A, nextOptions, nextICMPv6, advert), DropSource},
		{"advertisement in a fragment", macA, typeIPv6, v6ext(ip6A, nextFragment, nextICMPv6, neighbor(icmp6NeighAdvert, ip6A, optionTargetLink, macA)), DropMalformed},
		{"echo in a fragment", macA, typeIPv6, v6ext(ip6A, nextFragment, nextICMPv6, []byte{128, 0, 0, 0}), 0},
		{"a later fragment", macA, typeIPv6, packet6(ip6A, ip6B, nextFragment, nextICMPv6, 0, 1, 0, 0, 0, 0, 0), 0},
		{"router advertisement", macA, typeIPv6, packet6(localA, ip6B, nextICMPv6, icmp6RouterAdvert, 0, 0, 0), DropRouter},
		{"redirect", macA, typeIPv6, packet6(localA, ip6B, nextICMPv6, icmp6Redirect, 0, 0, 0), DropRouter},
		{"router solicitation", macA, typeIPv6, packet6(none, ip6B, nextICMPv6, icmp6RouterSolicit, 0, 0, 0, 0, 0, 0, 0), 0},
		{"multicast report from ::", macA, typeIPv6, packet6(none, ip6B, nextICMPv6, icmp6MLDv2Report, 0, 0, 0), 0},
		{"echo from ::", macA, typeIPv6, packet6(none, ip6B, nextICMPv6, 128, 0, 0, 0), DropSource},
	} {
		if got := p.check(frame(macB, tc.src, 1, tc.etherType, tc.payload)); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

// FuzzPin checks with a second reading of the frame that nothing passes in
// which an address that matters is not the pin's.
func FuzzPin(f *testing.F) {
	f.Add([]byte(frame(macB, macA, 1, typeIPv4, packet4(ipA, ipB))))
	f.Add([]byte(frame(macB, macA, 1, typeARP, arpPacket(1, macA, ipA, ipB))))
	f.Add([]byte(frame(macB, macA, 1, typeIPv6, packet6(ip6A, ip6B, nextICMPv6, neighbor(icmp6NeighAdvert, ip6A, optionTargetLink, macA)...))))
	f.Add([]byte(frame(macB, macA, 1, typeIPv6, v6ext(ip6A, nextHopByHop, nextICMPv6, neighbor(icmp6NeighSolicit, ip6A, optionSourceLink, macA)))))
	p := newPin(mac48(macA), []netip.Addr{ipA, ip6A})
	own := []netip.Addr{ipA, ip6A, LinkLocal(macA)}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < HeaderLen {
			return
		}
		f := Frame(b)
		if p.check(f) != 0 {
			return
		}
		if !slices.Equal(f.Source(), macA) {
			t.Fatal("passed with another MAC")
		}
		b = f.Payload()
		var claims []netip.Addr
		switch f.Type() {
		case typeIPv4:
			claims = append(claims, netip.AddrFrom4([4]byte(b[12:])))
		case typeARP:
			if a := netip.AddrFrom4([4]byte(b[14:])); !a.IsUnspecified() {
				claims = append(claims, a)
			}
			if !slices.Equal(net.HardwareAddr(b[8:14]), macA) {
				t.Fatal("passed ARP for another MAC")
			}
		case typeIPv6:
			if a := netip.AddrFrom16([16]byte(b[8:])); !a.IsUnspecified() {
				claims = append(claims, a)
			}
			if b[6] == nextICMPv6 && b[40] == icmp6NeighAdvert {
				claims = append(claims, netip.AddrFrom16([16]byte(b[48:])))
			}
		default:
			t.Fatalf("passed type %#x", f.Type())
		}
		for _, a := range claims {
			if !slices.Contains(own, a) {
				t.Fatalf("passed a claim of %s", a)
			}
		}
	})
}

func TestLinkLocal(t *testing.T) {
	// The example of RFC 4291, appendix A, with the bit it inverts.
	if got := LinkLocal(net.HardwareAddr{0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde}).String(); got != "fe80::3656:78ff:fe9a:bcde" {
		t.Error(got)
	}
}
