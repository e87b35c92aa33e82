// Package cgroup makes one cgroup v2 group per container, sets its limits, reads
// its counters, and tells when the kernel kills in it for want of memory, or when
// anything in the machine begins to listen on a port.
//
// A Watcher owns one goroutine, which blocks in inotify until Close, and Listens
// one that waits for its ring. Nothing here polls.
package cgroup
