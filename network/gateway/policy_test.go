package gateway

import (
	"net"
	"net/netip"
	"testing"
)

func TestOutside(t *testing.T) {
	for _, a := range []string{
		"0.0.0.0", "0.1.2.3", "127.0.0.1", "127.1.2.3", "169.254.169.254", "169.254.0.1", "224.0.0.251", "239.1.1.1",
		"240.0.0.1", "255.255.255.255", "100.100.100.200", "168.63.129.16",
		"::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "64:ff9b:1::a9fe:a9fe",
		"2002:7f00:1::1", "fe80::1", "febf::1", "ff02::1", "fd00:ec2::254", "fd20:ce::254", "fe80::1%lo",
	} {
		if Outside(netip.MustParseAddr(a)) == nil {
			t.Errorf("%s is open", a)
		}
	}
	// Nothing is sent to these: they are only looked up.
	for _, a := range []string{"8.8.8.8", "10.255.254.253", "172.31.254.253", "192.168.254.253", "126.255.255.255", "128.0.0.1", "223.255.255.254", "2606:4700::1111", "fd12:3456::1"} {
		if err := Outside(netip.MustParseAddr(a)); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range own {
		if p := netip.MustParsePrefix(a.String()); Outside(p.Addr()) == nil {
			t.Errorf("the host's own %s is open", p.Addr())
		}
	}
}
