// Package supervisor owns what runs: it carries plans out, keeps machines as
// their restart policies want them, writes their logs, watches their health, and
// answers the API.
//
// A Supervisor is made by New, which first adopts the machines that an earlier
// one left running and clears up what it left half done; Serve answers requests
// until Close. Close lets go of the machines without ending them: the next
// Supervisor, given the same files by the keeper, goes on. Every goroutine is
// the Supervisor's; Close waits for all.
//
// Locks, in the order they are taken: a project's turn (one plan at a time), a
// replica's op (one start, stop or removal at a time), a record's save, the
// forwards', then Supervisor.mu, which guards all data and is never held while waiting.
package supervisor
