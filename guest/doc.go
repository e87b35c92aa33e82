// Package guest finds the guest artefact on the host: the kernel, the initramfs
// with the agent, and the template of scratch disks and volumes, which
// `make guest` builds and a release ships beside the binary.
//
// A Guest is a directory whose guest.json names every file with its size and
// digest; the digest of that list is the guest's identity. Find looks and
// checks, nothing else: it builds and downloads nothing, starts no goroutine,
// and imports none of the other rooms. What runs inside a machine is in
// guest/agent, what the two sides say to each other in guest/wire.
package guest
