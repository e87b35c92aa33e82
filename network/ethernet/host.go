package ethernet

import (
	"fmt"
	"net"
)

// Receiver takes the frames sent to a host endpoint.
type Receiver interface {
	// Receive is called with each frame, from several goroutines at once: the
	// readers of the senders' trunks. The frame, whose pins were checked, is
	// the switch's again when Receive returns. It must not block.
	Receive(Frame)
}

// Host is the place of the host itself on a network: its gateway. What it
// sends is trusted and not pinned.
type Host struct {
	ep *endpoint
	to Receiver
}

// AttachHost gives the host a place on a network, with a MAC no machine may
// then have. RemoveNetwork ends it.
func (s *Switch) AttachHost(network string, hw net.HardwareAddr, to Receiver) (*Host, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	h := &Host{to: to}
	h.ep = &endpoint{pin: pin{mac: mac48(hw)}, host: h}
	if err := s.joinLocked(network, h.ep); err != nil {
		return nil, fmt.Errorf("host on network %q: %w", network, err)
	}
	return h, nil
}

// Send sends one frame given in pieces, of which the first holds the whole
// header; the VLAN in it is overwritten. The pieces are the caller's again on
// return. A frame for a MAC that nobody has is dropped, as on a wire.
func (h *Host) Send(pieces ...[]byte) {
	n := 0
	for _, p := range pieces {
		n += len(p)
	}
	ep := h.ep
	if len(pieces) == 0 || len(pieces[0]) < HeaderLen {
		ep.drop(DropMalformed)
		return
	}
	if n > ep.network.maxFrame {
		ep.drop(DropOversize)
		return
	}
	ep.sentFrames.Add(1)
	ep.sentBytes.Add(uint64(n))
	f := Frame(pieces[0])
	m := ep.network.members.Load()
	if !f.toGroup() {
		dst := m.byMAC[f.destination()]
		if dst == nil || dst == ep {
			ep.drop(DropUnknown)
			return
		}
		dst.deliver(f, pieces)
		return
	}
	for _, dst := range m.all {
		if dst != ep {
			dst.deliver(f, pieces)
		}
	}
}

// deliver gives one frame, whose first piece starts with header f, to ep.
func (ep *endpoint) deliver(f Frame, pieces [][]byte) {
	if ep.host != nil {
		frame := f
		if len(pieces) > 1 {
			frame = nil
			for _, p := range pieces {
				frame = append(frame, p...)
			}
		}
		ep.receivedFrames.Add(1)
		ep.receivedBytes.Add(uint64(len(frame)))
		ep.host.to.Receive(frame)
		return
	}
	l := ep.trunk.link.Load()
	if l == nil {
		ep.drop(DropFull)
		return
	}
	f.setVLAN(ep.vlan)
	l.sendOne(ep, pieces)
}
