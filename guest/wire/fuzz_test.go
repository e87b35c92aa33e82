package wire

import (
	"bytes"
	"encoding/json"
	"io"
	"net/netip"
	"reflect"
	"testing"
)

// Whatever ReadMessage accepts is written again as something that reads the same.
func FuzzReadMessage(f *testing.F) {
	for _, v := range []any{
		Request{Op: OpHello, Body: json.RawMessage(`{"protocol":1}`)},
		Reply{Error: &Error{Code: CodeNotFound, Message: "no"}},
		Event{Kind: EventState, Container: "x", Exit: &ExitStatus{Code: 137, OOM: true}},
		Event{Kind: EventPorts, Container: "x", Ports: []ListeningPort{{Protocol: "udp", Addr: netip.MustParseAddr("127.0.0.1"), Port: 53, Relay: 40000}}},
		Farewell{Containers: map[string]ExitStatus{"x": {Code: 1}}},
		Container{ID: "x", Args: []string{"sh"}, Health: &Healthcheck{Test: []string{"true"}}},
	} {
		var b bytes.Buffer
		if err := WriteMessage(&b, v); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Add([]byte("\x00\x10\x00\x01"))
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, v := range []any{new(Request), new(Reply), new(Event), new(Farewell), new(Stats), new(HelloReply), new(Container)} {
			if ReadMessage(bytes.NewReader(in), v) != nil {
				continue
			}
			var b bytes.Buffer
			if err := WriteMessage(&b, v); err != nil {
				t.Fatalf("%T cannot be written again: %v", v, err)
			}
			first := append([]byte(nil), b.Bytes()...)
			again := reflect.New(reflect.TypeOf(v).Elem()).Interface()
			if err := ReadMessage(&b, again); err != nil {
				t.Fatalf("%T cannot be read again: %v", v, err)
			}
			b.Reset()
			if err := WriteMessage(&b, again); err != nil || !bytes.Equal(first, b.Bytes()) {
				t.Fatalf("%T: %q became %q, %v", v, first, b.Bytes(), err)
			}
		}
	})
}

// Frames read are, written again, the bytes that were read.
func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x05hello\x06\x00\x00\x00\x02{}"))
	f.Add([]byte("\x03\x00\x00\x00\x00"))
	f.Add([]byte("\x01\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		var buf []byte
		var out bytes.Buffer
		for {
			kind, p, err := ReadFrame(r, &buf)
			if cap(buf) > MaxFrame {
				t.Fatalf("a buffer of %d bytes", cap(buf))
			}
			if err != nil {
				break
			}
			if err := WriteFrame(&out, kind, p); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(in, out.Bytes()) {
			t.Fatalf("%q was read as %q", in, out.Bytes())
		}
	})
}

// Records read are, written again, the bytes that were read.
func FuzzReadLogRecord(f *testing.F) {
	for _, r := range []LogRecord{
		{Seq: 1, TimeNanos: 2, Container: "abc", Stream: FrameStdout, Line: []byte("line")},
		{Seq: 2, Stream: FrameStderr, Partial: true},
	} {
		b, err := AppendLogRecord(nil, &r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		var out []byte
		for {
			rec, err := ReadLogRecord(r)
			if err != nil {
				break
			}
			if out, err = AppendLogRecord(out, &rec); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(in, out) {
			t.Fatalf("%q was read as %q", in, out)
		}
	})
}

// stream reads from one buffer and writes to another.
type stream struct {
	io.Reader
	io.Writer
}

// An answer is the greeting that came, nothing is taken of what follows it, and
// nothing is answered to what is none.
func FuzzAnswer(f *testing.F) {
	key := Key([]byte("0123456789abcdef"))
	f.Add([]byte("junk"), []byte("nonce67890123456"), []byte("rest"))
	f.Add([]byte("0123456789abcde"), []byte("0123456789abcdef"), []byte(""))
	f.Add([]byte("00123456789abcde0"), []byte("0123456"), []byte("x"))
	f.Fuzz(func(t *testing.T, before, nonce, after []byte) {
		in := bytes.NewReader(bytes.Join([][]byte{before, key[:], nonce, after}, nil))
		var out bytes.Buffer
		all := append(append(append([]byte(nil), before...), key[:]...), append(nonce, after...)...)
		at := bytes.Index(all, key[:]) + len(key)
		err := Answer(stream{in, &out}, key)
		if len(all)-at < nonceLen {
			if err == nil || out.Len() > 0 {
				t.Fatalf("answered %q to half a greeting", out.Bytes())
			}
			return
		}
		want := append(append([]byte(nil), key[:]...), all[at:at+nonceLen]...)
		if err != nil || !bytes.Equal(out.Bytes(), want) {
			t.Fatalf("answered %q, %v; want %q", out.Bytes(), err, want)
		}
		if in.Len() != len(all)-at-nonceLen {
			t.Fatalf("%d bytes of the session left, want %d", in.Len(), len(all)-at-nonceLen)
		}
	})
}

// A host that reads whatever a machine sends finds its own greeting and nothing
// else, and does not panic.
func FuzzGreet(f *testing.F) {
	key := Key([]byte("0123456789abcdef"))
	f.Add([]byte("junk0123456789abcdef"), true)
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, before []byte, echoes bool) {
		m := &machine{before: before, echoes: echoes}
		err := Greet(m, key)
		if echoes != (err == nil) {
			t.Fatalf("echo %v, error %v", echoes, err)
		}
	})
}

// machine sends something, then perhaps what it was sent.
type machine struct {
	before []byte
	echoes bool
	sent   bytes.Buffer
}

func (m *machine) Write(p []byte) (int, error) { return m.sent.Write(p) }

func (m *machine) Read(p []byte) (int, error) {
	if len(m.before) > 0 {
		n := copy(p, m.before)
		m.before = m.before[n:]
		return n, nil
	}
	if m.echoes {
		return m.sent.Read(p)
	}
	return 0, io.EOF
}
