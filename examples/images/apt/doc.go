// Package apt resolves and downloads Debian packages with the host's apt-get and its
// sources, in a state directory of its own: any user can do it, what is installed on the
// host plays no part, and nothing of the host is changed.
//
// apt-get verifies what it downloads against the archive's signatures. The package starts
// no goroutine; each call runs one apt command to its end.
package apt
