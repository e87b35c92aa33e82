// Package bench compares the switch with the one of gvisor-tap-vsock, under
// one load and in one process. It is a module of its own, so that nothing of
// that one enters the project's.
//
//	go test -bench . -count 10
package bench
