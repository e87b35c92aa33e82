// Package storage shares volumes between machines: one machine of a project has
// their disks and serves them, the others mount them from there.
//
// Both ends are the kernel's NFS 4.2, without any daemon: what rpc.mountd and
// nfsdcld would answer, Server answers. It says of each address which volumes it
// may see, read-only or not, and keeps on a disk which clients hold state, so that
// after a crash they get their locks back before anybody else can take them. The
// network is a VLAN in the agent's own namespace, where no container is.
//
// A Server owns two goroutines from its first Serve on; they end with the
// machine. A Client owns none.
package storage
