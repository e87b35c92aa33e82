//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

func lookup(ctx context.Context, args []string) error {
	flags := newFlags("lookup")
	server := flags.String("server", "", "address of the server to ask, instead of those of resolv.conf")
	if err := parse(flags, args, 1, 100); err != nil {
		return err
	}
	resolver := &net.Resolver{PreferGo: true}
	if *server != "" {
		resolver.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, network, *server)
		}
	}
	var faults []error
	for _, name := range flags.Args() {
		addrs, err := resolver.LookupHost(ctx, name)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		slices.Sort(addrs)
		fmt.Println(name, strings.Join(addrs, " "))
	}
	return errors.Join(faults...)
}

func serveDNS(ctx context.Context, args []string) error {
	flags := newFlags("dns")
	addr := flags.String("addr", ":53", "address to listen on")
	answer := flags.String("answer", "192.0.2.53", "address to answer with")
	if err := parse(flags, args, 0, 0); err != nil {
		return err
	}
	ip, err := netip.ParseAddr(*answer)
	if err != nil || !ip.Is4() {
		return fmt.Errorf("-answer %q is no IPv4 address", *answer)
	}
	var config net.ListenConfig
	packets, err := config.ListenPacket(ctx, "udp", *addr)
	if err != nil {
		return err
	}
	listener, err := config.Listen(ctx, "tcp", *addr)
	if err != nil {
		return err
	}
	defer closeAtEnd(ctx, packets)()
	defer closeAtEnd(ctx, listener)()
	fmt.Println("listening on", listener.Addr())
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for {
					size := make([]byte, 2)
					if _, err := io.ReadFull(conn, size); err != nil {
						return
					}
					question := make([]byte, binary.BigEndian.Uint16(size))
					if _, err := io.ReadFull(conn, question); err != nil {
						return
					}
					reply, err := answerWith(ip, question)
					if err != nil {
						return
					}
					if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
						return
					}
				}
			}()
		}
	}()
	buf := make([]byte, 1<<16)
	for {
		n, from, err := packets.ReadFrom(buf)
		if err != nil {
			return ended(ctx, err)
		}
		reply, err := answerWith(ip, buf[:n])
		if err != nil {
			fmt.Fprintln(os.Stderr, "tool: dns:", err)
			continue
		}
		if _, err := packets.WriteTo(reply, from); err != nil {
			fmt.Fprintln(os.Stderr, "tool: dns:", err)
		}
	}
}

// answerWith returns the reply to one question.
func answerWith(ip netip.Addr, question []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(question); err != nil {
		return nil, err
	}
	m.Response, m.Authoritative, m.RecursionAvailable = true, true, true
	m.Additionals, m.Authorities, m.Answers = nil, nil, nil
	for _, q := range m.Questions {
		if q.Type == dnsmessage.TypeA {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1},
				Body:   &dnsmessage.AResource{A: ip.As4()},
			})
		}
	}
	return m.Pack()
}
