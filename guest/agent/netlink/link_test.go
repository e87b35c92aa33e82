//go:build linux

package netlink

import (
	"net/netip"
	"testing"
)

func TestTraffic(t *testing.T) {
	rx, tx := traffic(`Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     999       9    0    0    0     0          0         0      999       9    0    0    0     0       0          0
  eth0:     100       1    0    0    0     0          0         0       20       1    0    0    0     0       0          0
  eth1: 5000000000       1    0    0    0     0          0         0        3       1    0    0    0     0       0          0
`)
	if rx != 5000000100 || tx != 23 {
		t.Errorf("%d received, %d sent", rx, tx)
	}
}

func TestBroadcast(t *testing.T) {
	for prefix, want := range map[string]string{
		"10.1.2.3/24": "10.1.2.255", "10.1.2.3/16": "10.1.255.255", "10.1.2.3/32": "10.1.2.3", "10.1.2.2/31": "10.1.2.3", "10.0.0.1/8": "10.255.255.255",
	} {
		if got := broadcast(netip.MustParsePrefix(prefix)).String(); got != want {
			t.Errorf("broadcast(%s) = %s, want %s", prefix, got, want)
		}
	}
}
