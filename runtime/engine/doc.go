// Package engine carries out a planner.Plan. It decides nothing: every step
// starts as soon as the steps it needs are done, there is no other order and no
// barrier.
//
// Run owns one goroutine per step under way and returns after the last has
// ended.
package engine
