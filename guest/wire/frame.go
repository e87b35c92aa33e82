package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// FrameKind is what a frame of an attached stream carries.
type FrameKind uint8

// Kinds of frames. The host sends stdin, its end, resizes and signals; the agent
// sends output and, last, the exit status. A relayed connection has two of its own:
// the end of a stream would not do, because what half-closes one of yamux's is given
// a few minutes to be closed altogether.
const (
	FrameStdin    FrameKind = iota // bytes
	FrameStdout                    // bytes
	FrameStderr                    // bytes
	FrameStdinEOF                  // empty
	FrameResize                    // WindowSize as JSON
	FrameSignal                    // a signal's name
	FrameExit                      // ExitStatus as JSON; nothing follows
	FrameData                      // bytes of a relayed connection, either way
	FrameDataEOF                   // empty: no more of them that way
	frameKinds
)

// MaxFrame is the largest payload of one frame, in bytes.
const MaxFrame = 64 << 10

// ErrFrame is returned for a frame that breaks the rules.
var ErrFrame = errors.New("malformed frame")

// WriteFrame writes one frame: kind (1 byte), length (4 bytes, big endian),
// payload. Payloads above MaxFrame are split, for byte kinds only.
func WriteFrame(w io.Writer, kind FrameKind, payload []byte) error {
	for first := true; first || len(payload) > 0; first = false {
		part := payload
		if len(part) > MaxFrame {
			if kind > FrameStderr {
				return fmt.Errorf("%w: kind %d with %d bytes", ErrFrame, kind, len(payload))
			}
			part = part[:MaxFrame]
		}
		payload = payload[len(part):]
		buf := make([]byte, 5, 5+len(part))
		buf[0] = byte(kind)
		binary.BigEndian.PutUint32(buf[1:], uint32(len(part)))
		if _, err := w.Write(append(buf, part...)); err != nil {
			return err
		}
	}
	return nil
}

// ReadFrame reads one frame into buf, which it grows to at most MaxFrame, and
// returns the payload as a slice of it, valid until the next call with it.
func ReadFrame(r io.Reader, buf *[]byte) (FrameKind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	kind, n := FrameKind(head[0]), binary.BigEndian.Uint32(head[1:])
	if kind >= frameKinds || n > MaxFrame {
		return 0, nil, fmt.Errorf("%w: kind %d, %d bytes", ErrFrame, kind, n)
	}
	if cap(*buf) < int(n) {
		*buf = make([]byte, n)
	}
	payload := (*buf)[:n]
	if _, err := io.ReadFull(r, payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return kind, payload, nil
}
