package logs

import (
	"bytes"
	"io"
	"testing"

	"github.com/stackvm/stack/guest/wire"
)

// conn reads what is in it, then ends.
type conn struct{ io.Reader }

func (conn) Write(b []byte) (int, error) { return len(b), nil }
func (conn) Close() error                { return nil }

// The greeting that ends a session is no acknowledgement.
func TestGreetingIsNoAck(t *testing.T) {
	q := NewQueue()
	for range 3 {
		if err := q.Append(&wire.LogRecord{Container: "c", Stream: wire.FrameStdout, Line: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	kept := len(q.records)
	var in bytes.Buffer
	wire.WriteLogAck(&in, 1)
	key := wire.Key{0x10, 15: 1}
	in.Write(key[:])
	q.Session(conn{&in})
	if want := kept / 3 * 2; len(q.records) != want {
		t.Errorf("%d bytes of records kept, want %d: all but the one acknowledged", len(q.records), want)
	}
}
