//go:build linux

package boottest

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
)

// Peer is one host on one of a machine's VLANs: it answers ARP, and UDP messages
// go to Handle.
type Peer struct {
	VLAN uint16
	Addr netip.Addr // IPv4
	// Handle answers a message to port; nil is silence.
	Handle func(port uint16, message []byte) []byte
}

var peerMAC = net.HardwareAddr{2, 0, 0, 0, 0, 0xfe}

// Peers answers the machine's frames until the test ends.
func (m *Machine) Peers(peers ...Peer) {
	var wg sync.WaitGroup
	m.t.Cleanup(wg.Wait)
	m.t.Cleanup(func() { m.Trunk.Close() })
	machine := &net.UnixAddr{Name: m.path("nic"), Net: "unixgram"}
	wg.Go(func() {
		buf := make([]byte, 1<<16)
		for {
			n, _, err := m.Trunk.ReadFrom(buf)
			if err != nil {
				return
			}
			for _, p := range peers {
				if reply := p.frame(buf[:n]); reply != nil {
					_, _ = m.Trunk.WriteTo(reply, machine)
				}
			}
		}
	})
}

// frame answers one Ethernet frame with an 802.1Q tag.
func (p Peer) frame(f []byte) []byte {
	be := binary.BigEndian
	if len(f) < 18+28 || be.Uint16(f[12:]) != 0x8100 || be.Uint16(f[14:])&0xfff != p.VLAN {
		return nil
	}
	own := p.Addr.As4()
	head := func(kind uint16) []byte {
		out := append([]byte(nil), f[6:12]...)
		out = append(out, peerMAC...)
		out = append(out, f[12:16]...)
		return be.AppendUint16(out, kind)
	}
	b := f[18:]
	switch be.Uint16(f[16:]) {
	case 0x0806:
		if be.Uint16(b[6:]) != 1 || [4]byte(b[24:28]) != own {
			return nil
		}
		out := append(head(0x0806), b[:6]...)
		out = be.AppendUint16(out, 2)
		out = append(append(out, peerMAC...), own[:]...)
		return append(out, b[8:18]...)
	case 0x0800:
		if b[0] != 0x45 || b[9] != 17 || [4]byte(b[16:20]) != own {
			return nil
		}
		total := int(be.Uint16(b[2:]))
		if total > len(b) || p.Handle == nil {
			return nil
		}
		udp := b[20:total]
		answer := p.Handle(be.Uint16(udp[2:]), udp[8:])
		if answer == nil {
			return nil
		}
		ip := make([]byte, 20, 28+len(answer))
		ip[0], ip[8], ip[9] = 0x45, 64, 17
		be.PutUint16(ip[2:], uint16(28+len(answer)))
		copy(ip[12:], own[:])
		copy(ip[16:], b[12:16])
		var sum uint32
		for i := 0; i < 20; i += 2 {
			sum += uint32(be.Uint16(ip[i:]))
		}
		sum = sum>>16 + sum&0xffff
		be.PutUint16(ip[10:], ^uint16(sum+sum>>16))
		ip = append(ip, udp[2], udp[3], udp[0], udp[1])
		ip = be.AppendUint16(ip, uint16(8+len(answer)))
		ip = append(ip, 0, 0) // no checksum
		return append(head(0x0800), append(ip, answer...)...)
	}
	return nil
}
