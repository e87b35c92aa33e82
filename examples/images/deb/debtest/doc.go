// Package debtest makes small Debian packages in memory for tests. It starts no
// goroutine and touches no file.
package debtest
