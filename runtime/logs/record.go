package logs

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/stackvm/stack/guest/wire"
)

// Record is one line of a log file: docker's json-file shape and Seq.
type Record struct {
	Log    string    `json:"log"`    // ends with a newline unless the line goes on in the next record of its stream
	Stream string    `json:"stream"` // stdout, stderr
	Time   time.Time `json:"time"`
	Seq    uint64    `json:"seq,omitempty"` // of its machine

	// End tells, in place of a line, that what wrote the lines before has ended.
	End *End `json:"end,omitempty"`
}

// End is how a run of a replica ended.
type End struct {
	Code       int       `json:"code"`
	Seen       time.Time `json:"seen"` // by the host's clock
	Restarting bool      `json:"restarting,omitempty"`
}

// appendRecord appends the JSON line of r. It is written by hand because it is
// on the path of every line a container prints.
func appendRecord(b []byte, r *wire.LogRecord) []byte {
	b = append(b, `{"log":"`...)
	b = appendEscaped(b, r.Line)
	if !r.Partial {
		b = append(b, `\n`...)
	}
	if r.Stream == wire.FrameStderr {
		b = append(b, `","stream":"stderr","time":"`...)
	} else {
		b = append(b, `","stream":"stdout","time":"`...)
	}
	b = recordTime(r.TimeNanos).AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","seq":`...)
	b = strconv.AppendUint(b, r.Seq, 10)
	return append(b, "}\n"...)
}

// recordTime bounds what a hostile machine may claim to what RFC 3339 can say.
func recordTime(nanos int64) time.Time {
	const year9999 = 253402300799
	if nanos < 0 || nanos/1e9 > year9999 {
		nanos = 0
	}
	return time.Unix(0, nanos).UTC()
}

const hexDigits = "0123456789abcdef"

// appendEscaped appends line as the inside of a JSON string. Bytes that are not
// UTF-8 become U+FFFD, as in docker.
func appendEscaped(b, line []byte) []byte {
	start := 0
	for i := 0; i < len(line); {
		c := line[i]
		if c < utf8.RuneSelf {
			if c >= 0x20 && c != '"' && c != '\\' {
				i++
				continue
			}
			b = append(b, line[start:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, `\n`...)
			case '\r':
				b = append(b, `\r`...)
			case '\t':
				b = append(b, `\t`...)
			default:
				b = append(b, `\u00`...)
				b = append(b, hexDigits[c>>4], hexDigits[c&15])
			}
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRune(line[i:])
		if r == utf8.RuneError && size == 1 {
			b = append(b, line[start:i]...)
			b = append(b, `\ufffd`...)
			i++
			start = i
			continue
		}
		i += size
	}
	return append(b, line[start:]...)
}

// What the lines of Writer.Begin and Writer.End start with, which are no records.
const (
	beginPrefix = `{"boot":`
	endPrefix   = `{"log":"","end":`
	longest     = len(endPrefix)
)

func isMarker(line []byte) bool { return bytes.HasPrefix(line, []byte(beginPrefix)) || isEnd(line) }

func isEnd(line []byte) bool { return bytes.HasPrefix(line, []byte(endPrefix)) }

// appendEnd appends the line of an end; seq is that of the record before it.
func appendEnd(b []byte, at time.Time, e End, seq uint64) []byte {
	text, err := json.Marshal(e)
	if err != nil {
		panic(err) // a bug: it holds nothing that has no JSON but years
	}
	b = append(append(b, endPrefix...), text...)
	b = append(b, `,"time":"`...)
	b = recordTime(at.UnixNano()).AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","seq":`...)
	return append(strconv.AppendUint(b, seq, 10), "}\n"...)
}

func parseRecord(line []byte) (Record, bool) {
	var r Record
	err := json.Unmarshal(line, &r)
	return r, err == nil
}
