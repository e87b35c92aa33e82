package spec

import (
	"fmt"
	"strings"
)

// Error is a fault of a compose file or of what it refers to, made for people:
// it prints as "file:line: cause", and a hint on a line of its own.
type Error struct {
	Pos  Pos
	Err  error
	Hint string
}

func (e *Error) Error() string {
	s := e.Err.Error()
	if p := e.Pos.String(); p != "" {
		s = p + ": " + s
	}
	if e.Hint != "" {
		s += "\n  hint: " + e.Hint
	}
	return Printable(s)
}

func (e *Error) Unwrap() error { return e.Err }

// Printable replaces what would do something to a terminal: files are quoted in
// messages, and may come from anyone.
func Printable(s string) string {
	if !strings.ContainsFunc(s, isControl) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if isControl(r) {
			fmt.Fprintf(&b, `\x%02x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func isControl(r rune) bool {
	return r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u202e'
}
