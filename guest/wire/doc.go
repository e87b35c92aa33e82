// Package wire is what a machine's agent and its host say to each other: the
// only code of ours that both sides share.
//
// A machine has three byte streams, each a named port:
//
//	control  greeting, then a yamux session; the host opens every stream.
//	         A stream carries one Request, one Reply, and for some operations
//	         frames or raw bytes after that.
//	logs     greeting, then log records one way and acknowledgements the other.
//	shares   greeting, then a yamux session; the agent opens one stream per
//	         mounted share, says its name, and speaks 9P2000.L on it.
//
// A port is a stream without a reconnect, so every attach starts with Greet on
// the host and Answer in the machine: both discard what an earlier session left
// behind.
//
// Everything read here is hostile to the reader: sizes are bounded before
// memory is taken, unknown fields are ignored, unknown operations answered with
// an error.
package wire
