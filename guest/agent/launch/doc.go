// Package launch starts a workload inside a container.
//
// Go cannot do between fork and exec what a container needs, so the agent runs
// itself a second time: Start forks a sealed copy of the agent's own binary into
// the new namespaces and sends it a Spec; Main, in there, runs on one locked
// thread, makes the mounts that only its namespaces can make, enters the root,
// gives up privileges, and becomes the workload. The copy is a sealed memfd, so
// that no container can overwrite what the agent runs next.
//
// Everything that names a path of a container is resolved in the container's
// root (package inroot) until that root is "/". /proc/sys and /proc/self are
// written to before that, in the agent's own /proc, which no image can replace.
package launch
