// Package machinetest is the suite that every machine driver must pass, the fake
// included. It speaks to the agent with runtime/machine/control, so that a driver
// is judged by what reaches the machine. It starts no goroutine that outlives a
// test.
package machinetest
