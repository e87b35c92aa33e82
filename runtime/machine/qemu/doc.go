// Package qemu is the machine driver for Linux: QEMU's microvm, by KVM where that
// works and by translation where it does not. One machine is one QEMU process,
// started through runtime/sandbox, in a session of its own; it has no listening
// socket, no path it could open but the kernel and its own libraries, and every
// stream and disk as an inherited or passed descriptor.
//
// The host's ends are the machine's Handles. Whoever holds them, and the process
// id, can take the machine over: the monitor is brought to a known state first,
// then asked what disks there are.
//
// A Machine owns four goroutines (monitor, console, QEMU's own messages, and one
// that waits for the process's end); they end with the process or with Close. The driver never parses a disk's content, and nothing that a machine
// writes makes a file grow: the console is kept in a ring of 64 KiB in the
// machine's directory, disks are of fixed length.
package qemu
