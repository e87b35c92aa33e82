package spec

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
	return s
}

func (e *Error) Unwrap() error { return e.Err }
