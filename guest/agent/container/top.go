//go:build linux

package container

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/stackvm/stack/guest/agent/netlink"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// ticksPerSecond is USER_HZ, which every architecture of ours has at 100.
const ticksPerSecond = 100

// Top lists the container's processes as `ps -ef` does.
func (c *Container) Top() (*wire.Top, error) {
	if c.running() == nil {
		return nil, c.notRunning()
	}
	pids, err := c.group.PIDs()
	if err != nil {
		return nil, err
	}
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return nil, err
	}
	now := time.Now()
	booted := now.Add(-time.Duration(up.Nano()))
	top := &wire.Top{Titles: []string{"UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"}}
	for _, pid := range pids {
		if row, ok := processRow(pid, now, booted, c); ok {
			top.Processes = append(top.Processes, row)
		}
	}
	return top, nil
}

func processRow(pid int, now, booted time.Time, c *Container) ([]string, bool) {
	dir := fmt.Sprintf("/proc/%d", pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return nil, false // ended meanwhile
	}
	// The name, in parentheses, may hold anything; fields count from behind it.
	end := bytes.LastIndexByte(stat, ')')
	begin := bytes.IndexByte(stat, '(')
	if begin < 0 || end < begin {
		return nil, false
	}
	fields := strings.Fields(string(stat[end+1:]))
	if len(fields) < 20 {
		return nil, false
	}
	number := func(i int) int64 { n, _ := strconv.ParseInt(fields[i], 10, 64); return n }
	cpu := time.Duration(number(11)+number(12)) * time.Second / ticksPerSecond
	started := booted.Add(time.Duration(number(19)) * time.Second / ticksPerSecond)
	percent := 0
	if age := now.Sub(started); age > 0 {
		percent = int(100 * cpu / age)
	}
	tty := "?"
	if dev := number(4); dev != 0 && unix.Major(uint64(dev)) >= 136 && unix.Major(uint64(dev)) < 144 {
		tty = fmt.Sprintf("pts/%d", unix.Minor(uint64(dev)))
	}
	start := started.Format("15:04")
	if now.Sub(started) > 24*time.Hour {
		start = started.Format("Jan02")
	}
	seconds := int(cpu / time.Second)
	command, _ := os.ReadFile(dir + "/cmdline")
	text := strings.TrimRight(strings.ReplaceAll(string(command), "\x00", " "), " ")
	if text == "" {
		text = "[" + string(stat[begin+1:end]) + "]"
	}
	var st unix.Stat_t
	uid := "?"
	if unix.Stat(dir, &st) == nil {
		uid = c.userName(int(st.Uid))
	}
	return []string{
		uid, strconv.Itoa(pid), fields[1], strconv.Itoa(percent), start, tty,
		fmt.Sprintf("%02d:%02d:%02d", seconds/3600, seconds/60%60, seconds%60), text,
	}, true
}

// userName names a uid by the container's own list.
func (c *Container) userName(uid int) string {
	id := strconv.Itoa(uid)
	for line := range strings.Lines(string(c.userFile("/etc/passwd"))) {
		if f := strings.Split(line, ":"); len(f) > 2 && f[2] == id {
			return f[0]
		}
	}
	return id
}

// Stats reads the container's counters.
func (c *Container) Stats() wire.ContainerStats {
	s := c.group.Stats()
	s.NetRx, s.NetTx = netlink.Traffic(c.net)
	return s
}
