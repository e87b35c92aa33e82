// Command stack runs compose projects, every service in its own micro-VM.
package main

import (
	"os"

	"github.com/stackvm/stack/cmd/stack/dockercli"
)

func main() {
	reexecuted()
	os.Exit(run(dockercli.Parse(os.Args, os.Getenv)))
}
