// Package agent is PID 1 of a machine: it answers the host on the ports of
// guest/wire and hosts the machine's containers.
//
// Run never returns while the machine lives. It owns one goroutine per port and
// one per stream of the present session; a session that ends, because the host
// hung up or a new host greeted, takes its goroutines along, while containers
// and what was executed in them go on. The agent imports guest/wire and nothing
// else of ours from outside its own room, keeps net/http, templates and protobuf
// out, and never lets a path of a container lead outside its root.
package agent
