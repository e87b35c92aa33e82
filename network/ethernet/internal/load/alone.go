//go:build linux

package load

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

const childEnv = "STACK_NETWORK_LOAD"

// Main is m.Run, except in a process that BenchmarkAlone started. A TestMain
// of benchmarks that use it has to call it.
func Main(m *testing.M) int {
	var size, frames, windowed int
	if _, err := fmt.Sscan(os.Getenv(childEnv), &size, &frames, &windowed); err != nil {
		return m.Run()
	}
	if _, err := Run(os.NewFile(3, "from"), os.NewFile(4, "to"), Frame(size), frames, windowed); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// BenchmarkAlone is Benchmark with sender and receiver in another process, so
// that the processor time of this one is the switch's alone. Rates are for one
// core kept busy by it.
func BenchmarkAlone(b *testing.B, from, to *os.File, size int) {
	b.Helper()
	b.ReportAllocs()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %d %d", childEnv, size, b.N, max(1, window/size)))
	cmd.ExtraFiles = []*os.File{from, to}
	cmd.Stderr = os.Stderr
	before := processorTime()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	started := processorTime() - before // not the switch's
	if err := cmd.Wait(); err != nil {
		b.Fatal(err)
	}
	used := max(processorTime()-before-started, time.Microsecond)
	bytes := float64(b.N) * float64(size)
	b.ReportMetric(float64(b.N)/used.Seconds(), "frames/s/core")
	b.ReportMetric(bytes*8/1e9/used.Seconds(), "Gbit/s/core")
	b.ReportMetric(used.Seconds()/(bytes/1e9), "cpu-s/GB")
}
