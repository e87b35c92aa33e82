// Package container makes, runs and removes the containers of one machine.
//
// A Set owns them. A container's file tree is assembled in the agent's own mount
// namespace when it is created, so that copying in and out works whether it runs
// or not; its network and IPC namespaces exist from then on too, held by
// descriptors. What only the running container can have is made by package
// launch at each start.
//
// A running container has one goroutine that waits for its end, one for each of
// its output streams, and one for its probe; all end with it. They never wait
// for the host, except that output waits for room in the log queue.
package container
