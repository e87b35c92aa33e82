// Package erofs writes the metadata of a read-only EROFS file system whose file
// contents lie outside it.
//
// The image Write makes holds the superblock, the inodes and the directories of
// one tree; every regular file's bytes are already somewhere in the blobs that
// follow it on the device, at block boundaries. The kernel sees metadata and
// blobs as one plain EROFS: no multi-device feature, no compression, no overlay
// of layers. README.md beside this file gives the layout and what was rejected.
//
// The package starts no goroutine, opens no file and knows nothing of tar,
// layers or images. It never reads an EROFS.
package erofs
