package ipam

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// Network is the addresses of one network. It is not safe for concurrent use.
type Network struct {
	name    string
	subnets []Subnet
	leases  map[netip.Addr]string // address to holder
}

// Subnet is one subnet of a network; all of a network are disjoint.
type Subnet struct {
	Prefix  netip.Prefix          `json:"subnet"`
	Range   netip.Prefix          `json:"range,omitzero"` // dynamic addresses come from here; zero is all of Prefix
	Gateway netip.Addr            `json:"gateway"`
	Aux     map[string]netip.Addr `json:"aux,omitempty"` // addresses never leased, each with what it is for
}

// Lease is one address held by one holder, as long as it does not release it.
type Lease struct {
	Addr   netip.Addr `json:"addr"`
	Holder string     `json:"holder"`
}

// State is all there is to know of a Network, ordered by address.
type State struct {
	Name    string   `json:"name"`
	Subnets []Subnet `json:"subnets"`
	Leases  []Lease  `json:"leases,omitempty"`
}

// ErrExhausted is returned when a network has no free address left.
var ErrExhausted = errors.New("no free address")

// New makes a network without leases. name is what errors call it.
func New(name string, subnets []Subnet) (*Network, error) {
	return Restore(State{Name: name, Subnets: subnets})
}

// Restore makes a network as it was when State was called.
func Restore(s State) (*Network, error) {
	if err := validate(s.Subnets); err != nil {
		return nil, fmt.Errorf("network %q: %w", s.Name, err)
	}
	n := &Network{name: s.Name, leases: make(map[netip.Addr]string)}
	for _, sub := range s.Subnets {
		sub.Aux = maps.Clone(sub.Aux)
		n.subnets = append(n.subnets, sub)
	}
	for _, l := range s.Leases {
		if err := n.available(l.Holder, l.Addr); err != nil {
			return nil, fmt.Errorf("network %q: lease of %q: %w", s.Name, l.Holder, err)
		}
		n.leases[l.Addr] = l.Holder
	}
	return n, nil
}

// State is the network as data of its own.
func (n *Network) State() State {
	s := State{Name: n.name}
	for _, sub := range n.subnets {
		sub.Aux = maps.Clone(sub.Aux)
		s.Subnets = append(s.Subnets, sub)
	}
	for a, holder := range n.leases {
		s.Leases = append(s.Leases, Lease{Addr: a, Holder: holder})
	}
	slices.SortFunc(s.Leases, func(a, b Lease) int { return a.Addr.Compare(b.Addr) })
	return s
}

// Gateways are the gateway addresses, one a subnet.
func (n *Network) Gateways() []netip.Addr {
	var out []netip.Addr
	for _, s := range n.subnets {
		out = append(out, s.Gateway)
	}
	return out
}

// Lease gives holder one address of each family the network has: the static
// one where there is one of the family, or else what it holds already, or else
// the lowest free one, as docker does: a recreated container finds its old
// address again. Several subnets of a family are used in their order. On error
// nothing changes.
func (n *Network) Lease(holder string, static ...netip.Addr) ([]netip.Addr, error) {
	var got []netip.Addr
	for _, is4 := range []bool{true, false} {
		if !slices.ContainsFunc(n.subnets, func(s Subnet) bool { return s.Prefix.Addr().Is4() == is4 }) {
			continue
		}
		a, err := n.pick(holder, is4, static)
		if err != nil {
			return nil, fmt.Errorf("network %q: address for %q: %w", n.name, holder, err)
		}
		got = append(got, a)
	}
	for _, a := range static {
		if !slices.Contains(got, a) {
			return nil, fmt.Errorf("network %q: address for %q: %s is in none of its subnets, or a second one of its family", n.name, holder, a)
		}
	}
	n.set(holder, got)
	return got, nil
}

// Reserve holds addresses, static ones, for a holder that has none yet, before
// others can be leased them. Lease then completes it. On error nothing changes.
func (n *Network) Reserve(holder string, addrs ...netip.Addr) error {
	for i, a := range addrs {
		if slices.ContainsFunc(addrs[:i], func(b netip.Addr) bool { return a.Is4() == b.Is4() }) {
			return fmt.Errorf("network %q: address %s for %q: a second one of its family", n.name, a, holder)
		}
		if err := n.available(holder, a); err != nil {
			return fmt.Errorf("network %q: address for %q: %w", n.name, holder, err)
		}
	}
	for _, a := range n.Held(holder) { // of a family not reserved now: keep
		if !slices.ContainsFunc(addrs, func(b netip.Addr) bool { return a.Is4() == b.Is4() }) {
			addrs = append(slices.Clone(addrs), a)
		}
	}
	n.set(holder, addrs)
	return nil
}

// Release frees what holder holds, if anything.
func (n *Network) Release(holder string) {
	n.set(holder, nil)
}

// Held are the addresses of holder, IPv4 first.
func (n *Network) Held(holder string) []netip.Addr {
	var out []netip.Addr
	for a, h := range n.leases {
		if h == holder {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

func (n *Network) set(holder string, addrs []netip.Addr) {
	maps.DeleteFunc(n.leases, func(_ netip.Addr, h string) bool { return h == holder })
	for _, a := range addrs {
		n.leases[a] = holder
	}
}

func (n *Network) pick(holder string, is4 bool, static []netip.Addr) (netip.Addr, error) {
	for _, a := range static {
		if a.Is4() == is4 {
			return a, n.available(holder, a)
		}
	}
	for _, a := range n.Held(holder) {
		if a.Is4() == is4 {
			return a, nil
		}
	}
	var tried []netip.Prefix
	for _, s := range n.subnets {
		if s.Prefix.Addr().Is4() != is4 {
			continue
		}
		if a, ok := n.lowest(s); ok {
			return a, nil
		}
		tried = append(tried, cmp.Or(s.Range, s.Prefix))
	}
	return netip.Addr{}, fmt.Errorf("%w in %v, all %d are leased or reserved: give the network a larger subnet or ip_range",
		ErrExhausted, tried, n.count(tried))
}

// lowest walks from the start of the range: at most one step for each address
// that is taken, and a few for those that nobody may have.
func (n *Network) lowest(s Subnet) (netip.Addr, bool) {
	r := cmp.Or(s.Range, s.Prefix)
	for a := r.Addr(); r.Contains(a); a = a.Next() {
		if _, taken := n.leases[a]; !taken && s.reserved(a) == "" {
			return a, true
		}
	}
	return netip.Addr{}, false
}

func (n *Network) count(in []netip.Prefix) int {
	k := 0
	for a := range n.leases {
		if slices.ContainsFunc(in, func(p netip.Prefix) bool { return p.Contains(a) }) {
			k++
		}
	}
	return k
}

// available tells why holder cannot have a.
func (n *Network) available(holder string, a netip.Addr) error {
	i := slices.IndexFunc(n.subnets, func(s Subnet) bool { return s.Prefix.Contains(a) })
	if i < 0 {
		var all []netip.Prefix
		for _, s := range n.subnets {
			all = append(all, s.Prefix)
		}
		return fmt.Errorf("%s is not in %v", a, all)
	}
	if why := n.subnets[i].reserved(a); why != "" {
		return fmt.Errorf("%s is %s", a, why)
	}
	if h, taken := n.leases[a]; taken && h != holder {
		return fmt.Errorf("%s is held by %q", a, h)
	}
	return nil
}

// reserved says what an address of the subnet is, that is nobody's to lease.
func (s Subnet) reserved(a netip.Addr) string {
	switch {
	case a == s.Gateway:
		return "the gateway"
	case a == s.Prefix.Addr() && hasNetworkAddress(s.Prefix):
		return "the network's own address"
	case a.Is4() && hasNetworkAddress(s.Prefix) && a == last(s.Prefix):
		return "the broadcast address"
	}
	for _, name := range slices.Sorted(maps.Keys(s.Aux)) {
		if a == s.Aux[name] {
			return fmt.Sprintf("reserved as aux_address %q", name)
		}
	}
	return ""
}

// hasNetworkAddress is false for the two-address links of RFC 3021 and 6164.
func hasNetworkAddress(p netip.Prefix) bool { return p.Addr().BitLen()-p.Bits() >= 2 }

func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
