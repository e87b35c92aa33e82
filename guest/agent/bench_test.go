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

// BenchmarkLife is a container's creation, start, stop and removal, and each of
// them.
func BenchmarkLife(b *testing.B) {
	m := boottest.Boot(b, boottest.Options{Disks: []boottest.Disk{{Serial: "img", Path: boottest.Image(b, nil), ReadOnly: true}}})
	c := shell(idA, "trap exit TERM; while :; do sleep 1000 & wait; done")
	c.Root.Scratch = ""
	c.Interfaces = []wire.Interface{{VLAN: 10, MAC: "02:00:00:00:01:02", Addrs: []string{"10.1.0.2/24"}, Gateways: []string{"10.1.0.1"}, Resolver: "10.1.0.1"}}
	m.Peers()
	steps := []struct {
		op   wire.Op
		body any
		took time.Duration
	}{
		{op: wire.OpCreate, body: c},
		{op: wire.OpStart, body: wire.ContainerRef{ID: idA}},
		{op: wire.OpStop, body: wire.Stop{ID: idA, Grace: time.Minute}},
		{op: wire.OpRemove, body: wire.ContainerRef{ID: idA}},
	}
	for b.Loop() {
		for i := range steps {
			start := time.Now()
			m.Call(steps[i].op, steps[i].body, nil)
			steps[i].took += time.Since(start)
		}
	}
	for _, s := range steps {
		b.ReportMetric(float64(s.took.Milliseconds())/float64(b.N), "ms-"+string(s.op))
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
