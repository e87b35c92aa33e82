package keeper

import "golang.org/x/sys/unix"

// executable is what this process runs, even if the file was replaced since.
func executable() string { return "/proc/self/exe" }

// becomeReaper makes machines the keeper's children when their supervisor dies:
// somebody has to collect them.
func becomeReaper() error { return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }
