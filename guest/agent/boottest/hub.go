//go:build linux

package boottest

import (
	"net"
	"slices"
	"sync"
	"testing"
)

// Hub carries every frame of a machine to all others on it.
type Hub struct {
	t testing.TB

	mu       sync.Mutex
	machines []*Machine
}

// NewHub returns a hub without machines.
func NewHub(t testing.TB) *Hub { return &Hub{t: t} }

// Plug connects a machine until the test ends.
func (h *Hub) Plug(m *Machine) {
	h.mu.Lock()
	h.machines = append(h.machines, m)
	h.mu.Unlock()
	done := make(chan struct{})
	h.t.Cleanup(func() { m.Trunk.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			n, _, err := m.Trunk.ReadFrom(buf)
			if err != nil {
				return
			}
			h.mu.Lock()
			machines := slices.Clone(h.machines)
			h.mu.Unlock()
			for _, to := range machines {
				if to != m { // one that has ended gets nothing
					_, _ = to.Trunk.WriteTo(buf[:n], &net.UnixAddr{Name: to.path("nic"), Net: "unixgram"})
				}
			}
		}
	}()
}

// Kill ends a machine without a word to it.
func (m *Machine) Kill() {
	m.t.Helper()
	if err := m.process.Kill(); err != nil {
		m.t.Fatal(err)
	}
	<-m.exited
}
