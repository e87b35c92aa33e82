//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// frameMark stands before a frame's name, frameEnd behind it.
const (
	frameMark = "frame:"
	frameEnd  = ';'
)

// packetSocket is a raw socket on an interface, without regard to its addresses.
func packetSocket(dev *net.Interface) (*os.File, error) {
	protocol := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(protocol))
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: dev.Index}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return os.NewFile(uintptr(fd), dev.Name), nil
}

// spoof sends one frame to everyone on a network, as somebody else.
func spoof(_ context.Context, args []string) error {
	flags := newFlags("spoof")
	on := flags.String("if", "eth0", "interface")
	mac := flags.String("mac", "", "source MAC, instead of the interface's")
	ip := flags.String("ip", "", "source IPv4 address, instead of the interface's")
	vlan := flags.Uint("vlan", 0, "tag with this VLAN")
	arp := flags.Bool("arp", false, "an ARP reply that claims the address")
	if err := parse(flags, args, 1, 1); err != nil {
		return err
	}
	dev, err := net.InterfaceByName(*on)
	if err != nil {
		return err
	}
	source, addr := dev.HardwareAddr, netip.Addr{}
	addrs, err := dev.Addrs()
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			addr = p.Addr()
		}
	}
	if *mac != "" {
		if source, err = net.ParseMAC(*mac); err != nil {
			return err
		}
	}
	if *ip != "" {
		if addr, err = netip.ParseAddr(*ip); err != nil {
			return err
		}
	}
	if !addr.Is4() {
		return fmt.Errorf("%s has no IPv4 address", *on)
	}
	s, err := packetSocket(dev)
	if err != nil {
		return err
	}
	_, err = s.Write(frame(source, addr, uint16(*vlan), *arp, flags.Arg(0)))
	return errors.Join(err, s.Close())
}

// frame is a broadcast with a name in it: an IPv4 packet of the protocol number
// for experiments (RFC 3692), or an ARP reply.
func frame(source net.HardwareAddr, addr netip.Addr, vlan uint16, arp bool, name string) []byte {
	b := slices.Concat(bytes.Repeat([]byte{0xff}, 6), source)
	if vlan != 0 {
		b = binary.BigEndian.AppendUint16(b, unix.ETH_P_8021Q)
		b = binary.BigEndian.AppendUint16(b, vlan)
	}
	ip := addr.As4()
	content := frameMark + name + string(rune(frameEnd))
	if arp {
		b = binary.BigEndian.AppendUint16(b, unix.ETH_P_ARP)
		b = append(b, 0, 1, 8, 0, 6, 4, 0, 2)
		b = slices.Concat(b, source, ip[:], bytes.Repeat([]byte{0xff}, 6), ip[:])
	} else {
		b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)
		h := [20]byte{0: 0x45, 8: 64, 9: 253} // its checksum is read by nobody here
		binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(content)))
		copy(h[12:], ip[:])
		copy(h[16:], []byte{255, 255, 255, 255})
		b = append(b, h[:]...)
	}
	return append(b, content...)
}

// frames prints interface and name of every such frame that arrives, until one
// has the name end.
func frames(ctx context.Context, args []string) error {
	flags := newFlags("frames")
	if err := parse(flags, args, 0, 0); err != nil {
		return err
	}
	devs, err := net.Interfaces()
	if err != nil {
		return err
	}
	ended := make(chan error, len(devs)) // one goroutine for each; they end with the process
	for _, dev := range devs {
		if dev.Flags&net.FlagLoopback != 0 {
			continue
		}
		s, err := packetSocket(&dev)
		if err != nil {
			return err
		}
		go func() { ended <- printFrames(s) }()
	}
	fmt.Println("listening")
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return nil
	}
}

func printFrames(s *os.File) error {
	buf := make([]byte, 1<<16)
	for {
		n, err := s.Read(buf)
		if err != nil {
			return err
		}
		name, ok := frameName(buf[:n])
		if !ok {
			continue
		}
		if name == "end" {
			return nil
		}
		fmt.Println(s.Name(), name)
	}
}

func frameName(b []byte) (name string, ok bool) {
	_, b, ok = bytes.Cut(b, []byte(frameMark))
	if !ok {
		return "", false
	}
	b, _, ok = bytes.Cut(b, []byte{frameEnd})
	return string(b), ok
}
