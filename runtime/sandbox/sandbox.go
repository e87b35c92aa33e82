package sandbox

import (
	"encoding/json"
	"fmt"
	"os"
)

// Spec is what a program is started with.
type Spec struct {
	Path string   `json:"path"` // of the program; absolute
	Args []string `json:"args"` // argv, argv[0] included
	Env  []string `json:"env"`

	// Read lists files and directory trees the program may read and execute,
	// Write those it may also change, Devices what it may open and control. What
	// does not exist is skipped.
	Read    []string `json:"read,omitempty"`
	Write   []string `json:"write,omitempty"`
	Devices []string `json:"devices,omitempty"`

	// Files become the program's descriptors 3, 4 and so on; every other one but
	// Stdout and Stderr is closed. Start duplicates them.
	Files []*os.File `json:"-"`

	// Stdout and Stderr are the program's; nil is /dev/null.
	Stdout *os.File `json:"-"`
	Stderr *os.File `json:"-"`

	// Keep is the number of Files, for the helper.
	Keep int `json:"keep"`
}

// argv0 marks a process as the helper.
const argv0 = "stack-sandbox"

// Libraries are where a dynamically linked program finds what it needs to start.
var Libraries = []string{
	"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store", "/gnu/store",
	"/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime",
}

// MaybeRun turns the process into the program of a Spec if Start started it for
// that, and does not return then. It must be the first call of main, and of
// TestMain where a test starts programs.
func MaybeRun() {
	if len(os.Args) != 2 || os.Args[0] != argv0 {
		return
	}
	var s Spec
	err := json.Unmarshal([]byte(os.Args[1]), &s)
	if err == nil {
		err = become(s)
	}
	fmt.Fprintf(os.Stderr, "sandbox: starting %s: %v\n", s.Path, err)
	os.Exit(127)
}
