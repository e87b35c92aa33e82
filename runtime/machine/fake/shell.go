package fake

import (
	"context"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/stackvm/stack/guest/wire"
)

// Program is what runs in a container: it returns the exit status, and soon
// after ctx has ended, which is SIGKILL.
type Program func(ctx context.Context, p *Process) int

// Process is a running program's view of itself.
type Process struct {
	Args, Env      []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Signals        <-chan string // names without SIG
	Container      wire.Container
	Guest          *Guest
}

// runnable refuses what stands for a missing or unrunnable executable.
func runnable(arg0 string) error {
	switch path.Base(arg0) {
	case "no-such-command":
		return fault(wire.CodeNoCommand, "exec: %q: executable file not found in $PATH", arg0)
	case "not-executable":
		return fault(wire.CodeCannotExec, "exec: %q: permission denied", arg0)
	}
	return nil
}

// Shell is a Program that knows a few commands by their base name: echo, cat,
// env, true, false, exit N, sleep SECONDS, ignore-term, and sh -c with those
// joined by semicolons. Anything else runs, silent, until a signal ends it, as a
// server does.
func Shell(ctx context.Context, p *Process) int {
	args := p.Args
	switch path.Base(args[0]) {
	case "sh":
		if len(args) < 3 || args[1] != "-c" {
			break
		}
		code := 0
		for _, command := range strings.Split(args[2], ";") {
			fields := strings.Fields(command)
			if len(fields) == 0 {
				continue
			}
			sub := *p
			sub.Args = fields
			if code = Shell(ctx, &sub); fields[0] == "exit" || ctx.Err() != nil {
				return code
			}
		}
		return code
	case "echo":
		fmt.Fprintln(p.Stdout, strings.Join(args[1:], " "))
		return 0
	case "env":
		for _, kv := range p.Env {
			fmt.Fprintln(p.Stdout, kv)
		}
		return 0
	case "cat":
		_, _ = io.Copy(p.Stdout, p.Stdin)
		return 0
	case "true":
		return 0
	case "false":
		return 1
	case "exit":
		if len(args) > 1 {
			code, _ := strconv.Atoi(args[1])
			return code
		}
		return 0
	case "sleep":
		if len(args) > 1 {
			if seconds, err := strconv.ParseFloat(args[1], 64); err == nil {
				t := time.NewTimer(time.Duration(seconds * float64(time.Second)))
				defer t.Stop()
				return untilSignal(ctx, p, t.C)
			}
		}
	case "ignore-term":
		<-ctx.Done()
		return 137
	}
	return untilSignal(ctx, p, nil)
}

func untilSignal(ctx context.Context, p *Process, after <-chan time.Time) int {
	select {
	case <-after:
		return 0
	case s := <-p.Signals:
		switch s {
		case "INT":
			return 130
		case "QUIT": // nginx's stop signal: a clean end
			return 0
		}
		return 143
	case <-ctx.Done():
		return 137
	}
}
