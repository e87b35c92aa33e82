package share

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/sandbox"
)

// Process is a running share server. It ends by itself when the machine's end of
// the port is closed.
type Process struct {
	PID   int
	PIDFD int      // the caller's to close
	Port  *os.File // the machine's end, for machine.Config.Shares; the caller's to close
}

// Start starts a server of shares for the machine whose greetings have key. What
// it prints goes to stderr, which may be nil. All shares that cannot be served
// are reported at once, and nothing is started then.
func Start(shares []Share, key wire.Key, stderr *os.File) (*Process, error) {
	var faults *multierror.Error
	names := map[string]bool{}
	read, write := slices.Clone(sandbox.Libraries), []string(nil)
	for i, s := range shares {
		if names[s.Name] {
			faults = multierror.Append(faults, fmt.Errorf("two shares are named %q", s.Name))
		}
		names[s.Name] = true
		if err := s.check(); err != nil {
			faults = multierror.Append(faults, err)
			continue
		}
		// The sandbox and the server must mean the same file.
		real, err := filepath.EvalSymlinks(s.Path)
		if err != nil {
			faults = multierror.Append(faults, fmt.Errorf("share %s: %w", s.Name, err))
			continue
		}
		shares[i].Path = real
		if s.ReadOnly {
			read = append(read, real)
		} else {
			write = append(write, real)
		}
	}
	if err := faults.ErrorOrNil(); err != nil {
		return nil, err
	}
	arg, err := json.Marshal(setup{Key: key, Shares: shares})
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("starting the share server: %w", err)
	}
	ours, machines := os.NewFile(uintptr(pair[0]), "shares"), os.NewFile(uintptr(pair[1]), wire.PortShares)
	defer ours.Close()
	self, err := os.Executable()
	if err != nil {
		machines.Close()
		return nil, fmt.Errorf("starting the share server: %w", err)
	}
	p, err := sandbox.Start(sandbox.Spec{
		Path: self, Args: []string{argv0, string(arg)}, Env: sandboxEnv(),
		Read: append(read, self), Write: write,
		Files: []*os.File{ours}, Stderr: stderr,
	})
	if err != nil {
		machines.Close()
		return nil, err
	}
	return &Process{PID: p.PID, PIDFD: p.PIDFD, Port: machines}, nil
}

// sandboxEnv is what a share server may know of the environment: the home it
// belongs to, by which it can be found.
func sandboxEnv() []string {
	if home := os.Getenv("STACK_HOME"); home != "" {
		return []string{"STACK_HOME=" + home}
	}
	return nil
}
