package cmdline

import (
	"os"
	"strings"
	"sync"
	"time"
)

// reading is the TSC and the clock at one moment.
type reading struct {
	tsc uint64
	at  time.Time
}

// first is read when the program starts, so that most programs have nothing left
// to wait for when they ask for the frequency.
var first = read()

// leastDistance between two readings makes their uncertainty, some 50 ns each,
// less than 5 millionths.
const leastDistance = 20 * time.Millisecond

// HostTSCKHz returns the frequency of the host's time stamp counter, measured
// against the clock that the host's own time runs on, or 0 where there is none or
// the host itself does not trust it. It may take 20 ms, once.
var HostTSCKHz = sync.OnceValue(func() int {
	if first.tsc == 0 || !trusted() {
		return 0
	}
	if left := leastDistance - time.Since(first.at); left > 0 {
		time.Sleep(left)
	}
	return frequency(first, read())
})

// frequency returns the kHz of a counter with these two readings, 0 if it stood
// still or went backwards.
func frequency(a, b reading) int {
	ns := b.at.Sub(a.at).Nanoseconds()
	if ns <= 0 || b.tsc <= a.tsc {
		return 0
	}
	return int(float64(b.tsc-a.tsc)*1e6/float64(ns) + 0.5)
}

// read takes the reading with the least doubt of a few.
func read() reading {
	var best reading
	least := time.Duration(1<<63 - 1)
	for range 5 {
		before := time.Now()
		tsc := rdtsc()
		if took := time.Since(before); took < least {
			least = took
			best = reading{tsc, before.Add(took / 2)}
		}
	}
	return best
}

// trusted reports whether the host's kernel keeps time by the TSC, its own or
// its hypervisor's page about it: then all CPUs agree on it and it never changes
// its speed.
func trusted() bool {
	name, err := os.ReadFile("/sys/devices/system/clocksource/clocksource0/current_clocksource")
	if err != nil {
		return false
	}
	switch strings.TrimSpace(string(name)) {
	case "tsc", "kvm-clock", "hyperv_clocksource_tsc_page":
		return true
	}
	return false
}
