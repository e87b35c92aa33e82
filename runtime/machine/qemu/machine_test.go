//go:build linux

package qemu_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/machine"
	"github.com/stackvm/stack/runtime/machine/control"
)

// start starts a machine that ends with the test.
func start(t *testing.T, change func(*machine.Config)) machine.Machine {
	t.Helper()
	s := subject(t)
	c := s.Config(t)
	if change != nil {
		change(&c)
	}
	m, err := s.Driver.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Kill(context.Background()); err != nil {
			t.Error(err)
		}
		m.Close()
	})
	return m
}

// A machine whose kernel panics ends by itself, without a farewell, and its last
// lines are kept, also for who adopts or comes later.
func TestPanicIsKept(t *testing.T) {
	m := start(t, func(c *machine.Config) { c.Cmdline = append(c.Cmdline, "rdinit=/no-such-init") })
	if exit, err := m.Wait(t.Context()); err != nil || exit != (machine.Exit{Known: true}) {
		t.Errorf("Wait = %+v, %v", exit, err)
	}
	if tail := m.ConsoleTail(); !strings.Contains(tail, "Kernel panic") {
		t.Errorf("console %q, want the panic", tail)
	}
}

// What QEMU complains about is what Start returns.
func TestStartReportsQEMU(t *testing.T) {
	s := subject(t)
	c := s.Config(t)
	c.Kernel = filepath.Join(t.TempDir(), "vmlinux")
	if err := os.WriteFile(c.Kernel, []byte("no kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := s.Driver.Start(t.Context(), c)
	if err == nil {
		m.Kill(t.Context())
		m.Close()
		t.Fatal("Start with a broken kernel succeeded")
	}
	if !strings.Contains(err.Error(), c.Name) || !strings.Contains(err.Error(), "kernel") {
		t.Errorf("Start = %v, want the machine's name and QEMU's words", err)
	}
}

// A start that fails late leaves no process.
func TestFailedStartLeavesNothing(t *testing.T) {
	s := subject(t)
	c := s.Config(t)
	if err := os.Remove(c.Dir); err != nil {
		t.Fatal(err)
	}
	if m, err := s.Driver.Start(t.Context(), c); err == nil {
		m.Kill(t.Context())
		m.Close()
		t.Fatal("Start without a directory succeeded")
	}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // ended meanwhile
		}
		name, rest, _ := strings.Cut(string(b), ") ")
		if f := strings.Fields(rest); len(f) > 1 && f[1] == fmt.Sprint(os.Getpid()) {
			t.Errorf("a child is left: %s)", name)
		}
	}
}

// The process is what the sandbox promises: no new privileges, system calls
// filtered, a session of its own, no listening socket, and no descriptor but what
// it was given and makes for itself.
func TestProcessIsConfined(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	m := start(t, func(c *machine.Config) {
		if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		c.Disks = []machine.Disk{{Serial: "scratch", Kind: machine.DiskScratch, Extents: []machine.Extent{{Path: path, Bytes: 1 << 20}}}}
	})
	proc := fmt.Sprintf("/proc/%d/", m.Record().PID)
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("status of the process lacks %q", want)
		}
	}
	sockets, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(proc + "fd")
	if err != nil {
		t.Fatal(err)
	}
	var opened []string
	for _, e := range entries {
		link, err := os.Readlink(proc + "fd/" + e.Name())
		if err != nil {
			continue // closed meanwhile
		}
		if inode, ok := strings.CutPrefix(link, "socket:["); ok {
			for line := range strings.Lines(string(sockets)) {
				// flags with __SO_ACCEPTCON: it listens
				if f := strings.Fields(line); len(f) >= 7 && f[6] == strings.TrimSuffix(inode, "]") && f[3] == "00010000" {
					t.Errorf("it listens: %s", line)
				}
			}
			continue
		}
		if strings.HasPrefix(link, "/") {
			opened = append(opened, link)
		}
	}
	for _, o := range opened {
		if !slices.Contains([]string{"/dev/null", path}, o) && !strings.HasPrefix(o, "/memfd:") && !strings.HasPrefix(o, "/dev/kvm") {
			t.Errorf("it has %s open", o)
		}
	}
	if n := len(opened); n < 2 {
		t.Errorf("it has %q open, want its disk among them", opened)
	}
}

// A machine that nobody holds any more waits without spinning.
func TestForgottenMachineIsIdle(t *testing.T) {
	m := start(t, nil)
	c, _, err := control.Open(t.Context(), m.Control(), m.Record().Key, wire.Hello{})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	// Half of a second's ticks is far from a loop's all, and from an idle
	// machine's few.
	before := ticks(t, m.Record().PID)
	time.Sleep(time.Second) // the thing measured
	if used := ticks(t, m.Record().PID) - before; used > 50 {
		t.Errorf("%d ticks of processor time in a second", used)
	}
}

// ticks is the processor time of a process, in hundredths of a second.
func ticks(t *testing.T, pid int) (sum int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	var user, system int
	if _, err := fmt.Sscan(f[11]+" "+f[12], &user, &system); err != nil {
		t.Fatal(err)
	}
	return user + system
}

// BenchmarkBoot is from Start to the agent's first answer.
func BenchmarkBoot(b *testing.B) {
	s := subject(b)
	for b.Loop() {
		c := s.Config(b)
		m, err := s.Driver.Start(b.Context(), c)
		if err != nil {
			b.Fatal(err)
		}
		client, _, err := control.Open(b.Context(), m.Control(), c.Key, wire.Hello{})
		if err != nil {
			b.Fatalf("%v\n%s", err, m.ConsoleTail())
		}
		b.StopTimer()
		client.Close()
		m.Kill(b.Context())
		m.Close()
		b.StartTimer()
	}
}
