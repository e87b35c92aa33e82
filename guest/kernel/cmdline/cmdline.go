package cmdline

import "fmt"

// EmulatedCPU is QEMU's -cpu under TCG. Without its "fast string" bits the
// kernel clears a page in 512 stores instead of 4096, each of which TCG emulates
// alone: fork and exec take half the time.
const EmulatedCPU = "max,-erms,-fsrm"

// apicTimerHz is what QEMU's emulated APIC timer counts: nanoseconds.
const apicTimerHz = 1_000_000_000

// ScanTargets is the number of SCSI ids that the kernel looks for disks at when
// it starts.
const ScanTargets = 32

// Common returns what every machine boots with.
//
//   - quiet: each line on the serial port costs more than what it reports; a
//     panic prints all the same.
//   - reboot=t ends the machine by a triple fault, the one way out that a
//     hypervisor without ACPI notices.
//   - expedited grace periods: with few CPUs an interrupt to each of them costs
//     less than waiting for ticks, on the way of every mount and namespace.
//   - scan_targets (a patch of ours): the scan for disks would ask the
//     controller's 256 targets one by one, 90 ms under emulation. A disk that is
//     there before the agent answers must have a SCSI id below ScanTargets; one
//     added later is found by any id.
func Common() []string {
	return []string{
		"console=ttyS0", "quiet", "reboot=t",
		"rcupdate.rcu_expedited=1",
		fmt.Sprintf("virtio_scsi.scan_targets=%d", ScanTargets),
		"dummy.numdummies=0",
	}
}

// Emulated returns what a machine boots with beside Common when its CPU is
// emulated (QEMU's TCG), on a host whose TSC runs at tscKHz; 0 when the host does
// not know, so that the guest has to measure.
//
//   - no_timer_check, lapic_timer_hz (a patch of ours): the timers work, at a
//     known speed; 250 ms.
//   - tsc_early_khz, lpj: TCG hands the host's TSC through. The guest's own
//     measurement takes up to 200 ms, is off by a thousandth, and on a busy host
//     fails altogether, which leaves a clock of 10 ms steps.
//   - tsc=reliable: the kernel watches the TSC with its ticks, which a busy host
//     loses, and would then give up the TSC.
func Emulated(tscKHz int) []string {
	args := []string{"no_timer_check", fmt.Sprintf("lapic_timer_hz=%d", apicTimerHz)}
	if tscKHz > 0 {
		args = append(args,
			fmt.Sprintf("tsc_early_khz=%d", tscKHz),
			fmt.Sprintf("lpj=%d", tscKHz*1000/guestHz),
			"tsc=reliable")
	}
	return args
}

// guestHz is the kernel's CONFIG_HZ; a test compares them.
const guestHz = 100
