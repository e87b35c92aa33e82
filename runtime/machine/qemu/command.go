package qemu

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/stackvm/stack/guest/kernel/cmdline"
	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/machine"
)

// Accel is how a machine's instructions are executed.
type Accel string

// Accelerators.
const (
	KVM Accel = "kvm" // by the processor
	TCG Accel = "tcg" // by translation: anywhere, slowly, and no security boundary
)

// translationMiB bounds TCG's cache of translated code, which otherwise grows to
// a GiB.
const translationMiB = 64

// Descriptors that a machine's QEMU inherits, in the order of sandbox.Spec.Files.
const (
	fdMonitor = 3 + iota
	fdConsole
	fdControl
	fdLogs
	fdTrunk
	fdShares // the last, because a machine may have none
)

// commandLine is QEMU's whole argument list. Disks are not in it: they are added
// through the monitor, at the start and later alike, as they come and go.
//
// tscKHz is the speed of the host's TSC, 0 when unknown; only TCG wants it.
func commandLine(c machine.Config, accel Accel, shares bool, tscKHz int) []string {
	acceleration, cpu := string(KVM), "host"
	if accel == TCG {
		acceleration, cpu = "tcg,tb-size="+strconv.Itoa(translationMiB), cmdline.EmulatedCPU
	}
	stream := func(id string, fd int) string { return fmt.Sprintf("socket,id=%s,fd=%d", id, fd) }
	sharesDev := "null,id=shares"
	if shares {
		sharesDev = stream("shares", fdShares)
	}
	port := func(nr int, id, name string) string {
		return fmt.Sprintf("virtserialport,bus=ports.0,nr=%d,chardev=%s,name=%s", nr, id, name)
	}
	return []string{
		"qemu-system-x86_64",
		"-name", "guest=" + escape(c.Name),
		"-nodefaults", "-no-user-config", "-nographic", "-no-reboot",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		// Without ACPI there is no PCI; without the RTC the kernel waits a second
		// for one.
		"-M", "microvm,acpi=off,rtc=on",
		"-accel", acceleration,
		"-cpu", cpu,
		"-smp", strconv.Itoa(c.VCPUs),
		"-m", strconv.Itoa(c.MemoryMiB) + "M",
		"-kernel", c.Kernel,
		"-initrd", c.Initramfs,
		"-append", strings.Join(kernelCommandLine(c, accel, tscKHz), " "),

		"-chardev", stream("monitor", fdMonitor),
		"-mon", "chardev=monitor,mode=control",
		"-chardev", stream("console", fdConsole),
		"-serial", "chardev:console",

		// The fixed device shape: five of microvm's eight slots.
		"-device", "virtio-serial-device,id=ports,max_ports=4",
		"-chardev", stream("control", fdControl),
		"-device", port(1, "control", wire.PortControl),
		"-chardev", stream("logs", fdLogs),
		"-device", port(2, "logs", wire.PortLogs),
		"-chardev", sharesDev,
		"-device", port(3, "shares", wire.PortShares),
		"-device", "virtio-scsi-device,id=scsi",
		"-netdev", fmt.Sprintf("dgram,id=trunk,local.type=fd,local.str=%d", fdTrunk),
		"-device", fmt.Sprintf("virtio-net-device,netdev=trunk,mac=%s,host_mtu=%d", c.MAC, c.MTU),
		"-device", "virtio-rng-device",
		"-device", "virtio-balloon-device,free-page-reporting=on",
	}
}

// kernelCommandLine is what every machine boots with, then the caller's part.
func kernelCommandLine(c machine.Config, accel Accel, tscKHz int) []string {
	line := cmdline.Common()
	if accel == TCG {
		line = append(line, cmdline.Emulated(tscKHz)...)
	}
	line = append(line,
		// A panic is a reboot at once, which ends the machine: see -no-reboot.
		"panic=-1",
		// Devices that the kernel brings along and containers would see.
		"sysctl.net.core.fb_tunnels_only_for_init_net=2", "loop.max_loop=0",
		wire.KeyParameter+"="+c.Key.String(),
	)
	return append(line, c.Cmdline...)
}

// escape doubles the commas of a value in QEMU's option syntax.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
