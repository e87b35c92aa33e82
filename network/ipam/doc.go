// Package ipam decides which subnets networks have and which addresses their
// endpoints hold.
//
// It is arithmetic over its arguments: no I/O, no clock, no randomness, no
// goroutine, no lock. Equal calls in equal order give equal answers, and the
// state of a network is plain data for its owner to keep.
package ipam
