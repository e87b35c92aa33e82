package e2e

import (
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// crash is "crash PART": the home's processes with PART in their command lines
// are killed, of which there must be some, and have ended when it returns.
func crash(ts *testscript.TestScript, neg bool, args []string) {
	end(ts, syscall.SIGKILL, neg, args)
}

// terminate is "terminate PART": crash with SIGTERM.
func terminate(ts *testscript.TestScript, neg bool, args []string) {
	end(ts, syscall.SIGTERM, neg, args)
}

func end(ts *testscript.TestScript, signal syscall.Signal, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: crash or terminate PART")
	}
	var killed []process
	for _, p := range processes(ts.Getenv("STACK_HOME")) {
		if strings.Contains(p.command, args[0]) {
			ts.Check(syscall.Kill(p.pid, signal))
			killed = append(killed, p)
		}
	}
	if len(killed) == 0 {
		ts.Fatalf("no process with %q in its command line", args[0])
	}
	for _, p := range killed {
		awaitExit(p.pid, patience)
	}
}

// listen is "listen NAME": another program has a TCP port of 127.0.0.1, whose
// number the variable NAME tells, until the script ends.
func listen(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: listen NAME")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = l.Close() })
	_, port, err := net.SplitHostPort(l.Addr().String())
	ts.Check(err)
	ts.Setenv(args[0], port)
}

// udp is "udp SERVICE PORT": what is sent to the published port comes back; or
// "udp FILE", whose last word is the address. A datagram may be lost, so there are
// several.
func udp(ts *testscript.TestScript, neg bool, args []string) {
	var words []string
	switch {
	case !neg && len(args) == 2:
		ts.Check(ts.Exec("stack", "port", "--protocol", "udp", args[0], args[1]))
		words = strings.Fields(ts.ReadFile("stdout"))
	case !neg && len(args) == 1:
		words = strings.Fields(ts.ReadFile(args[0]))
	}
	if len(words) == 0 {
		ts.Fatalf("usage: udp SERVICE PORT, or udp FILE")
	}
	conn, err := net.Dial("udp", words[len(words)-1])
	ts.Check(err)
	defer conn.Close()
	buf := make([]byte, 100)
	for range 10 {
		ts.Check(conn.SetDeadline(time.Now().Add(3 * time.Second)))
		_, err = conn.Write([]byte("datagram"))
		ts.Check(err)
		var n int
		if n, err = conn.Read(buf); err == nil && string(buf[:n]) == "datagram" {
			return
		}
	}
	ts.Fatalf("no datagram came back: %v", err)
}
