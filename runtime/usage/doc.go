// Package usage measures what stack occupies on the host's disk: bytes that are
// allocated, not the sizes of sparse files. It changes nothing and starts no
// goroutine.
package usage
