package ipam

import (
	"crypto/sha256"
	"net"
)

// MAC is the address of a machine, or of whatever holder names, on a network:
// the same whenever it is asked for, unicast and locally administered (IEEE
// 802, bits 0 and 1 of the first octet).
func MAC(holder, network string) net.HardwareAddr {
	h := sha256.Sum256([]byte("mac\x00" + network + "\x00" + holder))
	hw := net.HardwareAddr(h[:6:6])
	hw[0] = hw[0]&^1 | 2
	return hw
}
