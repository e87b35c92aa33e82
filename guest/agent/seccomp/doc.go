// Package seccomp makes filter programs of seccomp profiles: docker's default,
// or one that a user gives as JSON.
//
// The profiles, and what of them applies to a set of capabilities, are the
// library's (github.com/moby/profiles). The numbers of system calls are in tables
// generated from github.com/elastic/go-seccomp-bpf: the library itself would
// build its maps at every start of the agent and of each second stage. The
// program is a binary search over ranges of numbers, so that no call passes more
// than about ten instructions. The package starts no goroutine.
package seccomp

//go:generate go run generate.go
