// Package doctor finds out what is wrong with this host for running machines,
// and says what cures it. It changes nothing. Every look at the host goes
// through Host, so that each diagnosis has a test that needs no such host.
package doctor
