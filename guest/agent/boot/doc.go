// Package boot turns the bare kernel that PID 1 wakes up in into a machine that
// can host containers: file systems, kernel settings, the loopback interface.
//
// It runs once, before anything else, starts no goroutine, and stops at the
// first step that does not work: a machine half set up is worse than none.
package boot
