// Package muxguard stands between a machine and the multiplexing library: of
// yamux's frames it passes on those that an honest agent sends. The library keeps
// a goroutine for every ping and memory for every stream that the other side asks
// for, until its answer is written; a machine that asks and does not read could
// make that as much as it likes. It starts no goroutines.
package muxguard
