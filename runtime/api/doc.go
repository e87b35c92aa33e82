// Package api is the protocol between the command line and the supervisor: JSON
// over HTTP on a unix socket, streams of newline-separated JSON for what takes
// time, and hijacked connections carrying wire frames for terminals.
//
// A Client opens a connection per request and owns no goroutine between calls;
// every call ends with its context. Neither side trusts the socket's path alone:
// the server checks the peer's user and a token, the client that its peer is the
// same user.
package api
