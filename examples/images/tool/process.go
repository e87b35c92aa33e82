//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

func count(ctx context.Context, args []string) error {
	flags := newFlags("count")
	rate := flags.Float64("rate", 5000, "lines a second")
	last := flags.Int64("to", 0, "last number (none)")
	if err := parse(flags, args, 0, 0); err != nil {
		return err
	}
	started := time.Now()
	// Twenty bursts a second: waking up costs an emulated processor more than a line.
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var lines []byte
	for n := int64(0); ; {
		// A writer that was held up makes up for it.
		lines = lines[:0]
		for due := int64(time.Since(started).Seconds() * *rate); n < due && (*last == 0 || n < *last) && len(lines) < 1<<16; {
			n++
			lines = append(strconv.AppendInt(lines, n, 10), '\n')
		}
		if _, err := os.Stdout.Write(lines); err != nil {
			return err
		}
		if *last > 0 && n >= *last {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func sleep(ctx context.Context, args []string) error {
	flags := newFlags("sleep")
	ignore := flags.Bool("ignore-term", false, "go on after SIGTERM and SIGINT")
	if err := parse(flags, args, 0, 1); err != nil {
		return err
	}
	var end <-chan time.Time
	if flags.NArg() == 1 {
		d, err := time.ParseDuration(flags.Arg(0))
		if err != nil {
			return err
		}
		end = time.After(d)
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH)
	fmt.Println("sleeping")
	for {
		select {
		case <-end:
			return nil
		case s := <-signals:
			fmt.Println("got", unix.SignalName(s.(unix.Signal)))
			if (s == unix.SIGTERM || s == unix.SIGINT) && !*ignore {
				return nil
			}
		}
	}
}

func exit(ctx context.Context, args []string) error {
	flags := newFlags("exit")
	after := flags.Duration("after", 0, "wait first")
	if err := parse(flags, args, 1, 1); err != nil {
		return err
	}
	status, err := strconv.Atoi(flags.Arg(0))
	if err != nil {
		return err
	}
	select {
	case <-time.After(*after):
	case <-ctx.Done():
	}
	os.Exit(status)
	return nil
}

func alloc(ctx context.Context, args []string) error {
	flags := newFlags("alloc")
	hold := flags.Bool("hold", false, "keep it until a signal")
	if err := parse(flags, args, 1, 1); err != nil {
		return err
	}
	mib, err := strconv.Atoi(flags.Arg(0))
	if err != nil {
		return err
	}
	memory := make([][]byte, mib)
	for i := range memory {
		memory[i] = make([]byte, 1<<20)
		for j := 0; j < len(memory[i]); j += 4096 {
			memory[i][j] = byte(i + j>>12 + 1) // no two pages alike, none of zeroes only
		}
	}
	fmt.Println("touched", len(memory), "MiB")
	if *hold {
		<-ctx.Done()
	}
	return nil
}

func spin(ctx context.Context, args []string) error {
	flags := newFlags("spin")
	threads := flags.Int("threads", 1, "how many at a time")
	length := flags.Duration("for", time.Second, "how long")
	if err := parse(flags, args, 0, 0); err != nil {
		return err
	}
	started := time.Now()
	var wg sync.WaitGroup
	for range *threads {
		wg.Go(func() {
			for n := 0; time.Since(started) < *length && ctx.Err() == nil; n++ { //nolint:revive // burning is the purpose
			}
		})
	}
	wg.Wait()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return err
	}
	cpu := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	wall := time.Since(started)
	return report(map[string]float64{"cpu_seconds": cpu.Seconds(), "wall_seconds": wall.Seconds(), "cpus": cpu.Seconds() / wall.Seconds()})
}

func facts(_ context.Context, args []string) error {
	if err := parse(newFlags("facts"), args, 0, 0); err != nil {
		return err
	}
	groups, err := os.Getgroups()
	if err != nil {
		return err
	}
	host, _ := os.Hostname()
	dir, _ := os.Getwd()
	f := map[string]any{
		"uid": os.Getuid(), "gid": os.Getgid(), "groups": groups, "pid": os.Getpid(), "ppid": os.Getppid(),
		"hostname": host, "dir": dir, "boot_id": bootID(), "env": os.Environ(),
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(line, ":")
		switch key {
		case "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp":
			f[key] = strings.TrimSpace(value)
		}
	}
	limits := map[string][2]uint64{}
	for name, which := range map[string]int{
		"nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC, "core": unix.RLIMIT_CORE,
		"memlock": unix.RLIMIT_MEMLOCK, "stack": unix.RLIMIT_STACK, "fsize": unix.RLIMIT_FSIZE,
	} {
		var l unix.Rlimit
		if err := unix.Getrlimit(which, &l); err != nil {
			return err
		}
		limits[name] = [2]uint64{l.Cur, l.Max}
	}
	f["limits"] = limits // soft and hard; as Go starts, it has raised the soft one of nofile
	return report(f)
}

func tty(ctx context.Context, args []string) error {
	if err := parse(newFlags("tty"), args, 0, 0); err != nil {
		return err
	}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	gone := make(chan struct{})
	go func() { // ends with the input, or the process
		defer close(gone)
		if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, "tool: tty:", err)
		}
	}()
	for {
		size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
		if err != nil {
			return fmt.Errorf("standard input: %w", err)
		}
		if err := report(map[string]uint16{"rows": size.Row, "columns": size.Col}); err != nil {
			return err
		}
		select {
		case <-resized:
		case <-gone:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}
