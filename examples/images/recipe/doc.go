// Package recipe says how each image is made — from Debian packages, small files and Go
// programs of this repository — and makes it.
//
// An image is made again only when something it is made from has changed: the recipe, the
// version of a package, a program. The same inputs give the same digests on any host. The
// package starts no goroutine; it runs apt-get, go build and, for its list of applets, the
// busybox it has just unpacked.
package recipe
