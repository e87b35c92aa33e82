// Package kernel is what the guest kernel is made from: the configuration
// fragment of each architecture, and the check that a finished configuration
// honours it.
//
// The program in build turns a fragment, a kernel source and the agent into the
// artefact that package guest finds; README.md says how it is cached and how a
// symbol is changed. The package itself starts no goroutine and touches no file.
package kernel
