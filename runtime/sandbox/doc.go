// Package sandbox starts a program that must be able to do little: a machine's
// hypervisor, a share server. The program's files are the descriptors it is
// given; by path it reaches what its Spec lists and nothing else.
//
// The means are no_new_privs and Landlock, which need no privilege and hold for
// every descendant: files by path, TCP ports, signals and abstract sockets
// outside are refused, as far as the host's kernel has learnt to (ABI tells).
// Landlock stops neither UDP and multipath TCP nor a connect to a unix socket
// with a path: our servers ask for a token from a file that no Spec lists.
//
// A program cannot restrict itself between fork and exec in Go, so Start executes
// this very binary again under another name; MaybeRun, the first call of main,
// recognises that, restricts itself, and executes the program in its place. The
// package starts no goroutines.
package sandbox
