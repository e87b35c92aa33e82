// Package rootfs builds the file trees of image layers in memory and writes them as
// reproducible layers: sorted entries, one fixed time, numeric owners.
//
// Nothing is written to the host's file system, so trees with any owner, device or
// mode are built by any user. It starts no goroutine.
package rootfs
