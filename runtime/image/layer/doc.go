// Package layer turns the tar stream of an image layer into a data blob and a
// tree, and the trees of an image's layers into the one tree its containers see.
//
// The blob is the contents of the layer's regular files, each at a 4 KiB
// boundary, in the order of the stream: it is written once, while the layer
// downloads, and shared by every image with that layer. The tree is everything
// else, small enough to be read again whenever an image needs a metadata image.
//
// A layer is hostile. No name of it ever becomes a path of the host: links are
// followed within the tree in memory, as an unpacker confined to the root
// would, and a name with ".." is refused. Limits bound what a layer may claim.
//
// The package starts no goroutine and opens no file.
package layer
