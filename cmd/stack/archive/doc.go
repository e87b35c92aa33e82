// Package archive moves files between the host and a replica as tar streams,
// with the rules of docker cp for what a path means on either side.
//
// What comes out of a replica is hostile: names are checked and every path is
// opened below the destination, which no link in the stream can leave.
package archive
