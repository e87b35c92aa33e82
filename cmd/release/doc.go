// Command release makes what users install: a tarball and a Debian package of the
// program, its guest, completions and manual pages, with their checksums; or the
// same tree in a directory, for make install.
//
//	go run ./cmd/release [-version V] [-out DIR]     bin/release by default
//	go run ./cmd/release [-version V] -tree PREFIX   what is there is replaced
//
// The same sources, guest, version and SOURCE_DATE_EPOCH give the same bytes. It
// runs the go command and the program it has built, needs no other tool, and
// starts no goroutine.
package main
