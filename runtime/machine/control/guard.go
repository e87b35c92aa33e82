package control

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
)

// guard is a port's reading end that passes on only what an agent may send of
// yamux: it opens no stream and asks for no ping. For either the library keeps
// memory, or a goroutine, until its answer is written, and a machine that does
// not read could make that as much as it likes.
type guard struct {
	*port
	onBreak func(error)

	head    [muxHead]byte
	have    int    // bytes of head
	payload uint32 // bytes that follow the last header
	broken  error
}

// The header of yamux: version, type (1 byte each), flags (2), stream (4), length
// (4), big endian. Only data has a payload.
const (
	muxHead = 12
	muxData = 0
	muxSYN  = 1
)

var errOpens = errors.New("the machine's agent broke the protocol: it opened a stream or asked for a ping")

func (g *guard) Read(b []byte) (int, error) {
	if g.broken != nil {
		return 0, g.broken
	}
	n, err := g.port.Read(b)
	for rest := b[:n]; len(rest) > 0; {
		if g.payload > 0 {
			skip := min(uint64(g.payload), uint64(len(rest)))
			g.payload -= uint32(skip)
			rest = rest[skip:]
			continue
		}
		took := copy(g.head[g.have:], rest)
		g.have += took
		rest = rest[took:]
		if g.have < muxHead {
			break
		}
		g.have = 0
		kind, flags := g.head[1], binary.BigEndian.Uint16(g.head[2:])
		switch {
		case g.head[0] != 0 || kind > 3:
			g.broken = fmt.Errorf("the machine's agent broke the protocol: version %d, type %d", g.head[0], kind)
		case flags&muxSYN != 0:
			g.broken = errOpens
		case kind == muxData:
			g.payload = binary.BigEndian.Uint32(g.head[8:])
		}
		if g.broken != nil {
			g.onBreak(g.broken)
			return 0, g.broken
		}
	}
	return n, err
}

var _ net.Conn = (*guard)(nil)
