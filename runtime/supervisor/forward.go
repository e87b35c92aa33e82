package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/stackvm/stack/network"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/state"
)

// forwards are ports of the host's loopback that lead to services. The sockets
// are a forward's for its whole life: while no replica of the service runs,
// clients wait in them.
type forwards struct {
	mu      sync.Mutex // guards what follows; taken before Supervisor.mu, held while connections are ended
	all     []*forward
	changed chan struct{} // closed and replaced at every change
}

type forward struct {
	rec     state.Forward
	sockets []listening
	fault   error  // why there are no sockets
	replica string // id of the one it leads to, "" without one
}

// listening is one socket of a forward. file keeps it open; what carries its
// traffic works on a duplicate.
type listening struct {
	at   socket
	file *os.File
}

func forwardID(f *forward, at socket) string { return "forward/" + f.rec.ID + "/" + at.String() }

// freePortTries is how often a free port is looked for that is free at both of the
// host's loopback addresses.
const freePortTries = 16

func (l *forwards) init() { l.changed = make(chan struct{}) }

func (l *forwards) notifyLocked() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// loadForwards brings back what was recorded. A port that is not to be had any
// more is tried again when there is something for it to lead to.
func (s *Supervisor) loadForwards() error {
	records, err := s.opt.State.Forwards()
	for _, rec := range records {
		f := &forward{rec: *rec}
		if err := s.listen(f); err != nil {
			s.log.Warn("listening on a forwarded port", "port", rec.Local, "for", rec.String(), "err", err)
		}
		s.forwards.all = append(s.forwards.all, f)
	}
	return err
}

// serveForward makes forwards and keeps its client informed of them. They end with
// the request, unless they are detached.
func (s *Supervisor) serveForward(w http.ResponseWriter, r *http.Request) {
	var req api.Forward
	if err := api.ReadRequest(r, &req); err != nil {
		api.WriteError(w, 0, err)
		return
	}
	made, err := s.makeForwards(req)
	if err != nil {
		api.WriteError(w, 0, err)
		return
	}
	if !req.Detach {
		defer s.endForwards("the command that asked for them has gone", func(f *forward) bool { return slices.Contains(made, f) })
	}
	stream := api.NewStream[api.Forwarding](w)
	var told []api.Forwarded
	for {
		s.forwards.mu.Lock()
		changed := s.forwards.changed
		now, gone := s.describe(made), slices.ContainsFunc(made, func(f *forward) bool { return !slices.Contains(s.forwards.all, f) })
		s.forwards.mu.Unlock()
		switch {
		case gone:
			_ = stream.Send(api.Forwarding{Error: &api.Error{
				Code: api.CodeConflict, Message: "the forward has ended: its project went down, or it was removed",
			}})
			return
		case !reflect.DeepEqual(told, now):
			if stream.Send(api.Forwarding{Forwards: now}) != nil {
				return
			}
			told = now
		}
		if req.Detach {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// makeForwards makes all that is asked for, or nothing.
func (s *Supervisor) makeForwards(req api.Forward) (made []*forward, err error) {
	if len(req.Ports) == 0 {
		return nil, &api.Error{Code: api.CodeInvalid, Message: "the request names no port to forward"}
	}
	defer func() {
		if err != nil {
			s.endForwards("others could not be made", func(f *forward) bool { return slices.Contains(made, f) })
			made = nil
		}
	}()
	for _, p := range req.Ports {
		f := &forward{rec: state.Forward{
			ID: state.NewID(), Created: time.Now(), Project: req.Project, Service: p.Service, Index: p.Index,
			Target: p.Target, Protocol: p.Protocol, Local: p.Local, Detached: req.Detach,
		}}
		if p.Target == 0 || p.Protocol != "tcp" && p.Protocol != "udp" {
			return made, &api.Error{Code: api.CodeInvalid, Message: fmt.Sprintf("forwarding %s: a port of tcp or udp is needed", f.rec)}
		}
		r, _, err := s.running(api.Select{Project: req.Project, Services: []string{p.Service}, Index: p.Index})
		if err != nil {
			return made, err
		}
		if _, ok := s.wayTo(r); !ok {
			return made, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("forwarding %s: container %s is on no network", f.rec, s.snapshot(r).Name)}
		}
		if err := s.makeForward(f, p.Prefer); err != nil {
			return made, err
		}
		made = append(made, f)
	}
	return made, nil
}

// makeForward listens, and leads what arrives to a replica.
func (s *Supervisor) makeForward(f *forward, prefer bool) error {
	s.forwards.mu.Lock()
	defer s.forwards.mu.Unlock()
	err := s.listen(f)
	if err != nil && prefer {
		f.rec.Local = 0
		err = s.listen(f)
	}
	if err != nil {
		e := presentable(err)
		e.Code = api.CodeRefused
		return e
	}
	if f.rec.Detached {
		if err := s.opt.State.PutForward(&f.rec); err != nil {
			s.hangUp(f)
			return err
		}
	}
	s.forwards.all = append(s.forwards.all, f)
	s.leadAnywhere(f)
	s.forwards.notifyLocked()
	return nil
}

// listForwards tells what is forwarded.
func (s *Supervisor) listForwards(context.Context, *nothing) ([]api.Forwarded, error) {
	s.forwards.mu.Lock()
	defer s.forwards.mu.Unlock()
	return s.describe(s.forwards.all), nil
}

// removeForwards ends forwards at a user's wish. It removes all of them or none.
func (s *Supervisor) removeForwards(_ context.Context, req api.Unforward) (nothing, error) {
	s.forwards.mu.Lock()
	for _, id := range req.IDs {
		if !slices.ContainsFunc(s.forwards.all, func(f *forward) bool { return f.rec.ID == id }) {
			s.forwards.mu.Unlock()
			return nothing{}, &api.Error{Code: api.CodeNotFound, Message: "no such forward: " + id}
		}
	}
	s.forwards.mu.Unlock()
	s.endForwards("removed", func(f *forward) bool { return slices.Contains(req.IDs, f.rec.ID) })
	return nothing{}, nil
}

// endForwards ends those that are meant, with their connections.
func (s *Supervisor) endForwards(why string, meant func(*forward) bool) {
	s.forwards.mu.Lock()
	defer s.forwards.mu.Unlock()
	before := len(s.forwards.all)
	s.forwards.all = slices.DeleteFunc(s.forwards.all, func(f *forward) bool {
		if !meant(f) {
			return false
		}
		s.log.Debug("a forward ends", "for", f.rec.String(), "port", f.rec.Local, "why", why)
		s.warn("forgetting a forward", s.opt.State.DeleteForward(f.rec.ID))
		s.leadNowhere(f)
		s.hangUp(f)
		return true
	})
	if len(s.forwards.all) != before {
		s.forwards.notifyLocked()
	}
}

// describe is what a client is told. The caller holds forwards.mu.
func (s *Supervisor) describe(all []*forward) []api.Forwarded {
	out := make([]api.Forwarded, 0, len(all))
	for _, f := range all {
		d := api.Forwarded{Forward: f.rec}
		for _, l := range f.sockets {
			d.Addrs = append(d.Addrs, l.at.addr.String())
		}
		if f.fault != nil {
			d.Fault = f.fault.Error()
		}
		s.mu.Lock()
		if r := s.replicas[f.replica]; r != nil {
			d.Replica = r.rec.Name
		}
		s.mu.Unlock()
		out = append(out, d)
	}
	return out
}

// loopbacks are where forwarded ports are listened on.
func loopbacks() []netip.Addr {
	all := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	if hasIPv6() {
		all = append(all, netip.IPv6Loopback())
	}
	return all
}

// listen opens a forward's sockets, or finds them with the keeper. The caller holds
// forwards.mu, or is the only one there is.
func (s *Supervisor) listen(f *forward) (err error) {
	free := f.rec.Local == 0
	for range freePortTries {
		if err = s.listenAt(f); err == nil || !free || !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
		f.rec.Local = 0 // free at one address only
	}
	f.fault = err
	return err
}

func (s *Supervisor) listenAt(f *forward) error {
	files := map[string]*os.File{}
	for _, ip := range loopbacks() {
		at := socket{f.rec.Protocol, netip.AddrPortFrom(ip, f.rec.Local)}
		file := s.take(forwardID(f, at))
		if file == nil {
			var err error
			file, at.addr, err = openSocket(at)
			if errors.Is(err, syscall.EADDRNOTAVAIL) && ip.Is6() {
				continue // a host may have IPv6 without a loopback address of it
			}
			if err != nil {
				s.hangUp(f)
				return listenError("forwarding "+f.rec.String()+":", at, err, s.portHolderLocked)
			}
			files[forwardID(f, at)] = file
		}
		f.rec.Local = at.addr.Port() // the same on the next address
		f.sockets = append(f.sockets, listening{at, file})
	}
	if len(files) == 0 {
		return nil
	}
	if err := s.opt.Keeper.Put(files); err != nil {
		s.hangUp(f)
		return err
	}
	return nil
}

// openSocket listens at an address, and tells which port was found for port 0.
func openSocket(at socket) (*os.File, netip.AddrPort, error) {
	if at.proto == "udp" {
		c, f, err := listenUDP(nil, at.addr)
		if err != nil {
			return nil, at.addr, err
		}
		defer c.Close()
		return f, addrOf(c.LocalAddr(), at.addr.Addr()), nil
	}
	l, f, err := listenTCP(nil, at.addr)
	if err != nil {
		return nil, at.addr, err
	}
	defer l.Close()
	return f, addrOf(l.Addr(), at.addr.Addr()), nil
}

// hangUp closes a forward's sockets.
func (s *Supervisor) hangUp(f *forward) {
	var kept []string
	for _, l := range f.sockets {
		l.file.Close()
		kept = append(kept, forwardID(f, l.at))
	}
	f.sockets = nil
	s.keeperDrop(kept...)
}

// offer leads forwards that lead nowhere to a replica whose container has its
// place on the networks.
func (s *Supervisor) offer(r *replica) {
	s.forwards.mu.Lock()
	defer s.forwards.mu.Unlock()
	s.mu.Lock()
	r.plugged = true
	s.mu.Unlock()
	for _, f := range s.forwards.all {
		if f.replica == "" {
			s.leadTo(f, r)
		}
	}
}

// withdraw leads forwards away from a replica, to another one where there is one:
// its connections end.
func (s *Supervisor) withdraw(r *replica) {
	s.forwards.mu.Lock()
	defer s.forwards.mu.Unlock()
	s.mu.Lock()
	r.plugged = false
	id := r.rec.ID
	s.mu.Unlock()
	for _, f := range s.forwards.all {
		if f.replica == id {
			s.leadNowhere(f)
			s.leadAnywhere(f)
			s.forwards.notifyLocked()
		}
	}
}

// leadAnywhere leads a forward to the first replica that it may lead to.
func (s *Supervisor) leadAnywhere(f *forward) {
	s.mu.Lock()
	var found []*replica
	for _, r := range s.replicas {
		if r.plugged {
			found = append(found, r)
		}
	}
	slices.SortFunc(found, func(a, b *replica) int { return cmp.Compare(a.rec.Number, b.rec.Number) })
	s.mu.Unlock()
	for _, r := range found {
		if f.replica == "" {
			s.leadTo(f, r)
		}
	}
}

// leadTo makes a forward lead to a replica, if it is one of those meant. A fault
// is the forward's, not the replica's. The caller holds forwards.mu.
func (s *Supervisor) leadTo(f *forward, r *replica) {
	rec := s.snapshot(r)
	if rec.OneOff || rec.Project != f.rec.Project || rec.Service != f.rec.Service || f.rec.Index != 0 && f.rec.Index != rec.Number {
		return
	}
	if len(f.sockets) == 0 && s.listen(f) != nil {
		return
	}
	to, ok := s.wayTo(r)
	if !ok {
		return
	}
	f.replica = rec.ID
	for _, l := range f.sockets {
		if err := s.publishForward(f, l, to); err != nil {
			s.log.Warn("forwarding a port", "port", f.rec.Local, "to", f.rec.String(), "err", err)
			s.leadNowhere(f)
			return
		}
	}
	s.forwards.notifyLocked()
}

func (s *Supervisor) publishForward(f *forward, l listening, to state.Endpoint) (err error) {
	target, ok := targetFor(to, l.at.addr.Addr())
	if !ok {
		return fmt.Errorf("network %s gave it no address", to.Network)
	}
	pub := network.Publish{
		ID: forwardID(f, l.at), Network: to.NetworkID, Proto: f.rec.Protocol, Target: netip.AddrPortFrom(target, f.rec.Target),
		Masquerade: true, // its clients are on the loopback
	}
	if f.rec.Protocol == "udp" {
		pub.Packet, _, err = listenUDP(l.file, l.at.addr)
	} else {
		pub.Listener, _, err = listenTCP(l.file, l.at.addr)
	}
	if err != nil {
		return err
	}
	if err = s.opt.Fabric.Publish(pub); err == nil {
		return nil
	}
	if pub.Packet != nil {
		pub.Packet.Close()
	} else {
		pub.Listener.Close()
	}
	return err
}

// leadNowhere ends a forward's connections; its sockets go on to take new ones.
func (s *Supervisor) leadNowhere(f *forward) {
	if f.replica == "" {
		return
	}
	f.replica = ""
	for _, l := range f.sockets {
		if err := s.opt.Fabric.Unpublish(forwardID(f, l.at)); err != nil {
			s.log.Debug("unpublishing a forward", "for", f.rec.String(), "err", err) // it was not published
		}
	}
}

// letGoForwards closes the files of forwards, whose ports stay with the keeper.
func (s *Supervisor) letGoForwards() (err error) {
	s.forwards.mu.Lock()
	defer s.forwards.mu.Unlock()
	for _, f := range s.forwards.all {
		for _, l := range f.sockets {
			err = errors.Join(err, l.file.Close())
		}
	}
	return err
}

// maxSharing bounds how many containers may stand between one and the one whose
// network it shares.
const maxSharing = 64

// wayTo is the network place by which a replica's container is reached: its own,
// or that of the one whose network it shares.
func (s *Supervisor) wayTo(r *replica) (to state.Endpoint, ok bool) {
	rec := s.snapshot(r)
	for range maxSharing {
		if len(rec.Endpoints) > 0 {
			to, _ = wayIn(rec.Endpoints)
			return to, true
		}
		other, err := s.target(rec.Project, rec.NetworkMode)
		if err != nil || other == nil {
			break
		}
		rec = s.snapshot(other)
	}
	return to, false
}

// portHolderLocked says which of our own has a port, and how to free it: a container that
// publishes it, or a forward; "" is neither. The caller holds forwards.mu.
func (s *Supervisor) portHolderLocked(at socket) (what, cure string) {
	overlaps := func(k socket) bool {
		return k.proto == at.proto && k.addr.Port() == at.addr.Port() &&
			(k.addr.Addr() == at.addr.Addr() || k.addr.Addr().IsUnspecified() || at.addr.Addr().IsUnspecified())
	}
	for k, name := range s.heldPorts(nil) {
		if overlaps(k) {
			return fmt.Sprintf("container %s publishes it", name), "stop that container"
		}
	}
	for _, f := range s.forwards.all {
		if slices.ContainsFunc(f.sockets, func(l listening) bool { return overlaps(l.at) }) {
			return fmt.Sprintf("stack forward has it, for %s of project %s", f.rec, f.rec.Project),
				fmt.Sprintf("end that: stack -p %s forward rm %d/%s", f.rec.Project, f.rec.Local, f.rec.Protocol)
		}
	}
	return "", ""
}

// portHolder is portHolderLocked for who does not hold forwards.mu.
func (s *Supervisor) portHolder(at socket) (what, cure string) {
	s.forwards.mu.Lock()
	defer s.forwards.mu.Unlock()
	return s.portHolderLocked(at)
}
