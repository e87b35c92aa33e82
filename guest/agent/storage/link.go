//go:build linux

package storage

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/stackvm/stack/guest/agent/netlink"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// linkName is what the storage network's interface is called, in the agent's
// namespace.
const linkName = "stack-storage"

// link is the machine's place on the storage network. Its owner guards it.
type link struct{ is *wire.Interface }

// up makes the interface, once.
func (l *link) up(i *wire.Interface) error {
	if l.is != nil {
		return nil
	}
	if err := makeLink(i); err != nil {
		return fmt.Errorf("connecting the storage network: %w", err)
	}
	l.is = i
	return nil
}

func makeLink(i *wire.Interface) (err error) {
	mac, err := net.ParseMAC(i.MAC)
	if err != nil {
		return err
	}
	addrs, err := prefixes(i)
	if err != nil {
		return err
	}
	trunk, err := netlink.Trunk()
	if err != nil {
		return err
	}
	// Not the process's: its first thread may have been left in a container's.
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer own.Close()
	conn, err := netlink.Dial(nil, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.AddVLAN(netlink.VLAN{ID: i.VLAN, Parent: trunk, NS: own, Name: linkName, MAC: mac, MTU: i.MTU}); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, conn.Delete(linkName))
		}
	}()
	index, err := netlink.Index(nil, linkName)
	if err != nil {
		return err
	}
	if err := netlink.Sysctl(nil, [2]string{"ipv6/conf/" + linkName + "/disable_ipv6", "1"}); err != nil {
		return err
	}
	if err := conn.Up(index); err != nil {
		return err
	}
	for _, a := range addrs {
		if err := conn.AddAddress(index, a); err != nil {
			return fmt.Errorf("address %s: %w", a, err)
		}
	}
	return nil
}

func prefixes(i *wire.Interface) ([]netip.Prefix, error) {
	var addrs []netip.Prefix
	for _, s := range i.Addrs {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, p)
	}
	if len(addrs) == 0 {
		return nil, errors.New("no address")
	}
	return addrs, nil
}
