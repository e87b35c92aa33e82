// Package cgroup makes one cgroup v2 group per container, sets its limits, reads
// its counters, and tells when the kernel kills in it for want of memory.
//
// A Watcher owns one goroutine, which blocks in inotify until Close. Nothing
// here polls.
package cgroup
