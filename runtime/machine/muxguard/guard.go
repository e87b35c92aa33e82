package muxguard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Guard is a machine's end of a session as the library may read it.
type Guard struct {
	io.ReadWriteCloser
	opens   bool
	onBreak func(error)

	head    [header]byte
	have    int    // bytes of head
	payload uint32 // bytes that follow the last header
	broken  error
}

// The header of yamux: version, type (1 byte each), flags (2), stream (4), length
// (4), big endian. Only data has a payload.
const (
	header   = 12
	typeData = 0
	typePing = 2
	typeMax  = 3
	flagSYN  = 1
)

// Errors by which Read ends a session.
var (
	ErrPing = errors.New("the machine's agent broke the protocol: it asked for a ping")
	ErrOpen = errors.New("the machine's agent broke the protocol: it opened a stream")
)

// New guards what is read from rw. A machine that opens no streams itself must
// not: opens is false. onBreak, which may be nil, is told of the rule that was
// broken, before Read returns it.
func New(rw io.ReadWriteCloser, opens bool, onBreak func(error)) *Guard {
	return &Guard{ReadWriteCloser: rw, opens: opens, onBreak: onBreak}
}

func (g *Guard) Read(b []byte) (int, error) {
	if g.broken != nil {
		return 0, g.broken
	}
	n, err := g.ReadWriteCloser.Read(b)
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
		if g.have < header {
			break
		}
		g.have = 0
		if g.broken = g.check(); g.broken != nil {
			if g.onBreak != nil {
				g.onBreak(g.broken)
			}
			return 0, g.broken
		}
	}
	return n, err
}

// check judges a whole header.
func (g *Guard) check() error {
	kind, flags := g.head[1], binary.BigEndian.Uint16(g.head[2:])
	switch {
	case g.head[0] != 0 || kind > typeMax:
		return fmt.Errorf("the machine's agent broke the protocol: version %d, type %d", g.head[0], kind)
	case kind == typePing && flags&flagSYN != 0:
		return ErrPing
	case flags&flagSYN != 0 && !g.opens:
		return ErrOpen
	case kind == typeData:
		g.payload = binary.BigEndian.Uint32(g.head[8:])
	}
	return nil
}
