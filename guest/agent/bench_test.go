//go:build linux

package agent_test

import (
	"testing"
	"time"

	"github.com/stackvm/stack/guest/agent/boottest"
	"github.com/stackvm/stack/guest/wire"
)

// BenchmarkBoot is from the start of QEMU to the agent's first answer.
func BenchmarkBoot(b *testing.B) {
	image := boottest.Image(b, nil)
	for b.Loop() {
		m := boottest.Boot(b, boottest.Options{Disks: []boottest.Disk{{Serial: "img", Path: image, ReadOnly: true}}})
		b.StopTimer()
		var s wire.Stats
		m.Call(wire.OpStats, nil, &s)
		b.ReportMetric(float64(s.AgentRSS)/1e6, "MB-agent")
		m.Shutdown(time.Second)
		b.StartTimer()
	}
}

// BenchmarkExec is one command in a running container, from request to status.
func BenchmarkExec(b *testing.B) {
	m := boottest.Boot(b, boottest.Options{Disks: []boottest.Disk{{Serial: "img", Path: boottest.Image(b, nil), ReadOnly: true}}})
	c := shell(idA, "trap exit TERM; while :; do sleep 1000 & wait; done")
	c.Root.Scratch = ""
	m.Call(wire.OpCreate, c, nil)
	m.Call(wire.OpStart, wire.ContainerRef{ID: idA}, nil)
	for b.Loop() {
		if r, err := m.Exec(wire.Exec{ID: idA, Args: []string{"true"}}); err != nil || r.Code != 0 {
			b.Fatal(err, r)
		}
	}
}

// BenchmarkLife is a container's creation, start, stop and removal.
func BenchmarkLife(b *testing.B) {
	m := boottest.Boot(b, boottest.Options{Disks: []boottest.Disk{{Serial: "img", Path: boottest.Image(b, nil), ReadOnly: true}}})
	c := shell(idA, "trap exit TERM; while :; do sleep 1000 & wait; done")
	c.Root.Scratch = ""
	for b.Loop() {
		m.Call(wire.OpCreate, c, nil)
		m.Call(wire.OpStart, wire.ContainerRef{ID: idA}, nil)
		m.Call(wire.OpStop, wire.Stop{ID: idA, Grace: time.Minute}, nil)
		m.Call(wire.OpRemove, wire.ContainerRef{ID: idA}, nil)
	}
}

// BenchmarkLog is what a service that prints 5,000 lines a second costs: the
// agent's processor time for each line.
func BenchmarkLog(b *testing.B) {
	m := boottest.Boot(b, boottest.Options{Disks: []boottest.Disk{{Serial: "img", Path: boottest.Image(b, nil), ReadOnly: true}}})
	logs := m.Logs()
	c := shell(idA, "trap exit TERM; i=0; while :; do i=$((i+1)); echo line $i; done")
	c.Root.Scratch = ""
	m.Call(wire.OpCreate, c, nil)
	m.Call(wire.OpStart, wire.ContainerRef{ID: idA}, nil)
	n := 0
	for b.Loop() {
		n += 1000
		logs.Await(b, func(r []wire.LogRecord) bool { return len(r) >= n })
	}
	b.ReportMetric(float64(1000*b.N)/b.Elapsed().Seconds(), "lines/s")
}
