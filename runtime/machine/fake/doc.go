// Package fake is a machine driver that keeps its machines in memory, for tests
// of what uses machines. Each has the sockets of a real one, and behind them an
// agent that answers greetings, runs containers as goroutines, numbers and keeps
// log records, and says farewell.
//
// A Driver is the host: machines live in it until they end, whatever becomes of
// the values that Start and Adopt return. Guest, found by Driver.Guest, is a
// machine seen from inside; with it a test makes things happen there.
//
// A machine owns its goroutines; they end with it. Driver.Close ends all
// machines and waits. No process, disk or network is touched.
package fake
