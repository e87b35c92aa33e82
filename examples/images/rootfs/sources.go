package rootfs

import "embed"

// Sources is the source of this package: what it is made by is part of what an image is.
//
//go:embed *.go
var Sources embed.FS
