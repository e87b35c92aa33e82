// Package control speaks with a machine's agent from the host: orders over the
// control port, log records over the logs port (see guest/wire).
//
// A Client owns one session's goroutines; Close, or the end of the context it
// was opened with, ends them without closing the port's connection, which stays
// its machine's, so that the next session can be opened on it. ReadLogs runs in
// its caller's goroutine.
//
// The agent is hostile to this package: what it sends is bounded, its texts lose
// control characters, and no answer of it can make a call outlive its context.
package control
