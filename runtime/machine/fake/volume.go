package fake

import (
	"bytes"
	"io"
	"os"

	"github.com/hashicorp/yamux"

	"github.com/stackvm/stack/guest/wire"
)

// putVolume keeps the tar that fills a volume in the volume's disk: a disk of
// zeros is an empty volume.
func (g *Guest) putVolume(req wire.Request) (any, func(*yamux.Stream), error) {
	v, path, text, err := g.volume(req)
	if err != nil {
		return nil, nil, err
	}
	if len(bytes.Trim(text, "\x00")) > 0 && !v.Force {
		return nil, nil, fault(wire.CodeConflict, "the volume is not empty")
	}
	return nil, func(s *yamux.Stream) {
		var reply wire.Reply
		tar, err := io.ReadAll(s)
		if err == nil { // as large as it was, if it fits
			err = os.WriteFile(path, append(tar, make([]byte, max(0, len(text)-len(tar)))...), 0o600)
		}
		if err != nil {
			reply.Error = &wire.Error{Code: wire.CodeInvalid, Message: err.Error()}
		}
		_ = wire.WriteMessage(s, reply)
	}, nil
}

func (g *Guest) getVolume(req wire.Request) (any, func(*yamux.Stream), error) {
	_, _, text, err := g.volume(req)
	return nil, func(s *yamux.Stream) { _, _ = s.Write(text) }, err
}

func (g *Guest) volume(req wire.Request) (v wire.Volume, path string, text []byte, err error) {
	if err := decode(req, &v); err != nil {
		return v, "", nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	d, ok := g.disks[v.Serial]
	if !ok {
		return v, "", nil, fault(wire.CodeNotFound, "no disk %q", v.Serial)
	}
	path = d.Extents[0].Path
	text, err = os.ReadFile(path)
	return v, path, text, err
}
