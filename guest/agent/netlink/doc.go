// Package netlink configures network namespaces: links, addresses and routes by
// rtnetlink, and the two redirects of the DNS stub by nf_tables.
//
// It writes the few messages the agent needs itself; a general library would be
// a tenth of the agent. A Conn belongs to the namespace it was opened in and to
// one caller at a time; the package starts no lasting goroutine.
package netlink
