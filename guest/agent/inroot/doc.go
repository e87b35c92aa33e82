// Package inroot opens and makes paths below a container's root.
//
// Images are hostile: any component of any path in one may be a symbolic link
// to anywhere. Every lookup therefore goes through openat2(2) with
// RESOLVE_IN_ROOT, and what is missing is made one component at a time in
// directories that were opened that way. The package starts no goroutine and
// never resolves a path of a container by its name in the agent's tree.
package inroot
