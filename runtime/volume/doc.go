// Package volume keeps named volumes and makes scratch disks: sparse ext4
// images, cloned from the template in the guest artefact, so that no mkfs runs
// when a machine starts.
//
// A volume is a directory with its disk, its record and its lock. It is made
// under a temporary name and renamed, so that one that is there is whole. The
// lock is what keeps two machines from writing one disk: it is held through an
// open file that only the machine's process inherits, and so exactly as long as
// that process lives.
//
// The package starts no goroutine, and nothing but Remove ever deletes data.
package volume
