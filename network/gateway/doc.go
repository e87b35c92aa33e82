// Package gateway is the host's place on a network: what machines reach as
// their default route, and where published ports lead into the network.
//
// A Gateway runs a userspace TCP/IP stack (gvisor) on a host endpoint of the
// switch. Connections of machines end in it and go on through ordinary sockets
// of the host, so that the host's routes, VPN and filters apply; published
// connections come from such sockets and go on through the stack. Where a
// machine may connect to is the Policy's to decide.
//
// A Gateway owns the goroutines of its connections; Close returns after the
// last has ended. It opens no raw socket and changes nothing of the host.
// No other package of the project may import gvisor.
package gateway
