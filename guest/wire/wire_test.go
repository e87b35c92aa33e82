package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestMessage(t *testing.T) {
	var b bytes.Buffer
	in := Request{Op: OpStop, Body: json.RawMessage(`{"id":"x"}`)}
	if err := WriteMessage(&b, in); err != nil {
		t.Fatal(err)
	}
	b.WriteString("raw bytes after it")
	var out Request
	if err := ReadMessage(iotest.OneByteReader(&b), &out); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in, out); diff != "" {
		t.Error(diff)
	}
	if b.String() != "raw bytes after it" {
		t.Errorf("left %q: a message takes more or less than itself", b.String())
	}
}

func TestMessageBounds(t *testing.T) {
	if err := WriteMessage(io.Discard, strings.Repeat("x", MaxMessage)); !errors.Is(err, ErrMessageTooLarge) {
		t.Errorf("writing a message of over a MiB: %v", err)
	}
	if err := WriteMessage(io.Discard, make(chan int)); err == nil {
		t.Error("writing what is not JSON succeeded")
	}
	for name, tt := range map[string]struct {
		in   string
		want error
	}{
		"nothing":        {"", io.EOF},
		"half a length":  {"\x00\x00", io.ErrUnexpectedEOF},
		"no body":        {"\x00\x00\x00\x02", io.ErrUnexpectedEOF},
		"half a body":    {"\x00\x00\x00\x02{", io.ErrUnexpectedEOF},
		"over the bound": {"\x00\x10\x00\x01", ErrMessageTooLarge},
		"4 GiB":          {"\xff\xff\xff\xff", ErrMessageTooLarge},
	} {
		var v any
		if err := ReadMessage(strings.NewReader(tt.in), &v); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	var v struct{ N int }
	if err := ReadMessage(strings.NewReader("\x00\x00\x00\x09{\"N\":\"x\"}"), &v); err == nil {
		t.Error("a message of another type was read")
	}
}

func TestFrame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := FrameKind(rapid.IntRange(0, int(FrameStderr)).Draw(t, "kind"))
		payload := bytes.Repeat(rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "payload"), rapid.SampledFrom([]int{1, 700, 3000}).Draw(t, "times"))
		var b bytes.Buffer
		if err := WriteFrame(&b, kind, payload); err != nil {
			t.Fatal(err)
		}
		var got, buf []byte
		for b.Len() > 0 {
			k, p, err := ReadFrame(&b, &buf)
			if err != nil || k != kind || len(p) > MaxFrame {
				t.Fatalf("kind %d, %d bytes, %v", k, len(p), err)
			}
			got = append(got, p...)
		}
		if !bytes.Equal(got, payload) {
			t.Fatalf("%d bytes became %d", len(payload), len(got))
		}
	})
}

func TestFrameBounds(t *testing.T) {
	if err := WriteFrame(io.Discard, FrameExit, make([]byte, MaxFrame+1)); !errors.Is(err, ErrFrame) {
		t.Errorf("a JSON frame was split: %v", err)
	}
	for name, tt := range map[string]struct {
		in   string
		want error
	}{
		"nothing":      {"", io.EOF},
		"unknown kind": {string([]byte{byte(frameKinds), 0, 0, 0, 0}), ErrFrame},
		"too long":     {"\x01\x00\x01\x00\x01", ErrFrame},
		"cut off":      {"\x01\x00\x00\x00\x05ab", io.ErrUnexpectedEOF},
		"cut head":     {"\x01\x00", io.ErrUnexpectedEOF},
	} {
		var buf []byte
		if _, _, err := ReadFrame(strings.NewReader(tt.in), &buf); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

func TestLogRecord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := LogRecord{
			Seq: rapid.Uint64().Draw(t, "seq"), TimeNanos: rapid.Int64().Draw(t, "time"),
			Container: rapid.StringN(0, 16, 64).Draw(t, "container"),
			Stream:    rapid.SampledFrom([]FrameKind{FrameStdout, FrameStderr}).Draw(t, "stream"),
			Partial:   rapid.Bool().Draw(t, "partial"),
			Line:      rapid.SliceOf(rapid.Byte()).Draw(t, "line"),
		}
		b, err := AppendLogRecord(nil, &in)
		if err != nil {
			t.Fatal(err)
		}
		out, err := ReadLogRecord(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(in, out) && !(len(in.Line) == 0 && len(out.Line) == 0) {
			t.Fatalf("%+v became %+v", in, out)
		}
	})
}

func TestLogRecordBounds(t *testing.T) {
	for _, r := range []LogRecord{{Container: strings.Repeat("x", 65)}, {Line: make([]byte, MaxLogLine+1)}} {
		if b, err := AppendLogRecord([]byte("before"), &r); !errors.Is(err, ErrLogRecord) || string(b) != "before" {
			t.Errorf("appending too much: %q, %v", b, err)
		}
	}
	record := func(n uint32, flags, id byte, rest int) string {
		b := binary.BigEndian.AppendUint32(nil, n)
		b = append(b, make([]byte, 16)...)
		b = append(b, flags, id)
		return string(append(b, make([]byte, rest)...))
	}
	for name, tt := range map[string]struct {
		in   string
		want error
	}{
		"nothing":           {"", io.EOF},
		"half a head":       {"\x00\x00\x00\x12\x00", io.ErrUnexpectedEOF},
		"shorter than head": {record(17, 0, 0, 0), ErrLogRecord},
		"id beyond the end": {record(20, 0, 3, 10), ErrLogRecord},
		"long id":           {record(18+65, 0, 65, 65), ErrLogRecord},
		"long line":         {record(18+MaxLogLine+1, 0, 0, 0), ErrLogRecord},
		"4 GiB":             {record(1<<32-1, 0, 0, 0), ErrLogRecord},
		"unknown flag":      {record(18, 4, 0, 0), ErrLogRecord},
		"cut off":           {record(28, 0, 0, 9), io.ErrUnexpectedEOF},
	} {
		if _, err := ReadLogRecord(strings.NewReader(tt.in)); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

func TestLogAck(t *testing.T) {
	var b bytes.Buffer
	WriteLogAck(&b, 1<<40+3)
	if seq, err := ReadLogAck(&b); err != nil || seq != 1<<40+3 {
		t.Errorf("%d, %v", seq, err)
	}
}

func TestKey(t *testing.T) {
	k := NewKey()
	if k == NewKey() {
		t.Error("two keys are equal")
	}
	text, err := json.Marshal(struct{ K Key }{k})
	if err != nil {
		t.Fatal(err)
	}
	var back struct{ K Key }
	if err := json.Unmarshal(text, &back); err != nil || back.K != k {
		t.Errorf("%s reads as %v, %v", text, back.K, err)
	}
	for _, bad := range []string{"", "00", strings.Repeat("0", 33), strings.Repeat("g", 32)} {
		if _, err := ParseKey(bad); err == nil {
			t.Errorf("ParseKey(%q) succeeded", bad)
		}
	}
}

// Whatever an earlier session left in either direction, a greeting ends in two
// streams that begin at the same place.
func TestGreeting(t *testing.T) {
	key := NewKey()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	rapid.Check(t, func(t *rapid.T) {
		junk := rapid.Custom(func(t *rapid.T) []byte {
			b := rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")
			if rapid.Bool().Draw(t, "part of a greeting") { // a host that died while it greeted
				b = append(b, key[:rapid.IntRange(1, len(key)-1).Draw(t, "length")]...)
			}
			return b
		})
		toGuest, toHost := junk.Draw(t, "to the guest"), junk.Draw(t, "to the host")
		host, err := net.Dial("tcp", listener.Addr().String()) // buffered, as a port is
		if err != nil {
			t.Fatal(err)
		}
		defer host.Close()
		guest, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer guest.Close()
		deadline := time.Now().Add(10 * time.Second)
		host.SetDeadline(deadline)
		guest.SetDeadline(deadline)
		host.Write(append(toGuest, 0))
		guest.Write(append(toHost, 0))
		answered := make(chan error, 1)
		go func() {
			if err := Answer(guest, key); err != nil {
				answered <- err
				return
			}
			_, err := guest.Write([]byte("session"))
			answered <- err
		}()
		if err := Greet(host, key); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 7)
		if _, err := io.ReadFull(host, buf); err != nil || string(buf) != "session" {
			t.Fatalf("the session begins with %q, %v", buf, err)
		}
		if err := <-answered; err != nil {
			t.Fatal(err)
		}
	})
}
