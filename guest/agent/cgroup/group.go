//go:build linux

package cgroup

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// Mountpoint is where the agent mounts the hierarchy.
const Mountpoint = "/sys/fs/cgroup"

// controllers a container may be limited by.
const controllers = "+cpu +cpuset +memory +pids +io +hugetlb"

// Enable lets groups below the root use every controller.
func Enable() error {
	for c := range strings.FieldsSeq(controllers) {
		if err := write(Mountpoint+"/cgroup.subtree_control", c); err != nil && c != "+hugetlb" {
			return fmt.Errorf("enabling controller %s: %w", c[1:], err)
		}
	}
	return nil
}

// Group is a container's cgroup.
type Group struct {
	Dir string
}

// New makes the group and sets its limits.
func New(id string, limits wire.Limits) (*Group, error) {
	g := &Group{Dir: Mountpoint + "/" + id}
	if err := os.Mkdir(g.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the cgroup: %w", err)
	}
	for _, s := range settings(limits) {
		if err := write(g.Dir+"/"+s.file, s.value); err != nil {
			g.Remove()
			return nil, fmt.Errorf("setting %s to %q: %w", s.file, s.value, err)
		}
	}
	return g, nil
}

type setting struct{ file, value string }

// cpuPeriod is docker's, in microseconds.
const cpuPeriod = 100_000

// settings translates limits as docker does for cgroup v2.
func settings(l wire.Limits) []setting {
	var out []setting
	if l.CPUs > 0 || l.CPUPeriod > 0 {
		period, quota := cmp.Or(l.CPUPeriod, cpuPeriod), "max"
		if l.CPUs > 0 {
			quota = strconv.FormatInt(max(int64(math.Round(l.CPUs*float64(period))), 1000), 10) // the kernel's least
		}
		out = append(out, setting{"cpu.max", fmt.Sprintf("%s %d", quota, period)})
	}
	if l.CPUShares > 0 {
		// Shares 2..262144 to weights 1..10000, as every runtime converts them.
		shares := min(max(l.CPUShares, 2), 262144)
		out = append(out, setting{"cpu.weight", strconv.FormatInt(1+(shares-2)*9999/262142, 10)})
	}
	if l.CPUSet != "" {
		out = append(out, setting{"cpuset.cpus", l.CPUSet})
	}
	if l.MemoryBytes > 0 {
		out = append(out, setting{"memory.max", strconv.FormatInt(l.MemoryBytes, 10)})
	}
	if l.MemoryReservation > 0 {
		out = append(out, setting{"memory.low", strconv.FormatInt(l.MemoryReservation, 10)})
	}
	// Docker counts memory and swap together.
	switch {
	case l.SwapBytes < 0:
		out = append(out, setting{"memory.swap.max", "max"})
	case l.SwapBytes > 0 && l.MemoryBytes > 0:
		out = append(out, setting{"memory.swap.max", strconv.FormatInt(max(l.SwapBytes-l.MemoryBytes, 0), 10)})
	}
	if l.PIDs > 0 {
		out = append(out, setting{"pids.max", strconv.FormatInt(l.PIDs, 10)})
	}
	return out
}

// LimitIO bounds what is read and written of each disk.
func (g *Group) LimitIO(disks []uint64, r wire.IORates) error {
	for _, line := range ioMax(disks, r) {
		if err := write(g.Dir+"/io.max", line); err != nil {
			return fmt.Errorf("setting io.max to %q: %w", line, err)
		}
	}
	return nil
}

// ioMax is what to write, a disk a line.
func ioMax(disks []uint64, r wire.IORates) []string {
	limits := ""
	for _, l := range []struct {
		key  string
		rate int64
	}{{"rbps", r.ReadBytes}, {"wbps", r.WriteBytes}, {"riops", r.ReadOps}, {"wiops", r.WriteOps}} {
		if l.rate > 0 {
			limits += fmt.Sprintf(" %s=%d", l.key, l.rate)
		}
	}
	if limits == "" {
		return nil
	}
	var out []string
	for _, dev := range disks {
		out = append(out, fmt.Sprintf("%d:%d%s", unix.Major(dev), unix.Minor(dev), limits))
	}
	return out
}

// Open returns a descriptor of the group for CLONE_INTO_CGROUP.
func (g *Group) Open() (*os.File, error) {
	return os.OpenFile(g.Dir, unix.O_PATH|unix.O_DIRECTORY, 0)
}

// Kill kills every process in the group and below it.
func (g *Group) Kill() error { return write(g.Dir+"/cgroup.kill", "1") }

// PIDs lists the processes in the group and below it.
func (g *Group) PIDs() ([]int, error) {
	var pids []int
	err := walk(g.Dir, func(dir string) error {
		text, err := os.ReadFile(dir + "/cgroup.procs")
		if err != nil {
			return err
		}
		for field := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids, err
}

// OOMKills is how often the kernel has killed in the group for want of memory.
func (g *Group) OOMKills() int64 { return keyed(g.Dir+"/memory.events", "oom_kill") }

// Stats reads the counters; the network's are not here.
func (g *Group) Stats() wire.ContainerStats {
	s := wire.ContainerStats{
		CPUNanos:    keyed(g.Dir+"/cpu.stat", "usage_usec") * 1000,
		MemoryBytes: number(g.Dir + "/memory.current"),
		MemoryLimit: number(g.Dir + "/memory.max"),
		PIDs:        number(g.Dir + "/pids.current"),
	}
	s.MemoryBytes = max(s.MemoryBytes-keyed(g.Dir+"/memory.stat", "inactive_file"), 0)
	text, _ := os.ReadFile(g.Dir + "/io.stat")
	for field := range strings.FieldsSeq(string(text)) {
		key, value, _ := strings.Cut(field, "=")
		n, _ := strconv.ParseInt(value, 10, 64)
		switch key {
		case "rbytes":
			s.BlockRead += n
		case "wbytes":
			s.BlockWrite += n
		}
	}
	return s
}

// Remove removes the group, which must be empty of processes, and what a
// container made below it.
func (g *Group) Remove() error {
	var dirs []string
	if err := walk(g.Dir, func(dir string) error { dirs = append(dirs, dir); return nil }); err != nil {
		return err
	}
	var errs []error
	for i := len(dirs) - 1; i >= 0; i-- {
		if err := unix.Rmdir(dirs[i]); err != nil && err != unix.ENOENT {
			errs = append(errs, fmt.Errorf("removing the cgroup: %w", err))
		}
	}
	return errors.Join(errs...)
}

// walk calls f for dir and every group below, parents first. A group that goes
// away meanwhile is passed over.
func walk(dir string, f func(string) error) error {
	if err := f(dir); err != nil {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		return err
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			if err := walk(dir+"/"+e.Name(), f); err != nil {
				return err
			}
		}
	}
	return nil
}

func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(value)
	return err
}

// number reads a file of one number; "max" and what is missing are 0.
func number(path string) int64 {
	text, _ := os.ReadFile(path)
	n, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n
}

// keyed reads the number behind key in a file of "key number" lines.
func keyed(path, key string) int64 {
	text, _ := os.ReadFile(path)
	for line := range strings.Lines(string(text)) {
		if k, v, _ := strings.Cut(strings.TrimSpace(line), " "); k == key {
			n, _ := strconv.ParseInt(v, 10, 64)
			return n
		}
	}
	return 0
}
