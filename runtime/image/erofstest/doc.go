// Package erofstest reads EROFS images for tests by three readers that share no
// code with the writer: go-erofs, fsck.erofs, and the host's kernel where it has
// EROFS and the test runs as root. Each gives the same kind of listing, so that
// they can be compared with each other and with what a test wants.
package erofstest
