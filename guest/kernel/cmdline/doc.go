// Package cmdline knows the parameters that the guest kernel boots with, and
// why; a driver adds what only it knows. Under emulation they are half of a
// machine's boot time: the kernel need not find out by waiting for ticks what
// the host can tell it.
//
// The package starts no goroutine. HostTSCKHz reads a clock and one file.
package cmdline
