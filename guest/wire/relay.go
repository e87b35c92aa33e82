package wire

import (
	"errors"
	"fmt"
	"io"
)

// Half is a connection of which either way ends by itself.
type Half interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Relay carries bytes between a connection and a stream of frames until both ways
// have ended, or one has failed; then both are closed. Its goroutine has ended when
// it returns.
func Relay(stream io.ReadWriteCloser, conn Half) error {
	sent := make(chan error, 1)
	end := func() {
		stream.Close()
		conn.Close()
	}
	go func() {
		err := send(stream, conn)
		if err != nil {
			end() // what wakes the other way
		}
		sent <- err
	}()
	err := receive(stream, conn)
	if err != nil {
		end()
	}
	err = errors.Join(err, <-sent)
	end()
	return err
}

func send(stream io.Writer, conn io.Reader) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			if err := WriteFrame(stream, FrameData, buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return WriteFrame(stream, FrameDataEOF, nil)
		}
		if err != nil {
			return err
		}
	}
}

func receive(stream io.Reader, conn Half) error {
	var buf []byte
	for {
		kind, p, err := ReadFrame(stream, &buf)
		if err != nil {
			return err
		}
		switch kind {
		case FrameData:
			if _, err := conn.Write(p); err != nil {
				return err
			}
		case FrameDataEOF:
			return conn.CloseWrite()
		default:
			return fmt.Errorf("%w: kind %d of a relayed connection", ErrFrame, kind)
		}
	}
}
