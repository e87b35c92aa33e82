package gateway

import (
	"net"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/stackvm/stack/network/ethernet"
)

// Sender puts frames on the network, as ethernet.Host does.
type Sender interface {
	Send(pieces ...[]byte)
}

// link is the stack's interface: it writes tagged frames to a Sender from the
// stack's own memory, without a queue in between.
type link struct {
	mac        net.HardwareAddr
	mtu        uint32
	sender     atomic.Pointer[Sender]
	dispatcher atomic.Pointer[stack.NetworkDispatcher]
}

func newLink(mac net.HardwareAddr, mtu int) *link { return &link{mac: mac, mtu: uint32(mtu)} }

// inject gives the stack a packet, of which it makes a copy.
func (l *link) inject(f ethernet.Frame) {
	d := l.dispatcher.Load()
	if d == nil {
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(f.Payload())})
	pkt.PktType = tcpip.PacketHost
	(*d).DeliverNetworkPacket(tcpip.NetworkProtocolNumber(f.Type()), pkt)
	pkt.DecRef()
}

func (l *link) send(pieces ...[]byte) {
	if s := l.sender.Load(); s != nil {
		(*s).Send(pieces...)
	}
}

// WritePackets implements stack.LinkWriter.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	for _, pkt := range pkts.AsSlice() {
		l.send(pkt.AsSlices()...)
	}
	return pkts.Len(), nil // a network drops what it cannot carry
}

// Capabilities implements stack.LinkEndpoint. Checksums are not checked: a
// frame crossed a socket of the host, not a wire, and a machine that sends a
// wrong one harms its own connections only.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityResolutionRequired | stack.CapabilityRXChecksumOffload
}

// AddHeader implements stack.LinkEndpoint.
func (l *link) AddHeader(pkt *stack.PacketBuffer) {
	f := ethernet.Frame(pkt.LinkHeader().Push(ethernet.HeaderLen))
	f.PutHeader(net.HardwareAddr(pkt.EgressRoute.RemoteLinkAddress), l.mac, uint16(pkt.NetworkProtocolNumber))
}

// ParseHeader implements stack.LinkEndpoint.
func (l *link) ParseHeader(pkt *stack.PacketBuffer) bool {
	_, ok := pkt.LinkHeader().Consume(ethernet.HeaderLen)
	return ok
}

// Attach implements stack.LinkEndpoint.
func (l *link) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		l.dispatcher.Store(nil)
		return
	}
	l.dispatcher.Store(&d)
}

// IsAttached implements stack.LinkEndpoint.
func (l *link) IsAttached() bool { return l.dispatcher.Load() != nil }

// LinkAddress implements stack.LinkEndpoint.
func (l *link) LinkAddress() tcpip.LinkAddress { return tcpip.LinkAddress(l.mac) }

// MTU implements stack.LinkEndpoint.
func (l *link) MTU() uint32 { return l.mtu }

// MaxHeaderLength implements stack.LinkEndpoint.
func (l *link) MaxHeaderLength() uint16 { return ethernet.HeaderLen }

// ARPHardwareType implements stack.LinkEndpoint.
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

// The rest of stack.LinkEndpoint: there is nothing to change or to wait for.

// SetLinkAddress implements stack.LinkEndpoint.
func (l *link) SetLinkAddress(tcpip.LinkAddress) {}

// SetMTU implements stack.LinkEndpoint.
func (l *link) SetMTU(uint32) {}

// Wait implements stack.LinkEndpoint.
func (l *link) Wait() {}

// Close implements stack.LinkEndpoint.
func (l *link) Close() {}

// SetOnCloseAction implements stack.LinkEndpoint.
func (l *link) SetOnCloseAction(func()) {}
