//go:build unix

package gateway

import (
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// dialPing opens an unprivileged ICMP socket to one address. Linux allows it
// to the groups in net.ipv4.ping_group_range, macOS to everyone.
func dialPing(to netip.Addr) (net.Conn, error) {
	family, proto := unix.AF_INET6, unix.IPPROTO_ICMPV6
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: to.As16()}
	if to.Is4() {
		family, proto = unix.AF_INET, unix.IPPROTO_ICMP
		sa = &unix.SockaddrInet4{Addr: to.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM, proto)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	unix.CloseOnExec(fd)
	file := os.NewFile(uintptr(fd), "ping")
	defer file.Close()
	if err := unix.Connect(fd, sa); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	return net.FileConn(file) // duplicates
}
