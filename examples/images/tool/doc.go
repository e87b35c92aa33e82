//go:build linux

// Tool is the program of the image fixture/tool: behaviours that tests of a machine need,
// each a command. Reports are one line of JSON on standard output. The image is busybox
// otherwise, so what its applets can do is not repeated here.
//
//	http [-addr :80]                     serves: / facts about the request and this kernel,
//	                                     /boot-id, /bytes?n=N, /slow?for=2s, /exit?code=N
//	load [-rate 20] [-for 10s] [-timeout 3s] URL
//	                                     new requests at a steady rate, each by a connection of its
//	                                     own, none repeated; reports; status 1 if any failed
//	echo [-addr :7000] [-udp]            sends back what it gets, by TCP or UDP
//	sequence [-every 20ms] [-for D] ADDR one connection to an echo, numbers one after another;
//	                                     reports at the end, and at SIGUSR1; status 1 once it breaks
//	connect [-udp] [-timeout 3s] ADDR    tries to connect, and by UDP to get an echo; reports "connected",
//	                                     or "refused", "timeout", "unreachable" with status 1
//	pipe SOCKET                          sends what it reads to a unix socket, then an end; prints what comes back
//	lookup [-server ADDR] NAME…          addresses of each name, sorted, a line each; status 1 if one has none
//	dns [-addr :53] [-answer 192.0.2.53] answers every A question with one address, by UDP and TCP
//	spoof [-if eth0] [-mac M] [-ip A] [-vlan N] [-arp] NAME
//	                                     sends one frame with a name in it to everyone on the network, as if it
//	                                     came from another MAC, address or VLAN, or an ARP reply that claims it
//	frames                               interface and name of each such frame that arrives, until one named end
//	count [-rate 5000] [-to N]           the numbers from 1 on, a line each, at a steady rate
//	sleep [-ignore-term] [DURATION]      says which signals it gets; ends at SIGTERM and SIGINT unless told otherwise
//	exit [-after D] STATUS               ends with that status
//	alloc [-hold] MIB                    touches that much memory
//	spin [-threads 1] [-for 1s]          burns CPU; reports what it got
//	fill FILE                            writes until the disk is full; reports how that was said
//	lock [-try] [-flock] FILE            locks a file by fcntl or flock, says "held" and holds on until it is ended;
//	                                     with -try says "taken" or "kept out", and ends
//	facts                                reports about this process: ids, capabilities, limits, names
//	tty                                  reports the size of the terminal, again when it changes, until input ends
//	watch [-count 1] [-timeout 10s] PATH reports changes by inotify
//	layers                               checks the files of the image fixture/layers
//
// Each command owns the goroutines it starts; they end with the process.
package main
