// Package version holds what the build says of itself.
package version

// Version is set by the linker: a release's tag, or a commit.
var Version = "dev"
