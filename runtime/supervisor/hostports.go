package supervisor

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/network"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/state"
)

// hostNetwork is the network_mode of services whose ports are open on the host as
// their containers listen on them.
const hostNetwork = "host"

func placeOf(p wire.ListeningPort) socket {
	return socket{p.Protocol, netip.AddrPortFrom(p.Addr, p.Port)}
}

// listens takes down what an agent says that a container listens on, and sees to
// it. A machine may say anything: what makes no sense is left out and counted.
func (s *Supervisor) listens(r *replica, e wire.Event) {
	var ports []wire.ListeningPort
	left := max(0, e.PortsLeft)
	for _, p := range e.Ports {
		twice := slices.ContainsFunc(ports, func(o wire.ListeningPort) bool { return placeOf(o) == placeOf(p) })
		switch {
		case len(ports) == wire.MaxListening || twice, p.Port == 0, p.Protocol != "tcp" && p.Protocol != "udp",
			!p.Addr.IsLoopback() && !p.Addr.IsUnspecified(), p.Addr.Zone() != "" || p.Addr.Is4In6():
			left++
		default:
			ports = append(ports, p)
		}
	}
	s.mu.Lock()
	r.listening, r.unlisted = ports, left
	due := r.openDue
	r.openDue = true
	s.mu.Unlock()
	if !due {
		s.spawn(func() { s.openPorts(r) })
	}
}

// openPorts makes what is open on the host for a replica the same as what its
// container listens on, as far as the host lets it.
func (s *Supervisor) openPorts(r *replica) {
	r.open.Lock()
	defer r.open.Unlock()
	s.mu.Lock()
	r.openDue = false
	wanted, left, rec := r.listening, r.unlisted, clone(&r.rec)
	if !r.plugged || len(rec.Endpoints) == 0 {
		wanted, left = nil, 0
	}
	ours := map[string]bool{}
	for _, id := range r.ports {
		ours[id] = true
	}
	s.mu.Unlock()
	if rec.NetworkMode != hostNetwork {
		return
	}
	for _, p := range rec.HostPorts {
		if id := publishID(rec.ID, placeOf(p)); ours[id] && !slices.Contains(wanted, p) {
			s.unpublishOne(r, id)
			delete(ours, id)
		}
	}
	var open []wire.ListeningPort
	var faults []string
	for _, p := range wanted {
		if !ours[publishID(rec.ID, placeOf(p))] {
			if err := s.openPort(r, rec, p); err != nil {
				if !slices.Contains(faults, err.Error()) { // both families have the same
					faults = append(faults, err.Error())
				}
				continue
			}
		}
		open = append(open, p)
	}
	if left > 0 {
		faults = append(faults, fmt.Sprintf("%d ports beyond %d are not open on the host", left, wire.MaxListening))
	}
	const told = 3 // for a line
	if n := len(faults) - told; n > 0 {
		faults = append(faults[:told], fmt.Sprintf("and %d more", n))
	}
	unopened := strings.Join(faults, "; ")
	if unopened == rec.Unopened && slices.Equal(open, rec.HostPorts) {
		return
	}
	s.updateLater(r, func(rec *state.Replica) { rec.HostPorts, rec.Unopened = open, unopened })
	if unopened != "" && unopened != rec.Unopened {
		s.log.Warn("ports are not open on the host", "container", rec.Name, "what", unopened)
		s.emit(replicaEvent(rec, "ports_unopened", map[string]string{"reason": unopened}))
	}
}

// openPort listens on the host for one port of a container.
func (s *Supervisor) openPort(r *replica, rec *state.Replica, p wire.ListeningPort) error {
	k := placeOf(p)
	fault := func(format string, args ...any) error {
		return fmt.Errorf("port %d/%s is not open on the host: %s", p.Port, p.Protocol, fmt.Sprintf(format, args...))
	}
	if !hasIPv6() && k.addr.Addr().Is6() {
		return nil
	}
	if owner := s.reservedBy(rec.ID, k); owner != "" {
		return fault("it is container %s's", owner)
	}
	to := rec.Endpoints[0]
	target, ok := targetFor(to, netip.IPv4Unspecified())
	if !ok {
		return fault("the container has no address")
	}
	port := p.Port
	if p.Relay != 0 {
		port = p.Relay
	}
	_, _, err := s.publishSocket(r, rec.ID, k, network.Publish{
		Network: to.NetworkID, Proto: p.Protocol, Target: netip.AddrPortFrom(target, port), Masquerade: p.Relay != 0,
	})
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		if ours, _ := s.portHolder(k); ours != "" {
			return fault("%s", ours)
		}
		if owner := portOwner(p.Protocol, k.addr); owner != "" {
			return fault("%s listens on it", owner)
		}
		return fault("another program listens on it")
	case errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM):
		return fault("ports below %d are reserved for root (sudo sysctl -w net.ipv4.ip_unprivileged_port_start=%d)", unprivilegedStart(), p.Port)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fault("the host has no address %s", p.Addr)
	case err != nil:
		return fault("%v", err)
	}
	return nil
}

// reservedBy names the container, other than the one with this id, that publishes
// a port or is about to; "" if there is none.
func (s *Supervisor) reservedBy(except string, k socket) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, r := range s.replicas {
		if id == except || r.gone || !isUp(r.rec.Status) && r.rec.Status != planner.StatusRestarting && r.rec.Status != planner.StatusCreated {
			continue
		}
		for _, p := range r.rec.Ports {
			same := !p.HostIP.IsValid() || p.HostIP.IsUnspecified() || k.addr.Addr().IsUnspecified() || p.HostIP == k.addr.Addr()
			if same && p.Published == k.addr.Port() && p.PublishedEnd == 0 && p.Protocol == k.proto {
				return r.rec.Name
			}
		}
	}
	return ""
}
