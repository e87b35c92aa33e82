// Package remote fetches compose files that lie in git repositories and OCI
// registries, as -f, include and extends may name them.
//
// A copy is kept by what it is: a commit, or a manifest's digest. One that is
// there is used as it is, so that a name with the commit or digest in it needs no
// network; a branch or a tag is asked for each time. A copy appears whole or not
// at all, and is never changed.
//
// Whoever can write to a repository decides what is fetched. So everything is
// counted and weighed before it is written, every path stays below the copy's
// directory, links included, and git runs without hooks, filters, submodules and
// questions: files are written from its objects, not by a checkout. What the
// compose files then ask for is the user's to judge, as with any other.
//
// The package starts git and no goroutine; what it starts ends with the call.
package remote
