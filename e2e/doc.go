// Package e2e holds the tests of the whole program: scripts in testdata that a
// user could type, run against real machines by an unprivileged user, each with
// a STACK_HOME of its own, all with one local registry.
//
// The long form (STACK_SOAK, make soak) also brings projects of a folder of public
// compose files up as they are, TestProjects.
//
// A script passes only if it leaves nothing: its projects are taken down at the
// end, and a process, socket or lock of its home that is still there fails it.
package e2e
