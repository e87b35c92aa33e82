// Package health decides whether a container is well from what its probe says.
//
// The rules are docker's, with one addition: the probe runs at once and then
// quickly until it first succeeds. These early runs, all before the first that
// docker would make, can turn a container healthy and nothing else.
//
// Run works in its caller's goroutine and starts none.
package health
