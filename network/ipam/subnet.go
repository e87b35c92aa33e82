package ipam

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// Request is what a network asks for: the ipam part of a compose network.
type Request struct {
	Network string // identity, from which an IPv6 subnet is derived
	Name    string // what errors call it
	NoIPv4  bool   // enable_ipv4: false
	IPv6    bool   // enable_ipv6: true
	Config  []Config
}

// Config is one entry of ipam.config; zero fields are not given.
type Config struct {
	Subnet  netip.Prefix
	Range   netip.Prefix
	Gateway netip.Addr
	Aux     map[string]netip.Addr
}

// pool is a prefix cut into subnets of size bits, used in order.
type pool struct {
	prefix netip.Prefix
	bits   int
}

// The first two are docker's default-address-pools, which people know from
// their logs and allow-lists. The third takes over where docker gives up after
// 31 networks; an address in it is out of reach only for machines on that very
// network, so a clash costs little.
var pools = []pool{
	{netip.MustParsePrefix("172.17.0.0/16"), 16}, // 172.16.0.0/16 is not docker's: hence not one /12
	{netip.MustParsePrefix("172.18.0.0/15"), 16},
	{netip.MustParsePrefix("172.20.0.0/14"), 16},
	{netip.MustParsePrefix("172.24.0.0/13"), 16},
	{netip.MustParsePrefix("192.168.0.0/16"), 20},
	{netip.MustParsePrefix("10.192.0.0/10"), 24},
}

// Subnets completes a request: the subnets it names, with gateways, and where
// it names none of a family it wants, one that overlaps none of taken.
func Subnets(r Request, taken []netip.Prefix) ([]Subnet, error) {
	var out []Subnet
	have4, have6 := r.NoIPv4, !r.IPv6
	for _, c := range r.Config {
		if !c.Subnet.IsValid() {
			if c.Range.IsValid() || c.Gateway.IsValid() || len(c.Aux) > 0 {
				return nil, fmt.Errorf("network %q: ip_range, gateway and aux_addresses need the subnet they are part of", r.Name)
			}
			continue
		}
		if c.Subnet.Addr().Is4() {
			if r.NoIPv4 {
				return nil, fmt.Errorf("network %q: subnet %s: IPv4 is disabled for the network", r.Name, c.Subnet)
			}
			have4 = true
		} else {
			have6 = true // docker enables IPv6 for enable_ipv6 only; a subnet asks plainly enough
		}
		out = append(out, complete(c))
	}
	if !have4 {
		p, ok := free4(taken, out)
		if !ok {
			return nil, fmt.Errorf("network %q: no free default subnet: name one in ipam.config", r.Name)
		}
		out = append(out, complete(Config{Subnet: p}))
	}
	if !have6 {
		out = append(out, complete(Config{Subnet: unique6(r.Network, taken, out)}))
	}
	if err := validate(out); err != nil {
		return nil, fmt.Errorf("network %q: %w", r.Name, err)
	}
	return out, nil
}

// complete gives a subnet its gateway: the first usable address that is not
// put aside.
func complete(c Config) Subnet {
	s := Subnet{Prefix: c.Subnet, Range: c.Range, Gateway: c.Gateway, Aux: maps.Clone(c.Aux)}
	if s.Gateway.IsValid() {
		return s
	}
	for a := s.Prefix.Masked().Addr(); s.Prefix.Contains(a); a = a.Next() {
		if s.reserved(a) == "" {
			s.Gateway = a
			break
		}
	}
	return s
}

func free4(taken []netip.Prefix, also []Subnet) (netip.Prefix, bool) {
	for _, p := range pools {
		for a := p.prefix.Addr(); p.prefix.Contains(a); {
			sub := netip.PrefixFrom(a, p.bits)
			if !overlaps(sub, taken, also) {
				return sub, true
			}
			if a = last(sub).Next(); !a.IsValid() {
				break
			}
		}
	}
	return netip.Prefix{}, false
}

// unique6 is a subnet in the unique local range with an identifier derived
// from the network's (RFC 4193), so it is the same whenever it is asked for.
func unique6(network string, taken []netip.Prefix, also []Subnet) netip.Prefix {
	for n := uint32(0); ; n++ { // 2^40 identifiers: ends
		h := sha256.Sum256(binary.BigEndian.AppendUint32([]byte("ipv6 subnet\x00"+network+"\x00"), n))
		b := [16]byte{0: 0xfd}
		copy(b[1:6], h[:])
		if p := netip.PrefixFrom(netip.AddrFrom16(b), 64); !overlaps(p, taken, also) {
			return p
		}
	}
}

func overlaps(p netip.Prefix, taken []netip.Prefix, also []Subnet) bool {
	return slices.ContainsFunc(taken, p.Overlaps) ||
		slices.ContainsFunc(also, func(s Subnet) bool { return p.Overlaps(s.Prefix) })
}

// validate tells what is wrong with the subnets of one network.
func validate(subnets []Subnet) error {
	if len(subnets) == 0 {
		return errors.New("neither IPv4 nor IPv6 is enabled")
	}
	for i, s := range subnets {
		p := s.Prefix
		switch {
		case !p.IsValid():
			return errors.New("a subnet is missing")
		case p.Addr().Is4In6():
			return fmt.Errorf("subnet %s: an IPv4 subnet in IPv6 spelling", p)
		case p != p.Masked():
			return fmt.Errorf("subnet %s: it should be %s", p, p.Masked())
		case p.Addr().IsLoopback() || p.Addr().IsMulticast() || p.Addr().IsLinkLocalUnicast():
			return fmt.Errorf("subnet %s: not a range for hosts", p)
		case p.Addr().Is4() && p.Bits() < 8 || p.Bits() == 0:
			return fmt.Errorf("subnet %s: too large", p)
		case s.Range.IsValid() && (s.Range != s.Range.Masked() || !p.Contains(s.Range.Addr()) || s.Range.Bits() < p.Bits()):
			return fmt.Errorf("ip_range %s: not a part of subnet %s", s.Range, p)
		case !s.Gateway.IsValid():
			return fmt.Errorf("subnet %s: no address is left for the gateway", p)
		case !p.Contains(s.Gateway):
			return fmt.Errorf("gateway %s: not in subnet %s", s.Gateway, p)
		}
		without := s
		without.Gateway = netip.Addr{}
		if why := without.reserved(s.Gateway); why != "" {
			return fmt.Errorf("gateway %s of subnet %s: it is %s", s.Gateway, p, why)
		}
		for _, name := range slices.Sorted(maps.Keys(s.Aux)) {
			if !p.Contains(s.Aux[name]) {
				return fmt.Errorf("aux_address %q: %s is not in subnet %s", name, s.Aux[name], p)
			}
		}
		for _, t := range subnets[:i] {
			if t.Prefix.Overlaps(p) {
				return fmt.Errorf("subnet %s: overlaps %s", p, t.Prefix)
			}
		}
	}
	return nil
}
