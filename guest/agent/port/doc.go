// Package port is the machine's end of a byte stream to the host: it finds the
// stream's device by name, answers greetings, and hands out one Conn per session.
//
// A stream has no reconnect. A host that was killed leaves no trace on it, and
// its replacement greets in the middle of the old session; so every byte that
// comes in is searched for a greeting, and the one that completes ends the old
// session and begins the next. The search never holds bytes back: what looked
// like the beginning of a greeting has long been delivered to a session that is
// over by then.
//
// Serve runs in the caller's goroutine until its context ends and owns the
// goroutine of the session it started.
package port
