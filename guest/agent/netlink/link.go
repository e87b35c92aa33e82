//go:build linux

package netlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const create = unix.NLM_F_CREATE | unix.NLM_F_EXCL | unix.NLM_F_ACK

// Up brings an interface of the namespace up.
func (c *Conn) Up(index int) error {
	m := newMessage(unix.RTM_NEWLINK, unix.NLM_F_ACK, ifinfo(index, unix.IFF_UP, unix.IFF_UP))
	return c.do(m)
}

// UpLoopback brings the loopback interface up, which is the first of each
// namespace.
func (c *Conn) UpLoopback() error { return c.Up(1) }

// VLAN is an interface to be made on a trunk.
type VLAN struct {
	ID     uint16
	Parent int      // index of the trunk, in the socket's namespace
	NS     *os.File // namespace to make it in
	Name   string   // there
	MAC    net.HardwareAddr
	MTU    int // 0: the trunk's
}

// AddVLAN makes the interface, not yet up.
func (c *Conn) AddVLAN(v VLAN) error {
	m := newMessage(unix.RTM_NEWLINK, create, ifinfo(0, 0, 0))
	m.text(unix.IFLA_IFNAME, v.Name)
	m.u32(unix.IFLA_LINK, uint32(v.Parent))
	m.u32(unix.IFLA_NET_NS_FD, uint32(v.NS.Fd()))
	if len(v.MAC) > 0 {
		m.attr(unix.IFLA_ADDRESS, v.MAC)
	}
	if v.MTU > 0 {
		m.u32(unix.IFLA_MTU, uint32(v.MTU))
	}
	m.nest(unix.IFLA_LINKINFO, func() {
		m.attr(unix.IFLA_INFO_KIND, []byte("vlan"))
		m.nest(unix.IFLA_INFO_DATA, func() {
			m.attr(unix.IFLA_VLAN_ID, binary.NativeEndian.AppendUint16(nil, v.ID))
		})
	})
	return c.do(m)
}

// Delete removes the interface called name.
func (c *Conn) Delete(name string) error {
	m := newMessage(unix.RTM_DELLINK, unix.NLM_F_ACK, ifinfo(0, 0, 0))
	m.text(unix.IFLA_IFNAME, name)
	return c.do(m)
}

// AddAddress gives an interface an address. An IPv6 one is used at once: the
// network has pinned it to this machine, so nobody else can have it.
func (c *Conn) AddAddress(index int, p netip.Prefix) error {
	a := p.Addr()
	fixed := []byte{family(a), byte(p.Bits()), 0, unix.RT_SCOPE_UNIVERSE}
	fixed = binary.NativeEndian.AppendUint32(fixed, uint32(index))
	m := newMessage(unix.RTM_NEWADDR, create, fixed)
	m.attr(unix.IFA_LOCAL, a.AsSlice())
	m.attr(unix.IFA_ADDRESS, a.AsSlice())
	if a.Is4() {
		m.attr(unix.IFA_BROADCAST, broadcast(p).AsSlice())
	} else {
		m.u32(unix.IFA_FLAGS, unix.IFA_F_NODAD)
	}
	return c.do(m)
}

func broadcast(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	host := ^uint32(0) >> p.Bits()
	if p.Bits() == 32 {
		host = 0
	}
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|host)
	return netip.AddrFrom4(b)
}

// AddDefault routes what has no other route by gateway.
func (c *Conn) AddDefault(index int, gateway netip.Addr) error {
	// A struct rtmsg: family, lengths of destination and source, tos, table,
	// protocol, scope, type, flags.
	fixed := []byte{
		family(gateway), 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST,
		0, 0, 0, 0,
	}
	m := newMessage(unix.RTM_NEWROUTE, create, fixed)
	m.attr(unix.RTA_GATEWAY, gateway.AsSlice())
	m.u32(unix.RTA_OIF, uint32(index))
	return c.do(m)
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// ifinfo is a struct ifinfomsg.
func ifinfo(index int, flags, change uint32) []byte {
	b := make([]byte, 0, 16)
	b = append(b, unix.AF_UNSPEC, 0, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = binary.NativeEndian.AppendUint32(b, flags)
	return binary.NativeEndian.AppendUint32(b, change)
}

// Index returns the number of an interface in the namespace ns.
func Index(ns *os.File, name string) (index int, err error) {
	err = In(ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		ifreq, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifreq); err != nil {
			return fmt.Errorf("interface %s: %w", name, err)
		}
		index = int(ifreq.Uint32())
		return nil
	})
	return index, err
}

// trunkName is what the machine's network card is called: a name that no
// container's interface has, because the kernel looks for a new interface's name
// here too.
const trunkName = "stack-trunk"

// Trunk finds the machine's network card in the agent's namespace, the interface
// that a device stands behind, and has it up under its own name. It is found
// once: a machine's card does not change.
var Trunk = sync.OnceValues(findTrunk)

func findTrunk() (index int, err error) {
	entries, err := os.ReadDir("/sys/class/net")
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if _, err := os.Stat("/sys/class/net/" + e.Name() + "/device"); err != nil {
			continue
		}
		if index, err = Index(nil, e.Name()); err != nil || e.Name() == trunkName {
			return index, err
		}
		c, err := Dial(nil, unix.NETLINK_ROUTE)
		if err != nil {
			return 0, err
		}
		defer c.Close()
		m := newMessage(unix.RTM_NEWLINK, unix.NLM_F_ACK, ifinfo(index, 0, 0))
		m.text(unix.IFLA_IFNAME, trunkName)
		if err := c.do(m); err != nil {
			return 0, fmt.Errorf("naming the network card: %w", err)
		}
		return index, c.Up(index)
	}
	return 0, errors.New("the machine has no network card")
}

// Sysctl sets kernel settings of the namespace ns; keys have slashes.
func Sysctl(ns *os.File, settings ...[2]string) error {
	return In(ns, func() error {
		for _, s := range settings {
			if err := os.WriteFile("/proc/sys/net/"+s[0], []byte(s[1]), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("setting net.%s: %w", strings.ReplaceAll(s[0], "/", "."), err)
			}
		}
		return nil
	})
}

// Traffic counts the bytes that the namespace ns received and sent, loopback
// left out.
func Traffic(ns *os.File) (rx, tx int64) {
	_ = In(ns, func() error {
		text, err := os.ReadFile("/proc/thread-self/net/dev")
		rx, tx = traffic(string(text))
		return err
	})
	return rx, tx
}

func traffic(dev string) (rx, tx int64) {
	for line := range strings.Lines(dev) {
		name, rest, ok := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		if !ok || strings.TrimSpace(name) == "lo" || len(fields) < 9 {
			continue
		}
		r, _ := strconv.ParseInt(fields[0], 10, 64)
		t, _ := strconv.ParseInt(fields[8], 10, 64)
		rx, tx = rx+r, tx+t
	}
	return rx, tx
}
