// Package store keeps finished images in a directory laid out as the OCI image layout
// specification says, so that other tools read it too. The name of an image is in
// index.json as the annotation org.opencontainers.image.ref.name, written out in full:
// "library/busybox:latest".
//
// One process at a time writes, which Lock sees to; any number read meanwhile, because
// index.json is replaced in one step and blobs are named by their digest. The package
// starts no goroutine.
package store
