// Command stack runs compose projects, every service in its own micro-VM.
package main

import "os"

func main() {
	reexecuted()
	os.Exit(run(os.Args[1:]))
}
