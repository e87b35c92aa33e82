// Package e2e holds the tests of the whole program: scripts in testdata that a
// user could type, run against real machines by an unprivileged user, each with
// a STACK_HOME of its own, all with one local registry.
//
// A script passes only if it leaves nothing: its projects are taken down at the
// end, and a process, socket or lock of its home that is still there fails it.
package e2e
