// Package mount makes mounts by descriptor: a file system or a clone of a mount
// is made attached to nothing, then put on a directory or file that was opened
// safely (package inroot). No path of a container is resolved here.
//
// It starts no goroutine. What it returns is the caller's to close; closing a
// mount that was never attached dissolves it.
package mount
