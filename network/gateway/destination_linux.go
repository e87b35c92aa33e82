package gateway

import (
	"errors"
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// controlLen has room for the control message of either family.
var controlLen = unix.CmsgSpace(unix.SizeofInet4Pktinfo) + unix.CmsgSpace(unix.SizeofInet6Pktinfo)

// askDestination makes the kernel tell, with each datagram, which address of
// the host it came to: a socket on all addresses would answer from another one
// on a host with several.
func askDestination(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var v4, v6 error
	err = raw.Control(func(fd uintptr) {
		v4 = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		v6 = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	})
	if err != nil {
		return err
	}
	if v4 != nil && v6 != nil { // one of them is the other family's option
		return errors.Join(v4, v6)
	}
	return nil
}

// destinationOf turns the control message of a received datagram into one that
// makes an answer leave from the same address.
func destinationOf(oob []byte) []byte {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			got := (*unix.Inet4Pktinfo)(unsafe.Pointer(&m.Data[0]))
			// The address the datagram was sent to, unless it was a broadcast;
			// the interface is left to the host's routes.
			return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: got.Spec_dst})
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			got := *(*unix.Inet6Pktinfo)(unsafe.Pointer(&m.Data[0]))
			if a := got.Addr; a[0] != 0xfe || a[1]&0xc0 != 0x80 {
				got.Ifindex = 0 // only a link-local address needs it
			}
			return unix.PktInfo6(&got)
		}
	}
	return nil
}
