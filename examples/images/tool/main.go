//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// errFailed ends the program with status 1 after a report that says why.
var errFailed = errors.New("failed")

// commands do their work until it is done or ctx ends, by SIGTERM or SIGINT.
var commands = map[string]func(ctx context.Context, args []string) error{
	"http": serveHTTP, "load": load,
	"echo": echo, "sequence": sequence, "connect": connect, "pipe": pipe,
	"lookup": lookup, "dns": serveDNS, "spoof": spoof, "frames": frames,
	"count": count, "sleep": sleep, "exit": exit, "alloc": alloc, "spin": spin, "facts": facts, "tty": tty,
	"fill": fill, "lock": lock, "watch": watch, "layers": layers,
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintf(os.Stderr, "tool: unknown command %q, see examples/images/tool/doc.go\n", strings.Join(os.Args[1:], " "))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch err := commands[os.Args[1]](ctx, os.Args[2:]); {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case errors.Is(err, errFailed):
		os.Exit(1)
	default:
		fmt.Fprintf(os.Stderr, "tool: %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// parse reads a command's flags and its arguments, of which there must be between least and most.
func parse(flags *flag.FlagSet, args []string, least, most int) error {
	if err := flags.Parse(args); err != nil {
		return flag.ErrHelp // the flag set has said what is wrong
	}
	if n := flags.NArg(); n < least || n > most {
		return fmt.Errorf("%d arguments, want %d to %d", n, least, most)
	}
	return nil
}

func newFlags(name string) *flag.FlagSet { return flag.NewFlagSet(name, flag.ContinueOnError) }

// report prints one line of JSON.
func report(v any) error { return json.NewEncoder(os.Stdout).Encode(v) }

// bootID names the kernel of this machine's boot.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(id))
}
