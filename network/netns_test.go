//go:build linux

package network

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The outside, in tests: addresses of the loopback interface in a network
// namespace of the test's own (RFC 5737 and RFC 3849 prefixes).
var (
	outside4 = addr("198.51.100.1")
	outside6 = addr("2001:db8::1")
	client4  = addr("203.0.113.9") // a second one, for clients of published ports
)

// inNamespace runs the calling test again in a process with network and user
// namespaces of its own, where the outside exists; it returns true there.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const mark = "STACK_TEST_NETNS"
	if os.Getenv(mark) != "" {
		setUpNamespace(t)
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=120s")
	cmd.Env = append(os.Environ(), mark+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &exit):
		t.Skipf("no network namespace of one's own here: %v", err)
	case err != nil:
		t.Errorf("in the namespace: %v\n%s", err, out)
	case !bytes.Contains(out, []byte("--- PASS: "+t.Name())):
		t.Errorf("in the namespace the test did not pass:\n%s", out)
	}
	return false
}

// setUpNamespace gives the loopback interface its addresses.
func setUpNamespace(t *testing.T) {
	t.Helper()
	if err := setUpLoopback(outside4, client4, outside6); err != nil {
		t.Fatal(err)
	}
	// The kernel makes an IPv6 address usable a moment later, and says so to
	// nobody but netlink listeners.
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		l, err := net.ListenPacket("udp", netip.AddrPortFrom(outside6, 0).String())
		if err == nil {
			l.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func setUpLoopback(addrs ...netip.Addr) error {
	s4, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s4)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s4, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("raising lo: %w", err)
	}
	for i, a := range addrs {
		if a.Is4() {
			ifr, err := unix.NewIfreq(fmt.Sprintf("lo:%d", i))
			if err != nil {
				return err
			}
			if err := ifr.SetInet4Addr(a.AsSlice()); err != nil {
				return err
			}
			if err := unix.IoctlIfreq(s4, unix.SIOCSIFADDR, ifr); err != nil {
				return fmt.Errorf("giving lo %s: %w", a, err)
			}
			continue
		}
		s6, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s6)
		in6 := struct { // struct in6_ifreq
			addr   [16]byte
			prefix uint32
			index  int32
		}{a.As16(), 128, 1}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s6), unix.SIOCSIFADDR, uintptr(unsafe.Pointer(&in6))); errno != 0 {
			return fmt.Errorf("giving lo %s: %w", a, errno)
		}
	}
	return nil
}
