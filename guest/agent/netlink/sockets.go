//go:build linux

package netlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Socket is one that takes what arrives at a port: a TCP socket that listens, or
// a UDP socket without a peer.
type Socket struct {
	UDP    bool
	Addr   netip.AddrPort // of the kernel's own family: ::ffff:… is unmapped
	V6Only bool           // of an IPv6 socket: not of both families
}

// Of the kernel's linux/inet_diag.h and net/tcp_states.h.
const (
	diagRequestLen = 56
	diagMessageLen = 72
	diagV6Only     = 11 // INET_DIAG_SKV6ONLY
	stateClosed    = 7
	stateListening = 10
)

// maxSockets bounds one look: the container decides how many there are.
const maxSockets = 4096

// Sockets lists those of the namespace ns, the first few thousand, and counts the
// others.
func Sockets(ns *os.File) (all []Socket, more int, err error) {
	c, err := Dial(ns, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, 0, err
	}
	defer c.Close()
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		for _, protocol := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			state := uint32(1 << stateListening)
			if protocol == unix.IPPROTO_UDP {
				state = 1 << stateClosed
			}
			fixed := make([]byte, diagRequestLen)
			fixed[0], fixed[1] = family, protocol
			binary.NativeEndian.PutUint32(fixed[4:], state)
			err := c.dump(newMessage(unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP, fixed), func(body []byte) {
				if s, ok := parseSocket(body); ok && len(all) < maxSockets {
					s.UDP = protocol == unix.IPPROTO_UDP
					all = append(all, s)
				} else if ok {
					more++
				}
			})
			if err != nil && !errors.Is(err, unix.ENOENT) { // without IPv6 there are none
				return nil, 0, fmt.Errorf("listing sockets: %w", err)
			}
		}
	}
	return all, more, nil
}

// parseSocket reads a struct inet_diag_msg and the attributes behind it.
func parseSocket(b []byte) (Socket, bool) {
	if len(b) < diagMessageLen {
		return Socket{}, false
	}
	var s Socket
	port := binary.BigEndian.Uint16(b[4:])
	switch b[0] {
	case unix.AF_INET:
		s.Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[8:12])), port)
	case unix.AF_INET6:
		s.Addr = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])).Unmap(), port)
	default:
		return Socket{}, false
	}
	for b = b[diagMessageLen:]; len(b) >= 4; {
		size := int(binary.NativeEndian.Uint16(b))
		if size < 4 || size > len(b) {
			break
		}
		if binary.NativeEndian.Uint16(b[2:]) == diagV6Only && size > 4 {
			s.V6Only = b[4] != 0
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return s, port != 0
}

// dump sends a request and hands over the body of each message of the answer.
func (c *Conn) dump(m message, each func(body []byte)) error {
	c.seq++
	m.finish(c.seq)
	if err := unix.Sendto(c.fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 32<<10)
	for {
		n, _, err := unix.Recvfrom(c.fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		for b := buf[:n]; len(b) >= unix.NLMSG_HDRLEN; {
			size := int(binary.NativeEndian.Uint32(b))
			if size < unix.NLMSG_HDRLEN || size > len(b) {
				return unix.EBADMSG
			}
			body := b[unix.NLMSG_HDRLEN:size]
			switch binary.NativeEndian.Uint16(b[4:]) {
			case unix.NLMSG_DONE:
				return nil
			case unix.NLMSG_ERROR:
				if len(body) < 4 {
					return unix.EBADMSG
				}
				return unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
			default:
				each(body)
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
}

// Ends tells when sockets of a namespace that had no peer are gone.
type Ends struct{ file *os.File }

// The groups of TCP and UDP sockets destroyed, of both families: numbers 1 to 4
// of the kernel's linux/sock_diag.h.
const destroyGroups = 0b1111

// WatchEnds begins to watch the namespace ns.
func WatchEnds(ns *os.File) (*Ends, error) {
	c, err := Dial(ns, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*Ends, error) {
		c.Close()
		return nil, fmt.Errorf("watching for sockets' ends: %w", err)
	}
	// Of a busy server's sockets nearly all are connections: those have a peer's
	// port, at 6 in the struct inet_diag_msg.
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: unix.NLMSG_HDRLEN + 6},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K},
		{Code: unix.BPF_RET | unix.BPF_K, K: ^uint32(0)},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(c.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
		return fail(err)
	}
	if err := unix.Bind(c.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: destroyGroups}); err != nil {
		return fail(err)
	}
	if err := unix.SetNonblock(c.fd, true); err != nil {
		return fail(err)
	}
	return &Ends{os.NewFile(uintptr(c.fd), "sock_diag")}, nil
}

// Wait returns once a socket is gone, or many: it is not told which.
func (e *Ends) Wait() error {
	_, err := e.file.Read(make([]byte, 4096))
	if errors.Is(err, unix.ENOBUFS) {
		return nil // so many that some were not told of
	}
	return err
}

// Close ends a Wait, and the watching.
func (e *Ends) Close() error { return e.file.Close() }
