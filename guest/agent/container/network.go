//go:build linux

package container

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/stackvm/stack/guest/agent/dnsstub"
	"github.com/stackvm/stack/guest/agent/netlink"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// network sets up the namespace that the container has of its own.
func (c *Container) network() error {
	if c.spec.JoinNetwork != "" {
		return nil
	}
	conn, err := netlink.Dial(c.net, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	err = conn.UpLoopback()
	conn.Close()
	if err != nil {
		return fmt.Errorf("bringing the loopback up: %w", err)
	}
	// As docker sets them in each namespace.
	if err := netlink.Sysctl(c.net, [2]string{"ipv4/ip_unprivileged_port_start", "0"}, [2]string{"ipv4/ping_group_range", "0 2147483647"}); err != nil {
		return err
	}
	c.do(c.unplugAll)
	for _, i := range c.spec.Interfaces {
		if err := c.plug(i); err != nil {
			return err
		}
	}
	if len(c.spec.Interfaces) > 0 {
		return c.resolve()
	}
	return nil
}

// plug is an interface of the container being connected.
type plug struct {
	wire.Interface
	name string
}

// plug makes an interface: a VLAN on the machine's trunk, in the container's
// namespace.
func (c *Container) plug(i wire.Interface) (err error) {
	fault := func(err error) error { return fmt.Errorf("connecting VLAN %d: %w", i.VLAN, err) }
	for _, p := range c.plugs {
		if p.VLAN == i.VLAN {
			return fault(&wire.Error{Code: wire.CodeConflict, Message: "connected already"})
		}
	}
	p := plug{Interface: i, name: i.Name}
	if p.name == "" {
		p.name = c.freeName()
	}
	mac, err := net.ParseMAC(i.MAC)
	if err != nil {
		return fault(err)
	}
	addrs, gateways, err := parseAddrs(i)
	if err != nil {
		return fault(err)
	}
	trunk, err := netlink.Trunk()
	if err != nil {
		return fault(err)
	}
	ours, err := netlink.Dial(nil, unix.NETLINK_ROUTE)
	if err != nil {
		return fault(err)
	}
	defer ours.Close()
	if err := ours.AddVLAN(netlink.VLAN{ID: i.VLAN, Parent: trunk, NS: c.net, Name: p.name, MAC: mac, MTU: i.MTU}); err != nil {
		return fault(err)
	}
	theirs, err := netlink.Dial(c.net, unix.NETLINK_ROUTE)
	if err != nil {
		return fault(err)
	}
	defer theirs.Close()
	defer func() {
		if err != nil {
			_ = theirs.Delete(p.name)
		}
	}()
	index, err := netlink.Index(c.net, p.name)
	if err != nil {
		return fault(err)
	}
	if err := netlink.Sysctl(c.net, ipv6Settings(p.name, addrs)...); err != nil {
		return fault(err)
	}
	if err := netlink.In(c.net, func() error { return interfaceSettings(p.name, i.Sysctls) }); err != nil {
		return fault(err)
	}
	if err := theirs.Up(index); err != nil {
		return fault(err)
	}
	for _, a := range addrs {
		if err := theirs.AddAddress(index, a); err != nil {
			return fault(fmt.Errorf("address %s: %w", a, err))
		}
	}
	for _, g := range gateways {
		if err := theirs.AddDefault(index, g); err != nil {
			return fault(fmt.Errorf("gateway %s: %w", g, err))
		}
	}
	c.plugs = append(c.plugs, p)
	return nil
}

// ipv6Settings switch IPv6 off on an interface whose network has none, as docker
// does, and on the others what would look for routers and duplicates.
func ipv6Settings(name string, addrs []netip.Prefix) [][2]string {
	dir := "ipv6/conf/" + name + "/"
	for _, a := range addrs {
		if a.Addr().Is6() {
			return [][2]string{{dir + "accept_dad", "0"}, {dir + "accept_ra", "0"}}
		}
	}
	return [][2]string{{dir + "disable_ipv6", "1"}}
}

// interfaceSettings sets what is asked for of an interface, as net.ipv4.conf.IFNAME.x.
func interfaceSettings(name string, asked map[string]string) error {
	for key, value := range asked {
		path := strings.Replace(strings.ReplaceAll(key, ".", "/"), "IFNAME", name, 1)
		if !strings.HasPrefix(path, "net/") || strings.Contains(key, "/") {
			return &wire.Error{Code: wire.CodeInvalid, Message: fmt.Sprintf("sysctl %q: no setting of an interface", key)}
		}
		if err := os.WriteFile("/proc/sys/"+path, []byte(value), 0); err != nil {
			return fmt.Errorf("setting sysctl %s to %q: %w", key, value, err)
		}
	}
	return nil
}

func parseAddrs(i wire.Interface) (addrs []netip.Prefix, gateways []netip.Addr, err error) {
	for _, s := range i.Addrs {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, nil, err
		}
		addrs = append(addrs, p)
	}
	for _, s := range i.Gateways {
		g, err := netip.ParseAddr(s)
		if err != nil {
			return nil, nil, err
		}
		gateways = append(gateways, g)
	}
	return addrs, gateways, nil
}

// freeName is the first ethN that no interface has.
func (c *Container) freeName() string {
next:
	for n := 0; ; n++ {
		name := "eth" + strconv.Itoa(n)
		for _, p := range c.plugs {
			if p.name == name {
				continue next
			}
		}
		return name
	}
}

// unplug removes the interface on a VLAN. The container may have renamed or
// removed it; then there is nothing to remove.
func (c *Container) unplug(vlan uint16) error {
	for n, p := range c.plugs {
		if p.VLAN != vlan {
			continue
		}
		conn, err := netlink.Dial(c.net, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.Delete(p.name); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("disconnecting VLAN %d: %w", vlan, err)
		}
		c.plugs = append(c.plugs[:n], c.plugs[n+1:]...)
		return nil
	}
	return &wire.Error{Code: wire.CodeNotFound, Message: fmt.Sprintf("VLAN %d is not connected", vlan)}
}

// unplugAll removes every interface at once; with the namespace alone they would
// go some time later, and their VLANs could not be used again until then.
func (c *Container) unplugAll() error {
	var errs []error
	for len(c.plugs) > 0 {
		vlan := c.plugs[0].VLAN
		if err := c.unplug(vlan); err != nil {
			errs = append(errs, err)
			c.plugs = c.plugs[1:]
		}
	}
	return errors.Join(errs...)
}

// resolve starts the DNS stub.
func (c *Container) resolve() error {
	var servers []netip.Addr
	for _, s := range c.spec.DNS.Servers {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return fmt.Errorf("DNS server: %w", err)
		}
		servers = append(servers, a)
	}
	stub, err := dnsstub.New(c.net, servers)
	if err != nil {
		return err
	}
	c.stub = stub
	c.do(stub.Close)
	c.updateResolvers()
	return nil
}

func (c *Container) updateResolvers() {
	if c.stub == nil {
		return
	}
	var resolvers []netip.Addr
	seen := make(map[netip.Addr]bool)
	for _, p := range c.plugs {
		if a, err := netip.ParseAddr(p.Resolver); err == nil && !seen[a] {
			seen[a] = true
			resolvers = append(resolvers, a)
		}
	}
	c.stub.SetResolvers(resolvers)
}

// Connect adds an interface to the container, running or not.
func (c *Container) Connect(i wire.Interface) error {
	c.changing.Lock()
	defer c.changing.Unlock()
	if c.spec.JoinNetwork != "" {
		return &wire.Error{Code: wire.CodeConflict, Message: fmt.Sprintf("container %s shares another's network", c.spec.Name)}
	}
	if err := c.plug(i); err != nil {
		return err
	}
	if c.stub == nil {
		if err := c.resolve(); err != nil {
			return errors.Join(err, c.unplug(i.VLAN))
		}
	}
	c.updateResolvers()
	if len(c.plugs) > 1 {
		return c.rewriteEtc("hosts") // what the container wrote into resolv.conf stays
	}
	return c.rewriteEtc("hosts", "resolv.conf")
}

// Disconnect removes the interface on a VLAN.
func (c *Container) Disconnect(vlan uint16) error {
	c.changing.Lock()
	defer c.changing.Unlock()
	if err := c.unplug(vlan); err != nil {
		return err
	}
	c.updateResolvers()
	return c.rewriteEtc("hosts")
}
