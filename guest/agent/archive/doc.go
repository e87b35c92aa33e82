// Package archive copies files into and out of a container's root as tar streams,
// by the rules of docker cp.
//
// Both the container and the archive are hostile. Directories are opened below
// the root by package inroot, last components are never followed, and names in an
// archive can only lead below the directory it is unpacked in, or, through links
// the container made, elsewhere in its own root. The package starts no goroutine.
package archive
