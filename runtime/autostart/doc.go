// Package autostart has the host's service manager start what is to run after a
// reboot: a systemd user unit, written by hand so that it works where no user
// manager runs at the moment. It touches no file but its own.
//
// The package starts no goroutine.
package autostart
