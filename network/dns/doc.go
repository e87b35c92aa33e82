// Package dns answers the name queries of the machines on one network: names
// of endpoints itself, all others by relaying the message to the host's
// resolvers.
//
// A Server listens on sockets it is given, on each network's gateway address.
// Who asks is known from the source address, which the switch pins; what may
// be answered to whom is the Zone's to decide. A Server owns the goroutines it
// starts; Close returns after the last has ended.
//
// The package reads /etc/resolv.conf, opens sockets only to the resolvers
// named there, and caches nothing.
package dns
