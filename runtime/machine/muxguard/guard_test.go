package muxguard

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

type stream struct{ io.Reader }

func (stream) Write(b []byte) (int, error) { return len(b), nil }
func (stream) Close() error                { return nil }

var (
	data   = []byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 3, 0, 2, 0} // a payload like a ping
	window = []byte{0, 1, 0, 2, 0, 0, 0, 1, 0, 4, 0, 0}
	pong   = []byte{0, 2, 0, 2, 0, 0, 0, 0, 0, 0, 0, 7}
	ping   = []byte{0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7}
	open   = []byte{0, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0}
	goAway = []byte{0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
)

func TestGuard(t *testing.T) {
	for name, test := range map[string]struct {
		in    [][]byte
		opens bool
		want  error
	}{
		"an honest session":   {[][]byte{window, data, pong, data, goAway}, false, nil},
		"one that opens":      {[][]byte{open, data, window}, true, nil},
		"opening unasked":     {[][]byte{data, open}, false, ErrOpen},
		"a ping":              {[][]byte{data, ping}, false, ErrPing},
		"a ping with opening": {[][]byte{open, ping}, true, ErrPing},
	} {
		in := bytes.Join(test.in, nil)
		for how, r := range map[string]io.Reader{"whole": bytes.NewReader(in), "bytes": iotest.OneByteReader(bytes.NewReader(in))} {
			var told error
			g := New(stream{r}, test.opens, func(err error) { told = err })
			got, err := io.ReadAll(g)
			if !errors.Is(err, test.want) || !errors.Is(told, test.want) {
				t.Errorf("%s, %s: %v, told %v; want %v", name, how, err, told, test.want)
			}
			if test.want == nil && !bytes.Equal(got, in) {
				t.Errorf("%s, %s: %x passed of %x", name, how, got, in)
			}
		}
	}
}

// Cut into whatever pieces, the verdict on a stream is the same, and what passes
// is what came.
func FuzzGuard(f *testing.F) {
	for _, b := range [][]byte{data, window, pong, ping, open, bytes.Join([][]byte{open, data, ping}, nil)} {
		f.Add(b, true)
	}
	f.Fuzz(func(t *testing.T, in []byte, opens bool) {
		whole, wholeErr := io.ReadAll(New(stream{bytes.NewReader(in)}, opens, nil))
		piece, pieceErr := io.ReadAll(New(stream{iotest.OneByteReader(bytes.NewReader(in))}, opens, nil))
		if (wholeErr == nil) != (pieceErr == nil) || (wholeErr != nil && wholeErr.Error() != pieceErr.Error()) {
			t.Errorf("whole: %v, in pieces: %v", wholeErr, pieceErr)
		}
		if !bytes.HasPrefix(in, whole) || !bytes.HasPrefix(in, piece) || (wholeErr == nil && len(whole) != len(in)) {
			t.Errorf("%x and %x passed of %x", whole, piece, in)
		}
	})
}
