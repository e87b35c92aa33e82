// Package dockercli lets stack stand where docker compose stood: it understands
// how docker's command line calls a plugin, takes docker's global options, and
// puts the program under the names docker-compose and "docker compose".
//
// What it takes from docker's protocol: the metadata that a plugin prints, the
// plugin's name as a word between docker's options and the plugin's own, and a
// socket whose end tells the plugin to end. It reaches no engine; who asks for
// one by name is refused. It starts one goroutine, that of Attend.
package dockercli
