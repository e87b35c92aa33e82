// Package image pulls container images and turns them into read-only disks.
//
// A Store is a directory: per layer a data blob and a tree record, both named by
// the layer's diff-id and shared by all images; per combination of layers one
// EROFS metadata image; per image a small JSON record; and the references that
// name images. Everything is written under a temporary name, synced and renamed,
// so a crash leaves nothing but temporaries, which the next Open removes. Several
// processes may use one store: locks are on files and last no longer than their
// process.
//
// Pulls of one layer at the same time share the work, in one process by waiting
// for each other's download, across processes by its lock. A Store owns the
// goroutines of downloads; Close ends them and waits.
//
// Images are hostile: nothing in one becomes a path of the host, and layers,
// manifests and configurations are read within bounds.
package image
