package share

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"os"
	"sync"

	"github.com/hashicorp/yamux"
	"github.com/hugelgupf/p9/p9"
	"golang.org/x/sys/unix"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/machine/muxguard"
)

// setup is what the process is started with, as its only argument.
type setup struct {
	Key    wire.Key `json:"key"`
	Shares []Share  `json:"shares"`
}

// argv0 marks a process as a share server.
const argv0 = "stack-shares"

// MaybeRun serves shares and does not return if this process was started for
// that. It must be called early in main.
func MaybeRun() {
	if len(os.Args) != 2 || os.Args[0] != argv0 {
		return
	}
	if err := runProcess(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "serving shares:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func runProcess(arg string) error {
	var s setup
	if err := json.Unmarshal([]byte(arg), &s); err != nil {
		return err
	}
	unix.Umask(0) // the machine has applied its own
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err == nil {
		lim.Cur = min(lim.Max, math.MaxInt32)
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &lim) // fewer open files then
	}
	port, err := net.FileConn(os.NewFile(3, wire.PortShares))
	if err != nil {
		return err
	}
	return Serve(port, s.Key, s.Shares)
}

// Serve greets a machine on its shares port and serves shares until the machine
// closes it, which is how a machine ends. It closes port.
func Serve(port net.Conn, key wire.Key, shares []Share) error {
	defer port.Close()
	trees := map[string]*tree{}
	defer func() {
		for _, t := range trees {
			t.close()
		}
	}()
	for _, s := range shares {
		t, err := newTree(s)
		if err != nil {
			return err
		}
		trees[s.Name] = t
	}
	if err := wire.Greet(port, key); err != nil {
		if errors.Is(err, io.EOF) {
			return nil // the machine ended before its agent came up
		}
		return err
	}
	cfg := yamux.DefaultConfig()
	cfg.EnableKeepAlive = false // a paused machine answers nothing, and is well
	cfg.MaxStreamWindowSize = 1 << 20
	cfg.AcceptBacklog = wire.MaxStreams
	cfg.LogOutput = io.Discard
	session, err := yamux.Server(muxguard.New(port, true, nil), cfg)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer session.Close()
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			return nil // the machine has ended, or broke the rules: either way it is over
		}
		if session.NumStreams() > wire.MaxStreams {
			stream.Close()
			continue
		}
		wg.Go(func() {
			defer stream.Close()
			if err := serveStream(stream, trees); err != nil {
				log.Print(err)
			}
		})
	}
}

// serveStream serves one mount: which share, then 9P.
func serveStream(stream *yamux.Stream, trees map[string]*tree) error {
	var open wire.ShareOpen
	if err := wire.ReadMessage(stream, &open); err != nil {
		return fmt.Errorf("reading which share is opened: %w", err)
	}
	t := trees[open.Share]
	if t == nil {
		return wire.WriteMessage(stream, wire.Reply{Error: &wire.Error{Code: wire.CodeNotFound, Message: fmt.Sprintf("no share %.80q", open.Share)}})
	}
	if err := wire.WriteMessage(stream, wire.Reply{}); err != nil {
		return err
	}
	requests := struct {
		io.Reader
		io.Closer
	}{&attachNames{r: stream}, stream}
	return p9.NewServer(t).Handle(requests, stream)
}
