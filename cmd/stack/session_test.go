package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/stackvm/stack/guest/wire"
)

// TestSessionStdin: what is typed reaches the command; the keys to detach end the
// session with success; the end of stdin is passed on unless it is to stay open.
func TestSessionStdin(t *testing.T) {
	for _, tc := range []struct {
		name    string
		s       session
		stdin   string
		sent    string // to the command, EOF as $
		exit    bool   // the command ends
		wantErr error
	}{
		{"all of it", session{}, "abc", "abc$", true, nil},
		{"left open", session{openStdin: true}, "abc", "abc", true, nil},
		{"detached", session{tty: true, detach: []byte{16, 17}}, "ab\x10\x11c", "ab", false, errDetached},
		{"half of the keys", session{tty: true, detach: []byte{16, 17}}, "ab\x10c", "ab\x10c$", true, nil},
		{"no terminal, no keys", session{detach: []byte{16, 17}}, "ab\x10\x11c", "ab\x10\x11c$", true, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			var out bytes.Buffer
			s := tc.s
			s.conn, s.stdin, s.out, s.err = ours, strings.NewReader(tc.stdin), &out, &out
			got := make(chan string, 1)
			go func() {
				var all strings.Builder
				var buf []byte
				defer func() {
					theirs.Close()
					got <- all.String()
				}()
				for {
					if tc.exit && all.String() == tc.sent {
						text, _ := json.Marshal(wire.ExitStatus{Code: 3})
						_ = wire.WriteFrame(theirs, wire.FrameExit, text)
						return
					}
					kind, b, err := wire.ReadFrame(theirs, &buf)
					if err != nil {
						return
					}
					switch kind {
					case wire.FrameStdin:
						all.Write(b)
					case wire.FrameStdinEOF:
						all.WriteByte('$')
					}
				}
			}()
			exit, err := s.run(t.Context())
			if sent := <-got; sent != tc.sent {
				t.Errorf("the command read %q, want %q", sent, tc.sent)
			}
			if !errors.Is(err, tc.wantErr) || tc.exit && exit.Code != 3 {
				t.Errorf("it ended with %+v, %v", exit, err)
			}
			if tc.wantErr != nil && status(exit, err) != nil {
				t.Errorf("to detach is an error: %v", status(exit, err))
			}
		})
	}
}
