// Package state is what the runtime has on disk about projects, replicas,
// machines and networks: one small versioned JSON file each, replaced
// atomically, so that whoever dies at whatever moment, the next reader sees the
// old file or the new one. Volumes and images have stores of their own.
//
// Work is recorded before it is begun (Phase), so that a later process finishes
// or removes it. Files hold no secret, except resolved.json: the environment,
// configs and secrets of one replica, 0600, removed with it.
//
// The package starts no goroutine and keeps nothing in memory. The supervisor is
// the only writer; any process of the user may read. A file written by a newer
// program is refused and left untouched.
package state
