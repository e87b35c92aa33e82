// Package logs keeps what containers write until the host has it written down.
//
// A Queue numbers records, sends them to whichever session is attached, and
// resends after a new greeting what was not acknowledged. When about a MiB waits,
// writers block, as docker's do. The queue starts no goroutine of its own:
// Session runs in its caller's and starts one writer, which ends with it.
package logs
