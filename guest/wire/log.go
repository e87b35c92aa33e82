package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// LogRecord is one line, or a part of one, that a container wrote.
type LogRecord struct {
	// Seq numbers the machine's records from 1, without gaps. The host writes a
	// record down, then acknowledges its Seq; the agent keeps and resends what
	// is not acknowledged.
	Seq       uint64
	TimeNanos int64     // Unix time of the write
	Container string    // id, at most 64 bytes
	Stream    FrameKind // FrameStdout or FrameStderr
	Partial   bool      // the line goes on in the container's next record of this stream
	Line      []byte    // without the newline; at most MaxLogLine bytes
}

// MaxLogLine is the longest Line of one record; longer lines are split into
// partial records, as docker does at the same size.
const MaxLogLine = 16 << 10

// logHead: length of what follows (4), seq (8), time (8), flags (1), length of
// the container id (1).
const logHead = 4 + 8 + 8 + 1 + 1

const (
	logStderr  = 1 << 0
	logPartial = 1 << 1
)

// ErrLogRecord is returned for a record that breaks the rules.
var ErrLogRecord = errors.New("malformed log record")

// AppendLogRecord appends r's encoding to b.
func AppendLogRecord(b []byte, r *LogRecord) ([]byte, error) {
	if len(r.Container) > 64 || len(r.Line) > MaxLogLine {
		return b, fmt.Errorf("%w: %d bytes of id, %d of line", ErrLogRecord, len(r.Container), len(r.Line))
	}
	b = binary.BigEndian.AppendUint32(b, uint32(logHead-4+len(r.Container)+len(r.Line)))
	b = binary.BigEndian.AppendUint64(b, r.Seq)
	b = binary.BigEndian.AppendUint64(b, uint64(r.TimeNanos))
	var flags byte
	if r.Stream == FrameStderr {
		flags |= logStderr
	}
	if r.Partial {
		flags |= logPartial
	}
	b = append(b, flags, byte(len(r.Container)))
	b = append(b, r.Container...)
	return append(b, r.Line...), nil
}

// ReadLogRecord reads one record; its Line is the caller's.
func ReadLogRecord(r io.Reader) (LogRecord, error) {
	var head [logHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return LogRecord{}, err
	}
	n := int64(binary.BigEndian.Uint32(head[:]))
	flags, idLen := head[20], int64(head[21])
	rest := n - (logHead - 4)
	if rest < idLen || idLen > 64 || rest-idLen > MaxLogLine || flags&^(logStderr|logPartial) != 0 {
		return LogRecord{}, fmt.Errorf("%w: %d bytes, id of %d, flags %#x", ErrLogRecord, n, idLen, flags)
	}
	body := make([]byte, rest)
	if _, err := io.ReadFull(r, body); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return LogRecord{}, err
	}
	rec := LogRecord{
		Seq:       binary.BigEndian.Uint64(head[4:]),
		TimeNanos: int64(binary.BigEndian.Uint64(head[12:])),
		Container: string(body[:idLen]),
		Stream:    FrameStdout,
		Partial:   flags&logPartial != 0,
		Line:      body[idLen:],
	}
	if flags&logStderr != 0 {
		rec.Stream = FrameStderr
	}
	return rec, nil
}

// WriteLogAck acknowledges every record up to and including seq. The host's
// first acknowledgement after a greeting names the last record it has, 0 for
// none: the agent resends from the next.
func WriteLogAck(w io.Writer, seq uint64) error {
	_, err := w.Write(binary.BigEndian.AppendUint64(nil, seq))
	return err
}

// ReadLogAck reads one acknowledgement.
func ReadLogAck(r io.Reader) (uint64, error) {
	var b [8]byte
	_, err := io.ReadFull(r, b[:])
	return binary.BigEndian.Uint64(b[:]), err
}
