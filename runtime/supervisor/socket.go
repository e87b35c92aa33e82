package supervisor

import (
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/spec"
)

// maxRelayed is how many connections to the host's docker socket one container may
// have. More of them wait in its machine; each is a stream of the control session,
// which has wire.MaxStreams.
const maxRelayed = 64

// relaySockets leads connections to the sockets of a container to the host's, until
// the container or its machine ends. A supervisor that is restarted takes the
// connections that were waiting, those under way are cut.
func (s *Supervisor) relaySockets(h *hosted, container string, mounts []state.MountUse) {
	for _, use := range mounts {
		if use.Type == spec.MountSocket {
			s.spawn(func() { s.relaySocket(h, wire.Accept{ID: container, Target: use.Target}, use.Source) })
		}
	}
}

func (s *Supervisor) relaySocket(h *hosted, accept wire.Accept, path string) {
	client := h.client.Load()
	slots := make(chan struct{}, maxRelayed)
	for {
		select {
		case slots <- struct{}{}:
		case <-h.ctx.Done():
			return
		}
		stream, err := client.Accept(h.ctx, accept)
		if err != nil { // the container is gone, or its machine, or another supervisor has that
			s.log.Debug("relaying a socket ends", "machine", h.rec.Name, "socket", accept.Target, "err", err)
			return
		}
		relayed := s.spawn(func() {
			defer func() { <-slots }()
			conn, err := net.Dial("unix", path)
			if err != nil {
				stream.Close() // the one who connected sees the end
				s.log.Warn("a connection to the host's docker socket", "machine", h.rec.Name, "err", err)
				return
			}
			if err := wire.Relay(stream, conn.(*net.UnixConn)); err != nil {
				s.log.Debug("a connection to the host's docker socket", "machine", h.rec.Name, "err", err)
			}
		})
		if !relayed {
			stream.Close()
			return
		}
	}
}

// socketOwner is whose a socket of the host is, and what its mode allows.
func socketOwner(path string) (mode uint32, uid, gid int, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, 0, 0, fmt.Errorf("the host's docker socket: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode()&os.ModeSocket == 0 {
		return 0, 0, 0, fmt.Errorf("the host's docker socket: %s is no socket", path)
	}
	return uint32(info.Mode().Perm()), int(st.Uid), int(st.Gid), nil
}
