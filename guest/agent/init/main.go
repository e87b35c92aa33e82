//go:build linux

// Command init is a machine's first and only program: PID 1, the second stage of
// every workload, and the reaper of containers that want one.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/stackvm/stack/guest/agent"
	"github.com/stackvm/stack/guest/agent/boot"
	"github.com/stackvm/stack/guest/agent/launch"
	"github.com/stackvm/stack/guest/wire"
)

func main() {
	switch os.Args[0] {
	case launch.StageName:
		launch.Main()
	case launch.InitName:
		launch.Reap(os.Args[1:])
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "this program is the first process of a micro-VM and runs nowhere else")
		os.Exit(1)
	}
	// Whatever happens, the machine ends: the host reads the console's last
	// lines and sees that no farewell was said.
	defer boot.Halt()
	defer func() {
		if cause := recover(); cause != nil {
			fmt.Fprintf(os.Stderr, "agent: panic: %v\n%s", cause, debug.Stack())
		}
	}()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
	}
}

func run() error {
	debug.SetGCPercent(50) // memory is dearer than the little garbage there is
	if err := boot.Run(); err != nil {
		return err
	}
	text, err := boot.Parameter(wire.KeyParameter)
	if err != nil {
		return err
	}
	key, err := wire.ParseKey(text)
	if err != nil {
		return err
	}
	return agent.Run(context.Background(), key)
}
