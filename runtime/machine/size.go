package machine

import "math"

// Host is what a machine's size depends on.
type Host struct {
	CPUs      int
	MemoryMiB int
}

const (
	maxDefaultCPUs = 4
	maxCPUs        = 64 // beyond any micro-VM's sense, within every driver's limits

	minMemoryMiB     = 256
	maxClassMiB      = 8192
	defaultMemoryMiB = 2048

	// What a machine needs beside its container: kernel, agent and file caches,
	// and 16 MiB of page structures for every GiB (1/64).
	ownMemoryMiB   = 96
	ownMemoryShare = 64

	mib = 1 << 20
)

// Size returns the vCPUs and memory of a machine for a container that may use
// cpus processors (0: as many as it likes) and memLimit bytes (0: no limit).
//
// Fractions of a processor are the container's cgroup quota, so cpus is rounded
// up; without it a machine has as many as the host, at most four. Memory comes in
// classes, from 256 MiB doubling to 8 GiB and in whole GiB above, and is paid for
// when it is touched: without a limit the class is 2 GiB or the largest within
// half of the host's memory. With one it is the smallest class that leaves the
// machine room beside the container, so that memory runs out in the container's
// cgroup, never for the agent; a limit above what the host has gets the host's
// memory.
func Size(cpus float64, memLimit int64, h Host) (vcpus, memoryMiB int) {
	hostCPUs := max(1, h.CPUs)
	vcpus = min(hostCPUs, maxDefaultCPUs)
	if cpus > 0 { // not for NaN
		vcpus = max(1, int(math.Ceil(min(cpus, float64(min(hostCPUs, maxCPUs))))))
	}

	if memLimit <= 0 {
		memoryMiB = minMemoryMiB
		for memoryMiB*2 <= min(defaultMemoryMiB, h.MemoryMiB/2) {
			memoryMiB *= 2
		}
		return vcpus, memoryMiB
	}
	limit := int(min(int64(max(h.MemoryMiB, minMemoryMiB)), (memLimit-1)/mib+1))
	need := limit + ownMemoryMiB + limit/ownMemoryShare
	for memoryMiB = minMemoryMiB; memoryMiB < need && memoryMiB < maxClassMiB; {
		memoryMiB *= 2
	}
	if memoryMiB < need {
		memoryMiB = (need + 1023) / 1024 * 1024
	}
	return vcpus, memoryMiB
}
