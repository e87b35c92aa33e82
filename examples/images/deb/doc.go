// Package deb reads Debian binary packages: an ar archive holding a version, a
// control archive and a data archive (the format deb(5) describes).
//
// It starts no goroutine, touches no file, and runs no maintainer script: whoever
// unpacks a package does what its scripts would have done.
package deb
