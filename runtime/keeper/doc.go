// Package keeper is the small process that outlives the supervisor: its parent,
// a loop of the same binary. It restarts the supervisor when that dies, and holds
// open files that must not end with it: the host's ends of machines' streams,
// published listeners, the listening socket of the API, so that connections made
// while there is no supervisor wait instead of failing.
//
// It also is the reaper of machines whose supervisor has died, and can replace
// itself by another build's binary while keeping what it holds.
//
// Three processes meet here. A client calls Connect, which starts a keeper when
// none runs. The keeper calls Run. The supervisor calls Attach and gets a Link:
// what the keeper holds, and the way to change that. Files travel over a
// socketpair that only those two have.
//
// Run owns one goroutine per running supervisor; a Link owns none. The keeper
// reads no state, opens no network connection, and knows nothing of machines.
package keeper
