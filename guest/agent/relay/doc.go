// Package relay leads what a container's gateway sends to a port of one address
// to another address in the same network namespace: to what listens on the
// loopback only, and would not see it otherwise.
//
// A Relay owns its goroutines; Close ends its connections and waits for all.
package relay
