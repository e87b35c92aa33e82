// Package network is the private networks of one supervisor: a switch between
// its machines, a gateway and a name service on each network, and the ports
// published on the host.
//
// A Fabric is told what there is — networks, machines' trunks, endpoints,
// names, publications — and carries it. It decides nothing and keeps nothing
// on disk: a new supervisor tells a new Fabric the same again, over the same
// sockets, and machines notice only that connections to the outside are gone.
//
// A Fabric owns every goroutine it starts; Close returns after the last has
// exited. No host interface, route or filter is touched, so no privilege is
// needed, and no network of ours can clash with one of the host's.
package network
