// Package ethernet is the layer-2 switch between the machines of one
// supervisor and their gateways.
//
// Each machine has one trunk, an AF_UNIX datagram socket on which one datagram
// is one 802.1Q-tagged frame. A network is one broadcast domain; an endpoint is
// a machine's place on it, and carries what the machine may claim there: the
// VLAN of its trunk, one MAC, and its IP addresses. Frames that claim anything
// else are dropped and counted. Destinations are known from the same pins, so
// nothing is learned from traffic and there is no table to poison.
//
// A Switch owns one reader and one writer goroutine per plugged trunk; Unplug
// and Close return after they have exited. Forwarding never waits for a
// receiver: what does not fit its socket is queued within bounds, and beyond
// them dropped and counted, as on a wire.
//
// The package knows frames and addresses. It never opens a host interface,
// route or path, so it needs no privilege.
package ethernet
