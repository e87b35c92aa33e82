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

// BenchmarkLog is what a service that prints a line at a time costs: the
// machine's processor time for each, with the service's own ("off") and without.
func BenchmarkLog(b *testing.B) {
	m := boottest.Boot(b, boottest.Options{Disks: []boottest.Disk{{Serial: "img", Path: boottest.Image(b, nil), ReadOnly: true}}})
	logs := m.Logs()
	const burst = 500
	seen := 0
	for _, where := range []string{"on", "off"} {
		b.Run("log="+where, func(b *testing.B) {
			c := shell(idA, `while read n; do awk 'BEGIN { for (i = 0; i < 500; i++) { print "a line of some length, number " i; fflush() } }' `+
				map[string]string{"on": "", "off": ">/dev/null"}[where]+`; echo end; done`)
			c.Root.Scratch, c.Stdin = "", true
			m.Call(wire.OpCreate, c, nil)
			m.Call(wire.OpStart, wire.ContainerRef{ID: idA}, nil)
			in, err := m.Open(wire.OpAttach, wire.Attach{ID: idA, Stdin: true}, nil)
			if err != nil {
				b.Fatal(err)
			}
			go func() { boottest.Collect(in) }()
			before := m.CPU()
			lines := 0
			for b.Loop() {
				wire.WriteFrame(in, wire.FrameStdin, []byte("next\n"))
				lines += burst
				records := logs.Await(b, func(r []wire.LogRecord) bool {
					return len(r) > seen && string(r[len(r)-1].Line) == "end"
				})
				seen = len(records)
			}
			b.ReportMetric(float64((m.CPU()-before).Microseconds())/float64(lines), "µs-cpu/line")
			m.Call(wire.OpSignal, wire.Signal{ID: idA, Signal: "KILL"}, nil)
			m.Call(wire.OpStop, wire.Stop{ID: idA}, nil)
			m.Call(wire.OpRemove, wire.ContainerRef{ID: idA}, nil)
		})
	}
}
