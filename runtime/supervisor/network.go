package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/network"
	"github.com/stackvm/stack/network/ipam"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/spec"
)

// virtual is a network that exists.
type virtual struct {
	rec  state.Network
	pool *ipam.Network
}

// loadNetwork brings a recorded network back, or removes one half made.
func (s *Supervisor) loadNetwork(rec *state.Network) error {
	if rec.Phase != state.Made {
		return s.opt.State.DeleteNetwork(rec.ID)
	}
	pool, err := ipam.Restore(rec.Addresses)
	if err != nil {
		return err
	}
	if err := s.opt.Fabric.Create(fabricConfig(rec)); err != nil {
		return err
	}
	s.networks[rec.ID] = &virtual{rec: *rec, pool: pool}
	return nil
}

func fabricConfig(rec *state.Network) network.Config {
	c := network.Config{ID: rec.ID, Name: cmp.Or(rec.Project, rec.Name), Internal: rec.Internal, HostAccess: true, MTU: rec.MTU, Isolated: rec.Isolated}
	for _, sub := range rec.Addresses.Subnets {
		c.Subnets = append(c.Subnets, sub.Prefix)
		c.Gateways = append(c.Gateways, sub.Gateway)
	}
	return c
}

// network returns the network of a name, or nil.
func (s *Supervisor) network(name string) *virtual {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.networks {
		if n.rec.Name == name {
			return n
		}
	}
	return nil
}

func (s *Supervisor) createNetwork(p *spec.Project, name string) error {
	var n *spec.Network
	for _, o := range p.Networks {
		if o.Name == name {
			n = o
		}
	}
	if n == nil {
		return fmt.Errorf("network %s: the project does not have it", name)
	}
	// It may be there: another project's change has just made it.
	_, _, err := s.makeNetwork(n, p.Name)
	return err
}

// makeNetwork makes a network, of no project for "", or returns the one of its
// name.
func (s *Supervisor) makeNetwork(n *spec.Network, project string) (id string, made bool, err error) {
	name := n.Name
	s.netMu.Lock()
	defer s.netMu.Unlock()
	if have := s.network(name); have != nil {
		return have.rec.ID, false, nil
	}
	var taken []netip.Prefix
	s.mu.Lock()
	for _, o := range s.networks {
		for _, sub := range o.rec.Addresses.Subnets {
			taken = append(taken, sub.Prefix)
		}
	}
	s.mu.Unlock()
	req := ipam.Request{Network: name, Name: name, NoIPv4: !n.IPv4, IPv6: n.IPv6}
	for _, pool := range n.Pools {
		req.Config = append(req.Config, ipam.Config{Subnet: pool.Subnet, Range: pool.Range, Gateway: pool.Gateway, Aux: pool.Aux})
	}
	subnets, err := ipam.Subnets(req, taken)
	if err != nil {
		return "", false, &spec.Error{Pos: n.Pos, Err: err}
	}
	pool, err := ipam.New(name, subnets)
	if err != nil {
		return "", false, &spec.Error{Pos: n.Pos, Err: err}
	}
	rec := state.Network{
		ID: state.NewID(), Name: name, Created: time.Now(), Phase: state.Made, Project: project, Key: n.Key, Hash: n.Hash,
		Internal: n.Internal, Isolated: n.Isolated, MTU: n.MTU, Addresses: pool.State(), Labels: maps.Clone(n.Labels),
	}
	if rec.Labels == nil {
		rec.Labels = map[string]string{}
	}
	if n.Hash != "" { // by a compose file
		maps.Copy(rec.Labels, map[string]string{
			labelProject: project, labelNetwork: n.Key, label + "config-hash": n.Hash, label + "version": ComposeVersion,
		})
	}
	if err := s.opt.Fabric.Create(fabricConfig(&rec)); err != nil {
		return "", false, err
	}
	// The record alone is the network: it needs no half-made state.
	if err := s.opt.State.PutNetwork(&rec); err != nil {
		return "", false, errors.Join(err, s.opt.Fabric.Remove(rec.ID))
	}
	s.mu.Lock()
	s.networks[rec.ID] = &virtual{rec: rec, pool: pool}
	s.mu.Unlock()
	s.emit(objectEvent("network", "create", rec.ID, rec.Name, rec.Project, "", nil))
	return rec.ID, true, nil
}

// newNetwork makes a network at a user's wish. As with volumes, compose's labels
// make it a project's.
func (s *Supervisor) newNetwork(_ context.Context, c api.NetworkCreate) (api.NetworkRef, error) {
	if !spec.ObjectName(c.Name) {
		return api.NetworkRef{}, &api.Error{Code: api.CodeInvalid, Message: fmt.Sprintf("invalid network name %q: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", c.Name)}
	}
	n := &spec.Network{
		Key: c.Labels[labelNetwork], Name: c.Name, Internal: c.Internal, IPv4: !c.NoIPv4, IPv6: c.IPv6, MTU: c.MTU, Pools: c.Pools, Labels: c.Labels,
	}
	id, made, err := s.makeNetwork(n, c.Labels[labelProject])
	switch {
	case err != nil:
		return api.NetworkRef{}, &api.Error{Code: api.CodeInvalid, Message: err.Error()}
	case !made:
		return api.NetworkRef{}, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("network with name %s already exists", c.Name)}
	}
	return api.NetworkRef{ID: id, Name: c.Name}, nil
}

// deleteNetwork removes a network at a user's wish, once no change of its project
// is under way.
func (s *Supervisor) deleteNetwork(ctx context.Context, ref api.NetworkRef) (nothing, error) {
	n := s.network(ref.Name)
	if n == nil {
		return nothing{}, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("network %s not found", ref.Name)}
	}
	if n.rec.Project != "" {
		release, err := s.turns.take(ctx, n.rec.Project, "network rm", func(string) {})
		if err != nil {
			return nothing{}, err
		}
		defer release()
	}
	err := s.removeNetwork(ref.Name)
	if errors.Is(err, errInUse) {
		return nothing{}, &api.Error{Code: api.CodeConflict, Message: err.Error(), Hint: "remove what uses it first: stack down, or stack rm"}
	}
	return nothing{}, err
}

// errInUse is a removal that is left undone because of endpoints.
var errInUse = errors.New("resource is still in use")

func (s *Supervisor) removeNetwork(name string) error {
	s.netMu.Lock()
	defer s.netMu.Unlock()
	n := s.network(name)
	if n == nil {
		return nil
	}
	s.mu.Lock()
	for _, r := range s.replicas {
		for _, e := range r.rec.Endpoints {
			if e.NetworkID == n.rec.ID {
				s.mu.Unlock()
				return fmt.Errorf("network %s: %w by %s", name, errInUse, r.rec.Name)
			}
		}
	}
	s.mu.Unlock()
	if err := s.opt.State.DeleteNetwork(n.rec.ID); err != nil {
		return err
	}
	if err := s.opt.Fabric.Remove(n.rec.ID); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.networks, n.rec.ID)
	s.mu.Unlock()
	s.emit(objectEvent("network", "destroy", n.rec.ID, n.rec.Name, n.rec.Project, "", nil))
	return nil
}

// recreateNetwork makes a network anew while replicas that are stopped keep
// their place on it: their addresses are leased again.
func (s *Supervisor) recreateNetwork(p *spec.Project, name string) error {
	n := s.network(name)
	if n == nil {
		return s.createNetwork(p, name)
	}
	s.mu.Lock()
	var holders []*replica
	for _, r := range s.replicas {
		if slices.ContainsFunc(r.rec.Endpoints, func(e state.Endpoint) bool { return e.NetworkID == n.rec.ID }) {
			if r.host != nil {
				s.mu.Unlock()
				return fmt.Errorf("network %s: %w by %s", name, errInUse, r.rec.Name)
			}
			holders = append(holders, r)
		}
	}
	s.mu.Unlock()
	old := n.rec.ID
	if err := s.opt.State.DeleteNetwork(old); err != nil {
		return err
	}
	if err := s.opt.Fabric.Remove(old); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.networks, old)
	s.mu.Unlock()
	if err := s.createNetwork(p, name); err != nil {
		return err
	}
	n = s.network(name)
	for _, r := range holders {
		addrs, err := s.lease(n, s.snapshot(r).Name)
		if err != nil {
			return err
		}
		s.update(r, func(rec *state.Replica) {
			for i := range rec.Endpoints {
				if rec.Endpoints[i].NetworkID == old {
					rec.Endpoints[i].NetworkID, rec.Endpoints[i].Addrs = n.rec.ID, addrs
				}
			}
		})
	}
	return nil
}

// lease takes addresses for a holder and records them.
func (s *Supervisor) lease(n *virtual, holder string, static ...netip.Addr) ([]netip.Prefix, error) {
	s.netMu.Lock()
	defer s.netMu.Unlock()
	addrs, err := n.pool.Lease(holder, static...)
	if err != nil {
		return nil, err
	}
	if err := s.putLeases(n); err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, a := range addrs {
		out = append(out, addrPrefix(a, n.rec.Addresses.Subnets))
	}
	return out, nil
}

func (s *Supervisor) putLeases(n *virtual) error {
	s.mu.Lock()
	n.rec.Addresses = n.pool.State()
	rec := n.rec
	s.mu.Unlock()
	return s.opt.State.PutNetwork(&rec)
}

// release frees the addresses of a holder that is gone.
func (s *Supervisor) release(endpoints []state.Endpoint, holder string) {
	s.netMu.Lock()
	defer s.netMu.Unlock()
	for _, e := range endpoints {
		s.mu.Lock()
		n := s.networks[e.NetworkID]
		inUse := false
		for _, r := range s.replicas { // a recreated replica goes by the same name
			inUse = inUse || r.rec.Name == holder && !r.gone
		}
		s.mu.Unlock()
		if n == nil || inUse {
			continue
		}
		n.pool.Release(holder)
		s.warn("recording leases", s.putLeases(n), "network", n.rec.Name)
	}
}

// relocate finds a replica's networks that were made anew under their names, as
// an interrupted change may have left them.
func (s *Supervisor) relocate(r *replica) error {
	rec := s.snapshot(r)
	moved := false
	for i, e := range rec.Endpoints {
		s.mu.Lock()
		known := s.networks[e.NetworkID] != nil
		s.mu.Unlock()
		if known {
			continue
		}
		n := s.network(e.Network)
		if n == nil {
			return fmt.Errorf("container %s: network %s not found: run up", rec.Name, e.Network)
		}
		addrs, err := s.lease(n, rec.Name)
		if err != nil {
			return fmt.Errorf("container %s: %w", rec.Name, err)
		}
		rec.Endpoints[i].NetworkID, rec.Endpoints[i].Addrs = n.rec.ID, addrs
		moved = true
	}
	if moved {
		s.update(r, func(to *state.Replica) { to.Endpoints = rec.Endpoints })
	}
	return nil
}

// endpoints are a new replica's places, addresses leased, in the order of its
// interfaces.
func (s *Supervisor) endpoints(p *spec.Project, svc *spec.Service, rec *state.Replica, aliases bool) ([]state.Endpoint, error) {
	type place struct {
		key string
		at  spec.Attachment
		net *virtual
	}
	var places []place
	if svc.NetworkMode != "none" {
		for key, at := range svc.Networks {
			n := p.Networks[key]
			if n == nil {
				return nil, &spec.Error{Pos: at.Pos, Err: fmt.Errorf("service %q: undefined network %s", svc.Name, key)}
			}
			v := s.network(n.Name)
			if v == nil {
				return nil, &spec.Error{Pos: at.Pos, Err: fmt.Errorf("network %s not found", n.Name)}
			}
			places = append(places, place{key, at, v})
		}
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(b.at.Priority, a.at.Priority), cmp.Compare(a.key, b.key))
	})
	gateway := -1
	for i, pl := range places {
		better := func(j int) bool {
			o := places[j]
			return cmp.Or(cmp.Compare(pl.at.GatewayPriority, o.at.GatewayPriority), compareBool(!pl.net.rec.Internal, !o.net.rec.Internal)) > 0
		}
		if gateway < 0 || better(gateway) {
			gateway = i
		}
	}
	var out []state.Endpoint
	for i, pl := range places {
		mac := pl.at.MAC
		if mac == "" {
			mac = ipam.MAC(rec.Name, pl.net.rec.ID).String()
		}
		var static []netip.Addr
		for _, a := range []netip.Addr{pl.at.IPv4, pl.at.IPv6} {
			if a.IsValid() {
				static = append(static, a)
			}
		}
		addrs, err := s.lease(pl.net, rec.Name, static...)
		if err != nil {
			return out, &spec.Error{Pos: pl.at.Pos, Err: err}
		}
		names := []string{rec.Name, rec.ID[:12]}
		if aliases {
			names = append(names, pl.at.Aliases...)
			if !pl.at.Unnamed {
				names = append([]string{svc.Name}, append(names, svc.Name+"."+p.Name)...)
			}
		}
		if svc.Hostname != "" {
			names = append(names, svc.Hostname)
		}
		if svc.NetworkMode == hostNetwork {
			names = nil // nor has it any on the host's own
		}
		out = append(out, state.Endpoint{
			Network: pl.net.rec.Name, NetworkID: pl.net.rec.ID, MAC: mac, Addrs: addrs,
			Aliases: names, Interface: pl.at.InterfaceName, Gateway: i == gateway, HostDeny: svc.Extension.Host == "deny",
			Sysctls: pl.at.Sysctls, LinkLocal: linkLocal(pl.at.LinkLocal), Links: svc.Links,
		})
	}
	return out, nil
}

// linkLocal are addresses with the lengths of their kinds' prefixes.
func linkLocal(addrs []netip.Addr) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range addrs {
		bits := 64 // RFC 4291, 2.5.6
		if a.Is4() {
			bits = 16 // RFC 3927
		}
		out = append(out, netip.PrefixFrom(a, bits))
	}
	return out
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// assignVLANs gives each of a replica's networks a number on its machine's
// trunk.
func (s *Supervisor) assignVLANs(h *hosted, r *replica) []state.Endpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	vlans := maps.Clone(h.rec.VLANs)
	if vlans == nil {
		vlans = map[uint16]state.VLAN{}
	}
	out := slices.Clone(r.rec.Endpoints)
	next := uint16(2) // 1 is what switches call untagged
	for i := range out {
		for {
			if _, taken := vlans[next]; !taken {
				break
			}
			next++
		}
		vlans[next] = state.VLAN{NetworkID: out[i].NetworkID, Replica: r.rec.ID}
		out[i].VLAN = next
	}
	h.rec.VLANs = vlans
	return out
}

// interfaces fills in a container's ends of its networks.
func (s *Supervisor) interfaces(c *wire.Container, endpoints []state.Endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.Interfaces = nil
	for _, e := range endpoints {
		n := s.networks[e.NetworkID]
		if n == nil {
			continue // Attach will say so
		}
		i := wire.Interface{VLAN: e.VLAN, Name: e.Interface, MAC: e.MAC, MTU: cmp.Or(n.rec.MTU, s.opt.MTU), Sysctls: e.Sysctls}
		for _, a := range slices.Concat(e.Addrs, e.LinkLocal) {
			i.Addrs = append(i.Addrs, a.String())
		}
		for _, sub := range n.rec.Addresses.Subnets {
			if e.Gateway && !n.rec.Internal {
				i.Gateways = append(i.Gateways, sub.Gateway.String())
			}
			if i.Resolver == "" {
				i.Resolver = sub.Gateway.String()
			}
		}
		c.Interfaces = append(c.Interfaces, i)
	}
}

// plugReplica gives a replica's container its places on the networks, with its
// names, and leads its published and forwarded ports there. What is there already stays.
func (s *Supervisor) plugReplica(h *hosted, r *replica) error {
	rec := s.snapshot(r)
	if err := s.attachReplica(h, rec); err != nil {
		return err
	}
	if err := s.publish(r, rec); err != nil {
		return err
	}
	s.offer(r)
	s.openPorts(r)
	return nil
}

// attachReplica does that without the ports.
func (s *Supervisor) attachReplica(h *hosted, rec *state.Replica) error {
	for _, e := range rec.Endpoints {
		mac, err := net.ParseMAC(e.MAC)
		if err != nil {
			return fmt.Errorf("container %s: MAC address %q: %w", rec.Name, e.MAC, err)
		}
		at := network.Endpoint{Network: e.NetworkID, VLAN: e.VLAN, MAC: mac, Names: e.Aliases, Links: e.Links, Container: rec.ID, HostDeny: e.HostDeny}
		for _, a := range e.Addrs {
			at.Addrs = append(at.Addrs, a.Addr())
		}
		for _, a := range e.LinkLocal {
			at.LinkLocal = append(at.LinkLocal, a.Addr())
		}
		if err := s.opt.Fabric.Attach(h.id, at); err != nil {
			return fmt.Errorf("container %s: network %s: %w", rec.Name, e.Network, err)
		}
	}
	return nil
}

// unplugReplica takes both back.
func (s *Supervisor) unplugReplica(h *hosted, r *replica) {
	s.withdraw(r)
	s.mu.Lock()
	r.listening = nil
	s.mu.Unlock()
	s.openPorts(r)
	s.unpublish(r)
	rec := s.snapshot(r)
	for _, e := range rec.Endpoints {
		if err := s.opt.Fabric.Detach(h.id, e.NetworkID, rec.ID); err != nil {
			s.log.Debug("detaching", "container", rec.Name, "err", err) // it was not attached
		}
	}
}

// socket is a port that is listened on.
type socket struct {
	proto string
	addr  netip.AddrPort
}

func (k socket) String() string { return k.proto + "/" + k.addr.String() }

func publishID(replica string, k socket) string { return "port/" + replica + "/" + k.String() }

// hostAddrs are the addresses a published port listens on.
func hostAddrs(ip netip.Addr) []netip.Addr {
	if ip.IsValid() {
		return []netip.Addr{ip}
	}
	all := []netip.Addr{netip.IPv4Unspecified()}
	if hasIPv6() {
		all = append(all, netip.IPv6Unspecified())
	}
	return all
}

// hasIPv6 tells whether this host can listen on IPv6 at all.
func hasIPv6() bool {
	_, err := os.Stat("/proc/net/if_inet6")
	return err == nil
}

// publish listens on the replica's ports and leads them to it.
func (s *Supervisor) publish(r *replica, rec *state.Replica) error {
	if len(rec.Ports) == 0 || len(rec.Endpoints) == 0 {
		return nil
	}
	to, routed := wayIn(rec.Endpoints)
	var published []state.Published
	for _, p := range rec.Ports {
		got, err := s.publishPort(r, rec, to, p, !routed)
		if err != nil {
			return err
		}
		published = append(published, got...)
	}
	s.updateLater(r, func(rec *state.Replica) { rec.Published = published })
	return nil
}

// wayIn is the network by which a replica is reached from the host, and whether
// its answers to anywhere go back that way.
func wayIn(endpoints []state.Endpoint) (to state.Endpoint, routed bool) {
	for _, e := range endpoints {
		if e.Gateway {
			return e, true
		}
	}
	return endpoints[0], false
}

// publishPort listens for one port, on every address it is to be had.
func (s *Supervisor) publishPort(r *replica, rec *state.Replica, to state.Endpoint, p state.PublishSpec, masquerade bool) ([]state.Published, error) {
	first, last := p.Published, max(p.Published, p.PublishedEnd)
	var lastErr error
	for port := uint32(first); port <= uint32(last); port++ {
		got, err := s.publishAt(r, rec, to, p, uint16(port), masquerade)
		if err == nil {
			return got, nil
		}
		lastErr = err
	}
	return nil, lastErr
}

func (s *Supervisor) publishAt(r *replica, rec *state.Replica, to state.Endpoint, p state.PublishSpec, port uint16, masquerade bool) (out []state.Published, err error) {
	var done []string
	defer func() {
		if err != nil {
			for _, id := range done {
				s.unpublishOne(r, id)
			}
		}
	}()
	for _, ip := range hostAddrs(p.HostIP) {
		target, ok := targetFor(to, ip)
		if !ok {
			continue
		}
		// An earlier supervisor may hold it: an address of any port was settled
		// then.
		k := socket{p.Protocol, netip.AddrPortFrom(ip, port)}
		if port == 0 {
			for _, was := range rec.Published {
				if was.HostIP == ip.String() && was.Target == p.Target && was.Protocol == p.Protocol {
					k.addr = netip.AddrPortFrom(ip, was.HostPort)
				}
			}
		}
		pub := network.Publish{Network: to.NetworkID, Proto: p.Protocol, Target: netip.AddrPortFrom(target, p.Target), Masquerade: masquerade}
		if pub.ID, k.addr, err = s.publishSocket(r, rec.ID, k, pub); err != nil {
			return nil, s.portError(p, k.addr, err)
		}
		port = k.addr.Port() // the same on the next address
		done = append(done, pub.ID)
		out = append(out, state.Published{HostIP: ip.String(), HostPort: port, Target: p.Target, Protocol: p.Protocol})
	}
	return out, nil
}

// publishSocket listens at a socket's place, any port if it names none, unless an earlier
// supervisor did, and leads what comes as pub says. It returns the id of that and
// the place.
func (s *Supervisor) publishSocket(r *replica, owner string, k socket, pub network.Publish) (id string, at netip.AddrPort, err error) {
	kept := s.take(publishID(owner, k))
	var f *os.File
	if k.proto == "udp" {
		pub.Packet, f, err = listenUDP(kept, k.addr)
	} else {
		pub.Listener, f, err = listenTCP(kept, k.addr)
	}
	if err != nil {
		return "", k.addr, err
	}
	if pub.Packet != nil {
		k.addr = addrOf(pub.Packet.LocalAddr(), k.addr.Addr())
	} else {
		k.addr = addrOf(pub.Listener.Addr(), k.addr.Addr())
	}
	pub.ID = publishID(owner, k)
	if kept == nil {
		err = s.opt.Keeper.Put(map[string]*os.File{pub.ID: f})
	}
	f.Close()
	if err == nil {
		err = s.opt.Fabric.Publish(pub)
	}
	if err != nil {
		return "", k.addr, err
	}
	s.mu.Lock()
	r.ports = append(r.ports, pub.ID)
	s.mu.Unlock()
	return pub.ID, k.addr, nil
}

// targetFor is the address that connections to a host address of that family
// lead to: any of the replica's will do.
func targetFor(to state.Endpoint, ip netip.Addr) (netip.Addr, bool) {
	for _, a := range to.Addrs {
		if a.Addr().Is4() == ip.Is4() {
			return a.Addr(), true
		}
	}
	if len(to.Addrs) > 0 {
		return to.Addrs[0].Addr(), true
	}
	return netip.Addr{}, false
}

func addrOf(a net.Addr, ip netip.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.TCPAddr:
		return netip.AddrPortFrom(ip, uint16(a.Port))
	case *net.UDPAddr:
		return netip.AddrPortFrom(ip, uint16(a.Port))
	}
	return netip.AddrPortFrom(ip, 0)
}

func listenTCP(kept *os.File, at netip.AddrPort) (net.Listener, *os.File, error) {
	if kept != nil {
		l, err := net.FileListener(kept)
		return l, kept, err
	}
	l, err := net.ListenTCP(family("tcp", at), net.TCPAddrFromAddrPort(at))
	if err != nil {
		return nil, nil, err
	}
	f, err := l.File()
	if err != nil {
		l.Close()
		return nil, nil, err
	}
	return l, f, nil
}

func listenUDP(kept *os.File, at netip.AddrPort) (net.PacketConn, *os.File, error) {
	if kept != nil {
		c, err := net.FilePacketConn(kept)
		return c, kept, err
	}
	c, err := net.ListenUDP(family("udp", at), net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, nil, err
	}
	f, err := c.File()
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, f, nil
}

// family keeps the two unspecified addresses apart, so that one port can be
// listened on at both.
func family(proto string, at netip.AddrPort) string {
	if at.Addr().Is4() {
		return proto + "4"
	}
	return proto + "6"
}

// unpublish stops listening on a replica's ports.
func (s *Supervisor) unpublish(r *replica) {
	s.mu.Lock()
	ids := r.ports
	r.ports = nil
	s.mu.Unlock()
	for _, id := range ids {
		s.unpublishOne(r, id)
	}
	if len(ids) > 0 {
		s.updateLater(r, func(rec *state.Replica) { rec.Published = nil })
	}
}

func (s *Supervisor) unpublishOne(r *replica, id string) {
	s.mu.Lock()
	r.ports = slices.DeleteFunc(r.ports, func(o string) bool { return o == id })
	s.mu.Unlock()
	s.warn("unpublishing", s.opt.Fabric.Unpublish(id))
	s.keeperDrop(id)
}
