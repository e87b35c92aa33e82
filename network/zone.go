package network

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// zone is what the name service of one network knows: a container asks, and
// sees the names on all of its networks, as with docker.
type zone struct {
	fabric  *Fabric
	network *virtual
}

func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// networksLocked are the networks of the container that has the address, the
// one it asked on first.
func (z zone) networksLocked(client netip.Addr) []*virtual {
	out := []*virtual{z.network}
	asking := z.fabric.byAddr[located{z.network.cfg.ID, client}]
	if asking == nil {
		return out
	}
	for at := range z.fabric.machines[asking.machine] {
		if at.container == asking.Container && at.network != z.network.cfg.ID {
			out = append(out, z.fabric.networks[at.network])
		}
	}
	slices.SortFunc(out[1:], func(a, b *virtual) int { return strings.Compare(a.cfg.ID, b.cfg.ID) })
	return out
}

// Addrs implements dns.Zone.
func (z zone) Addrs(client netip.Addr, name string) (addrs []netip.Addr, known bool) {
	z.fabric.mu.RLock()
	defer z.fabric.mu.RUnlock()
	networks := z.networksLocked(client)
	asking := z.fabric.byAddr[located{z.network.cfg.ID, client}]
	if asking != nil {
		name = cmp.Or(asking.Links[name], name)
	}
	for _, n := range networks {
		eps := n.byName[name]
		if len(eps) == 0 && n.cfg.Name != "" {
			if short, ok := strings.CutSuffix(name, "."+strings.ToLower(n.cfg.Name)); ok {
				eps = n.byName[short]
			}
		}
		for _, ep := range eps {
			known = true
			for _, a := range ep.Addrs {
				if !slices.Contains(addrs, a) {
					addrs = append(addrs, a)
				}
			}
		}
	}
	if !known && slices.Contains(hostNames, name) && (asking == nil || !asking.HostDeny) {
		for _, n := range networks {
			if n.cfg.HostAccess && !n.cfg.Internal {
				return n.cfg.Gateways, true
			}
		}
	}
	return addrs, known
}

// Name implements dns.Zone.
func (z zone) Name(client, addr netip.Addr) (name string, owned bool) {
	z.fabric.mu.RLock()
	defer z.fabric.mu.RUnlock()
	for _, n := range z.networksLocked(client) {
		ep := z.fabric.byAddr[located{n.cfg.ID, addr}]
		if ep == nil || len(ep.Names) == 0 {
			continue
		}
		name := canonical(ep.Names[0])
		if n.cfg.Name != "" {
			name += "." + strings.ToLower(n.cfg.Name)
		}
		return name, true
	}
	for _, n := range z.fabric.networks {
		if slices.ContainsFunc(n.cfg.Subnets, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			return "", true
		}
	}
	return "", false
}

// Forwards implements dns.Zone.
func (z zone) Forwards(client netip.Addr) bool {
	z.fabric.mu.RLock()
	defer z.fabric.mu.RUnlock()
	return slices.ContainsFunc(z.networksLocked(client), func(n *virtual) bool { return !n.cfg.Internal })
}
