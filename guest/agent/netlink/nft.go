//go:build linux

package netlink

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// tableName is the table of the DNS redirects.
const tableName = "stack_dns"

// Redirect makes packets that the namespace ns sends to port of addr, IPv4, go
// to other ports of that address: UDP to udp, TCP to tcp. Nobody who binds the
// port sees them, and nobody is kept from binding it.
func Redirect(ns *os.File, addr netip.Addr, port, udp, tcp uint16) error {
	c, err := Dial(ns, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer c.Close()

	table := nft(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE)
	table.text(unix.NFTA_TABLE_NAME, tableName)

	chain := nft(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE)
	chain.text(unix.NFTA_CHAIN_TABLE, tableName)
	chain.text(unix.NFTA_CHAIN_NAME, "output")
	chain.nest(unix.NFTA_CHAIN_HOOK, func() {
		chain.be32(unix.NFTA_HOOK_HOOKNUM, unix.NF_INET_LOCAL_OUT)
		chain.be32(unix.NFTA_HOOK_PRIORITY, ^uint32(99)) // -100, where destinations are translated
	})
	chain.text(unix.NFTA_CHAIN_TYPE, "nat")

	messages := []message{batch(unix.NFNL_MSG_BATCH_BEGIN), table, chain}
	for _, r := range []struct {
		protocol byte
		to       uint16
	}{{unix.IPPROTO_UDP, udp}, {unix.IPPROTO_TCP, tcp}} {
		messages = append(messages, rule(addr, port, r.protocol, r.to))
	}
	messages = append(messages, batch(unix.NFNL_MSG_BATCH_END))
	if err := c.do(messages...); err != nil {
		return fmt.Errorf("redirecting %s:%d: %w", addr, port, err)
	}
	return nil
}

// rule is: ip daddr addr, meta l4proto protocol, th dport port, dnat to addr:to.
func rule(addr netip.Addr, port uint16, protocol byte, to uint16) message {
	be16 := func(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }
	m := nft(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND)
	m.text(unix.NFTA_RULE_TABLE, tableName)
	m.text(unix.NFTA_RULE_CHAIN, "output")
	m.nest(unix.NFTA_RULE_EXPRESSIONS, func() {
		payload := func(base, offset, size uint32) {
			m.expression("payload", func() {
				m.be32(unix.NFTA_PAYLOAD_DREG, unix.NFT_REG_1)
				m.be32(unix.NFTA_PAYLOAD_BASE, base)
				m.be32(unix.NFTA_PAYLOAD_OFFSET, offset)
				m.be32(unix.NFTA_PAYLOAD_LEN, size)
			})
		}
		equals := func(value []byte) {
			m.expression("cmp", func() {
				m.be32(unix.NFTA_CMP_SREG, unix.NFT_REG_1)
				m.be32(unix.NFTA_CMP_OP, unix.NFT_CMP_EQ)
				m.nest(unix.NFTA_CMP_DATA, func() { m.attr(unix.NFTA_DATA_VALUE, value) })
			})
		}
		load := func(register uint32, value []byte) {
			m.expression("immediate", func() {
				m.be32(unix.NFTA_IMMEDIATE_DREG, register)
				m.nest(unix.NFTA_IMMEDIATE_DATA, func() { m.attr(unix.NFTA_DATA_VALUE, value) })
			})
		}
		payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 4) // destination address
		equals(addr.AsSlice())
		m.expression("meta", func() {
			m.be32(unix.NFTA_META_DREG, unix.NFT_REG_1)
			m.be32(unix.NFTA_META_KEY, unix.NFT_META_L4PROTO)
		})
		equals([]byte{protocol})
		payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2) // destination port
		equals(be16(port))
		load(unix.NFT_REG_1, addr.AsSlice())
		load(unix.NFT_REG_2, be16(to))
		m.expression("nat", func() {
			m.be32(unix.NFTA_NAT_TYPE, unix.NFT_NAT_DNAT)
			m.be32(unix.NFTA_NAT_FAMILY, unix.NFPROTO_IPV4)
			m.be32(unix.NFTA_NAT_REG_ADDR_MIN, unix.NFT_REG_1)
			m.be32(unix.NFTA_NAT_REG_PROTO_MIN, unix.NFT_REG_2)
		})
	})
	return m
}

func (m *message) expression(name string, fill func()) {
	m.nest(unix.NFTA_LIST_ELEM, func() {
		m.text(unix.NFTA_EXPR_NAME, name)
		m.nest(unix.NFTA_EXPR_DATA, fill)
	})
}

// nft begins a message of nf_tables, family IPv4.
func nft(kind, flags uint16) message {
	return newMessage(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags|unix.NLM_F_ACK, []byte{unix.NFPROTO_IPV4, unix.NFNETLINK_V0, 0, 0})
}

func batch(kind uint16) message {
	return newMessage(kind, 0, []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES}) // res_id is big-endian
}
