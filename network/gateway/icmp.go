package gateway

import (
	"encoding/binary"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/stackvm/stack/network/ethernet"
)

// unreachable answers packet b in frame f with an ICMP error of its family.
// It never answers an ICMP error (RFC 1122, 3.2.2), which the callers see to.
func (g *Gateway) unreachable(f ethernet.Frame, b []byte, kind, code byte) {
	src, _ := addressesOf(b)
	from, ok := g.ownFor(src)
	if !ok || src.IsUnspecified() {
		return
	}
	g.sendICMPError(f.Source(), from, src, b, kind, code)
}

// addressesOf are the addresses of an IP packet with a whole header.
func addressesOf(b []byte) (src, dst netip.Addr) {
	if b[0]>>4 == 4 {
		return netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	}
	return netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
}

func (g *Gateway) sendICMPError(to net.HardwareAddr, from, dst netip.Addr, about []byte, kind, code byte) {
	quoted := about[:min(len(about), 576-20-8)] // RFC 1812, 4.3.2.3
	message := make([]byte, 8+len(quoted))
	message[0], message[1] = kind, code
	copy(message[8:], quoted)
	g.sendICMP(to, from, dst, message)
}

// unreachableUDP tells the sender of a flow that nobody listens at dst. The
// datagram that caused it is gone; its headers are all that is looked at.
func (g *Gateway) unreachableUDP(from, dst netip.AddrPort) {
	hw, ok := g.flows.neighbor(from.Addr())
	if !ok {
		return
	}
	udp := make([]byte, 8)
	binary.BigEndian.PutUint16(udp, from.Port())
	binary.BigEndian.PutUint16(udp[2:], dst.Port())
	binary.BigEndian.PutUint16(udp[4:], 8)
	about := append(ipHeader(from.Addr(), dst.Addr(), protoUDP, len(udp)), udp...)
	kind, code := byte(icmpUnreachable), byte(icmpCodePort)
	if !from.Addr().Is4() {
		kind, code = icmp6Unreachable, icmp6CodePort
	}
	g.sendICMPError(hw, dst.Addr(), from.Addr(), about, kind, code)
}

// sendICMP sends a message, whose checksum it fills in.
func (g *Gateway) sendICMP(to net.HardwareAddr, src, dst netip.Addr, message []byte) {
	proto, etherType := byte(protoICMP), uint16(typeIPv4)
	message[2], message[3] = 0, 0
	sum := uint16(0)
	if !src.Is4() {
		proto, etherType = protoICMPv6, typeIPv6
		sum = header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, toAddress(src), toAddress(dst), uint16(len(message)))
	}
	binary.BigEndian.PutUint16(message[2:], ^checksum.Checksum(message, sum))
	ip := ipHeader(src, dst, proto, len(message))
	f := ethernet.Frame(make([]byte, ethernet.HeaderLen, ethernet.HeaderLen+len(ip)+len(message)))
	f.PutHeader(to, g.cfg.MAC, etherType)
	g.link.send(append(append(f, ip...), message...))
}

// ipHeader is the header of a packet with n bytes after it.
func ipHeader(src, dst netip.Addr, proto byte, n int) []byte {
	if src.Is4() {
		h := header.IPv4(make([]byte, header.IPv4MinimumSize))
		h.Encode(&header.IPv4Fields{
			TotalLength: uint16(header.IPv4MinimumSize + n), TTL: 64, Protocol: proto,
			SrcAddr: toAddress(src), DstAddr: toAddress(dst),
		})
		h.SetChecksum(^h.CalculateChecksum())
		return h
	}
	h := header.IPv6(make([]byte, header.IPv6MinimumSize))
	h.Encode(&header.IPv6Fields{
		PayloadLength: uint16(n), TransportProtocol: tcpip.TransportProtocolNumber(proto), HopLimit: 64,
		SrcAddr: toAddress(src), DstAddr: toAddress(dst),
	})
	return h
}
