// Package share serves host directories and files to a machine: a 9P2000.L
// server in a small process of its own, one per machine, which outlives the
// supervisor and ends with the machine.
//
// The process is given the machine's shares once, when it starts, and is
// confined to them twice: every path is opened below the share's own descriptor
// with openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS), so that neither a link nor
// ".." nor a rename in between leads out, and the sandbox allows nothing else.
// A single file is served as a directory with one entry, FileName, which is that
// file whatever the host does to its name.
//
// Files keep their real modes and links. They belong on the host to the user who
// runs stack; an owner that a container gives is kept in an extended attribute
// and shown to containers, so that any container user can own files.
//
// What the machine sends is hostile: the protocol layer bounds messages, a
// session bounds streams, and this process has nothing a machine may not have.
package share
