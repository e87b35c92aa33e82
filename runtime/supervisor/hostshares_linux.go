package supervisor

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/share"
	"github.com/stackvm/stack/runtime/state"
)

// HostShares serves folders of this host, by runtime/share.
type HostShares struct{}

// Serve implements Shares.
func (HostShares) Serve(shares []share.Share, key wire.Key) (ShareServer, error) {
	p, err := share.Start(shares, key, os.Stderr)
	if err != nil {
		return nil, err
	}
	return &shareProcess{p: p, start: state.StartTime(p.PID)}, nil
}

type shareProcess struct {
	p     *share.Process
	start uint64
}

func (s *shareProcess) Record() state.ShareServer {
	return state.ShareServer{PID: s.p.PID, StartTime: s.start, HostBoot: state.HostBoot()}
}

func (s *shareProcess) Port() *os.File { return s.p.Port }

func (s *shareProcess) End() {
	_ = unix.PidfdSendSignal(s.p.PIDFD, unix.SIGKILL, nil, 0)
	for { // it is our child: collect it
		if err := unix.Waitid(unix.P_PIDFD, s.p.PIDFD, nil, unix.WEXITED, nil); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	unix.Close(s.p.PIDFD)
}
