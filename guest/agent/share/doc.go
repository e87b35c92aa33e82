// Package share mounts host directories and files in the machine.
//
// The host's 9P2000.L server is at the other end of the shares port, one stream
// for each mount; the kernel's client wants a file descriptor, so the agent pumps
// between a socketpair and the stream. Nothing is cached in the machine: the host
// edits files too, and a reader that keeps one open has to see it.
//
// A Client owns two goroutines per mounted share, which end when the share is
// unmounted or the server goes away; then the mount's users get errors.
package share
