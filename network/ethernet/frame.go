package ethernet

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// Sizes and numbers of IEEE 802.1Q and of the protocols a pin must look into.
const (
	// HeaderLen is the length of a tagged Ethernet header: two addresses, the
	// tag, and the type of the payload.
	HeaderLen = 18

	// MaxMTU is the largest payload of a frame in bytes. It keeps an IPv4
	// packet (65,535 bytes at most) clear of its limit with room for what a
	// guest's kernel adds, and a frame within 64 KiB.
	MaxMTU = 65500

	// MaxVLAN is the highest usable VLAN identifier; 0 and 4095 are reserved.
	MaxVLAN = 4094

	typeVLAN = 0x8100
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeIPv6 = 0x86dd
)

// Frame is one tagged Ethernet frame, HeaderLen bytes or longer.
type Frame []byte

// Destination is the address the frame is sent to, sharing the frame's memory.
func (f Frame) Destination() net.HardwareAddr { return net.HardwareAddr(f[0:6]) }

// Source is the address of the sender, sharing the frame's memory.
func (f Frame) Source() net.HardwareAddr { return net.HardwareAddr(f[6:12]) }

// VLAN is the identifier in the frame's tag.
func (f Frame) VLAN() uint16 { return binary.BigEndian.Uint16(f[14:]) & 0x0fff }

// Type is the EtherType of the payload.
func (f Frame) Type() uint16 { return binary.BigEndian.Uint16(f[16:]) }

// Payload is what follows the header, sharing the frame's memory.
func (f Frame) Payload() []byte { return f[HeaderLen:] }

// PutHeader writes a tagged header with VLAN 0 into f; the switch sets the
// VLAN of each receiver.
func (f Frame) PutHeader(dst, src net.HardwareAddr, etherType uint16) {
	copy(f[0:6], dst)
	copy(f[6:12], src)
	binary.BigEndian.PutUint16(f[12:], typeVLAN)
	binary.BigEndian.PutUint16(f[14:], 0)
	binary.BigEndian.PutUint16(f[16:], etherType)
}

func (f Frame) setVLAN(v uint16) { binary.BigEndian.PutUint16(f[14:], v) }
func (f Frame) destination() mac { return mac48(f) }
func (f Frame) source() mac      { return mac48(f[6:]) }
func (f Frame) tagged() bool     { return binary.BigEndian.Uint16(f[12:]) == typeVLAN }
func (f Frame) toGroup() bool    { return f[0]&1 != 0 }

// mac is a MAC address as a number: a map key that hashes in one step.
type mac uint64

func mac48(b []byte) mac {
	return mac(binary.BigEndian.Uint16(b))<<32 | mac(binary.BigEndian.Uint32(b[2:]))
}

func (m mac) bytes() net.HardwareAddr {
	b := make(net.HardwareAddr, 6)
	binary.BigEndian.PutUint16(b, uint16(m>>32))
	binary.BigEndian.PutUint32(b[2:], uint32(m))
	return b
}

// LinkLocal is the IPv6 link-local address that a kernel derives from a MAC
// (RFC 4291, appendix A).
func LinkLocal(hw net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{
		0xfe, 0x80, 8: hw[0] ^ 0x02, 9: hw[1], 10: hw[2], 11: 0xff,
		12: 0xfe, 13: hw[3], 14: hw[4], 15: hw[5],
	})
}
