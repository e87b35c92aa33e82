// Package logs keeps what containers write: per replica a file of JSON lines in
// the shape of docker's json-file driver plus the record's number, rotated by
// size.
//
// A Writer is used by the supervisor alone; any process may read, also while a
// file is written and rotated, and without a supervisor. A record is in the file
// before it is acknowledged, and the last number in the files says where to go
// on, so that nothing is lost or doubled when the supervisor dies.
//
// A Recent is the log of a replica that shall have none: its last lines in memory.
//
// The package starts no goroutine.
package logs
