// Package machine is what the rest of the runtime knows of a virtual machine: a
// small interface, the same for every hypervisor, and the data it is made from.
// A driver knows disks, a network card, and byte streams; it knows nothing of
// compose.
//
// Drivers: runtime/machine/qemu on Linux. runtime/machine/fake keeps state in
// memory for tests, and runtime/machine/machinetest is the suite that every
// driver, the fake included, must pass.
//
// A machine is a process of its own that outlives whoever started it. What must
// outlive the supervisor as well, the host's ends of the machine's streams, are
// its Handles: the keeper holds duplicates of them, and Adopt takes them back.
package machine
