//go:build linux

package netlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// In runs f on a thread inside the network namespace ns, nil for the agent's
// own. Sockets that f opens belong to that namespace from then on.
func In(ns *os.File, f func() error) error {
	if ns == nil {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("entering the network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// Conn is a netlink socket.
type Conn struct {
	fd  int
	seq uint32
}

// Dial opens a socket of a netlink protocol in the namespace ns.
func Dial(ns *os.File, protocol int) (*Conn, error) {
	c := &Conn{fd: -1}
	err := In(ns, func() (err error) {
		c.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opening netlink: %w", err)
	}
	// The kernel answers within the system call that asks, so reads never wait.
	return c, nil
}

// Close closes the socket.
func (c *Conn) Close() error { return unix.Close(c.fd) }

// message is a netlink message being written. All numbers are the machine's own,
// but for those of nf_tables, which are big-endian.
type message []byte

// newMessage begins a message with a fixed header behind the general one.
func newMessage(kind, flags uint16, fixed []byte) message {
	m := make(message, unix.NLMSG_HDRLEN, 256)
	binary.NativeEndian.PutUint16(m[4:], kind)
	binary.NativeEndian.PutUint16(m[6:], flags|unix.NLM_F_REQUEST)
	return append(m, fixed...)
}

func (m *message) pad() {
	for len(*m)%unix.NLMSG_ALIGNTO != 0 {
		*m = append(*m, 0)
	}
}

// attr appends an attribute.
func (m *message) attr(kind uint16, value []byte) {
	m.pad()
	*m = binary.NativeEndian.AppendUint16(*m, uint16(4+len(value)))
	*m = binary.NativeEndian.AppendUint16(*m, kind)
	*m = append(*m, value...)
	m.pad()
}

func (m *message) text(kind uint16, s string) { m.attr(kind, append([]byte(s), 0)) }

func (m *message) u32(kind uint16, n uint32) {
	m.attr(kind, binary.NativeEndian.AppendUint32(nil, n))
}

func (m *message) be32(kind uint16, n uint32) {
	m.attr(kind, binary.BigEndian.AppendUint32(nil, n))
}

// nest appends an attribute of attributes.
func (m *message) nest(kind uint16, fill func()) {
	m.pad()
	at := len(*m)
	*m = append(*m, 0, 0, 0, 0)
	fill()
	binary.NativeEndian.PutUint16((*m)[at:], uint16(len(*m)-at))
	binary.NativeEndian.PutUint16((*m)[at+2:], kind|unix.NLA_F_NESTED)
}

// finish sets the length and the number.
func (m message) finish(seq uint32) {
	binary.NativeEndian.PutUint32(m, uint32(len(m)))
	binary.NativeEndian.PutUint32(m[8:], seq)
}

// do sends messages in one datagram and waits for the acknowledgement of each
// that asks for one. The first error is returned.
func (c *Conn) do(messages ...message) error {
	var out []byte
	waiting := make(map[uint32]bool)
	for _, m := range messages {
		c.seq++
		m.finish(c.seq)
		if binary.NativeEndian.Uint16(m[6:])&unix.NLM_F_ACK != 0 {
			waiting[c.seq] = true
		}
		out = append(out, m...)
		for len(out)%unix.NLMSG_ALIGNTO != 0 {
			out = append(out, 0)
		}
	}
	if err := unix.Sendto(c.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	var first error
	buf := make([]byte, 32<<10)
	for len(waiting) > 0 {
		n, _, err := unix.Recvfrom(c.fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return errors.Join(first, err)
		}
		for b := buf[:n]; len(b) >= unix.NLMSG_HDRLEN; {
			size := int(binary.NativeEndian.Uint32(b))
			if size < unix.NLMSG_HDRLEN || size > len(b) {
				return errors.Join(first, unix.EBADMSG)
			}
			kind, seq := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint32(b[8:])
			if kind == unix.NLMSG_ERROR && size >= unix.NLMSG_HDRLEN+4 {
				delete(waiting, seq)
				if code := int32(binary.NativeEndian.Uint32(b[unix.NLMSG_HDRLEN:])); code != 0 {
					if first == nil {
						first = unix.Errno(-code)
					}
					// A batch that failed is answered once, as a whole or in part.
					return first
				}
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
	return first
}
