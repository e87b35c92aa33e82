// Package process starts the agent's children and reaps every process of the
// machine that ends without a parent.
//
// A Table owns one goroutine, which waits for SIGCHLD; Close ends it. There is
// one Table in an agent, because reaping is for the whole process. It never
// signals a process that has been reaped, so pids cannot be confused.
package process
