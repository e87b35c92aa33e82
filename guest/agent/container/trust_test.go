//go:build linux

package container

import (
	"bytes"
	"testing"
)

func pemOf(content string) string {
	return certificateBegin + "\n" + content + "\n" + certificateEnd + "\n"
}

func TestMissing(t *testing.T) {
	for _, tt := range []struct{ name, have, cas, want string }{
		{"all are new", "# comment\n" + pemOf("AA"), pemOf("BB") + pemOf("CC"), "\n" + pemOf("BB") + pemOf("CC")},
		{"all are there", pemOf("BB") + pemOf("AA"), pemOf("AA") + pemOf("BB"), ""},
		{"other line breaks", pemOf("AA\r\nBB"), pemOf("AABB"), ""},
		{"twice", "", pemOf("AA") + pemOf("AA"), "\n" + pemOf("AA")},
		{"one that breaks off", certificateBegin + "\nAA", pemOf("AA"), "\n" + pemOf("AA")},
		{"none", pemOf("AA"), "", ""},
	} {
		if got := string(missing([]byte(tt.have), []byte(tt.cas))); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// Whatever an image has for a bundle, what was added once is not added again.
func FuzzMissing(f *testing.F) {
	f.Add([]byte(pemOf("AA")), []byte(pemOf("BB")))
	f.Add([]byte(pemOf("A A")+certificateBegin), []byte(pemOf("AA")+pemOf("")))
	f.Fuzz(func(t *testing.T, have, cas []byte) {
		added := missing(have, cas)
		if again := missing(append(bytes.Clone(have), added...), cas); len(again) > 0 {
			t.Errorf("%q, then %q", added, again)
		}
	})
}
