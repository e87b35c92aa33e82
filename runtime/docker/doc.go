// Package docker asks the docker engine that happens to run on this host what it
// has: volumes to import, and what of a project it still holds. It speaks the few
// calls of the engine's API that takes over the unix socket, and changes nothing
// but a container it makes to read a volume through, and removes again.
//
// The package starts no goroutine of its own.
package docker
