// Package uevent waits for devices to appear in the machine.
//
// It listens to the kernel's own announcements (NETLINK_KOBJECT_UEVENT); it
// never polls and keeps no goroutine.
package uevent
