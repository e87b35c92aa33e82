// Package provider runs the programs that bring up services which are no
// containers: docker CLI plugins, or any program that speaks compose's protocol
// for providers (docker/compose, docs/extension.md). A program is called as
//
//	PROGRAM compose --project-name=NAME up|down|stop [--OPTION=VALUE…] SERVICE
//
// and writes JSON objects with a type and a message: info, debug, error, setenv and
// rawsetenv, whose KEY=VALUE is for the services that depend on this one, and
// get-service-config, which asks for the service on standard input.
//
// A call owns the goroutines it starts and the program, which runs in a process
// group of its own: Run returns after all have ended. What a program says is not
// trusted to be of a reasonable size. Values of variables appear in nothing but the
// result. The package never looks for programs.
package provider
