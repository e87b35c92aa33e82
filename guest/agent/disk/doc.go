// Package disk finds the machine's disks by their serial, grows and mounts them
// once however many containers use them, and unmounts them after the last.
//
// A Store starts no goroutine. Disks that a host has not attached yet are waited
// for by the kernel's announcements.
package disk
