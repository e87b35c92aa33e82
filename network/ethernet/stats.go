package ethernet

import "sync/atomic"

// Reason says why a frame was dropped.
type Reason uint8

// The reasons, in the order in which a frame meets them. All but the last two
// are counted where the frame came from; DropUnknown there too, DropFull at
// the endpoint it could not be given to.
const (
	_             Reason = iota
	DropMalformed        // too short for what its headers promise
	DropOversize         // longer than the network's MTU
	DropVLAN             // untagged, or a VLAN the trunk has no endpoint for
	DropMAC              // the source MAC is not the endpoint's
	DropType             // neither IPv4, IPv6 nor ARP
	DropSource           // an IP, ARP or neighbour discovery address not the endpoint's
	DropRouter           // a router advertisement or redirect from an endpoint
	DropIsolated         // to another machine, on a network where machines reach the host alone
	DropUnknown          // no endpoint of the network has the destination MAC
	DropFull             // the receiver does not keep up, or is gone
	reasons
)

var reasonNames = [reasons]string{
	DropMalformed: "malformed",
	DropOversize:  "oversize",
	DropVLAN:      "vlan",
	DropMAC:       "mac",
	DropType:      "type",
	DropSource:    "source",
	DropRouter:    "router",
	DropIsolated:  "isolated",
	DropUnknown:   "unknown",
	DropFull:      "full",
}

// String is the reason's name, one lower-case word.
func (r Reason) String() string {
	if r == 0 || r >= reasons {
		return "none"
	}
	return reasonNames[r]
}

// Counters are what one endpoint or trunk has seen since it was made. Sent is
// what its machine sent and the switch took; Received what the machine was
// given. Bytes count tagged headers.
type Counters struct {
	SentFrames, SentBytes         uint64
	ReceivedFrames, ReceivedBytes uint64
	Dropped                       map[string]uint64 // by Reason.String; only those that occurred
}

type counters struct {
	sentFrames, sentBytes atomic.Uint64
	dropped               [reasons]atomic.Uint64

	// Written by other trunks' readers: on a cache line of their own.
	_                             [64]byte
	receivedFrames, receivedBytes atomic.Uint64
}

func (c *counters) drop(r Reason) { c.dropped[r].Add(1) }

func (c *counters) read() Counters {
	out := Counters{
		SentFrames: c.sentFrames.Load(), SentBytes: c.sentBytes.Load(),
		ReceivedFrames: c.receivedFrames.Load(), ReceivedBytes: c.receivedBytes.Load(),
	}
	for r := range reasons {
		if n := c.dropped[r].Load(); n > 0 {
			if out.Dropped == nil {
				out.Dropped = make(map[string]uint64)
			}
			out.Dropped[r.String()] = n
		}
	}
	return out
}
