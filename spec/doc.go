// Package spec turns compose files into a Project: the desired state, every
// part of it with the file and line it came from. It is the only importer of
// compose-go, and it knows nothing of machines.
//
// Load reads and merges files the way docker compose does, reports every fault
// of a file in one run, and hashes each service, so that whoever compares two
// Projects need not look inside. Rules says of every attribute whether it is
// honoured: nothing is dropped in silence. README.md tells how.
//
// The package starts no goroutine that outlives a call, and writes nothing: files
// from git and registries are fetched by the Remote that it is given.
package spec
