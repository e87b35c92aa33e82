package keeper

import "os"

// executable is what this process runs.
func executable() string {
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}

// becomeReaper does nothing: orphans are launchd's here.
func becomeReaper() error { return nil }
