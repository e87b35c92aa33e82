package spec

import (
	"cmp"
	"errors"
	"slices"
	"strings"

	"github.com/hashicorp/go-multierror"
)

// faults are what is wrong with the files, in the order they were found.
type faults []*Error

func (f *faults) add(pos Pos, err error) { *f = append(*f, &Error{Pos: pos, Err: err}) }

// err returns the faults by file and line, each once: nil, one *Error, or a
// *multierror.Error of them.
func (f faults) err() error {
	f = slices.Clone(f)
	slices.SortStableFunc(f, func(a, b *Error) int { return comparePos(a.Pos, b.Pos) })
	f = slices.CompactFunc(f, func(a, b *Error) bool { return a.Error() == b.Error() })
	switch len(f) {
	case 0:
		return nil
	case 1:
		return f[0]
	}
	var m *multierror.Error
	for _, e := range f {
		m = multierror.Append(m, e)
	}
	m.ErrorFormat = lines
	return m
}

func comparePos(a, b Pos) int {
	return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
}

// lines prints one error a line, without a count: each says where it is.
func lines(errs []error) string {
	out := make([]string, len(errs))
	for i, e := range errs {
		out[i] = e.Error()
	}
	return strings.Join(out, "\n")
}

// Errors returns the single faults in an error of Load, or the error itself.
func Errors(err error) []error {
	if m := (*multierror.Error)(nil); errors.As(err, &m) {
		return m.Errors
	}
	if err == nil {
		return nil
	}
	return []error{err}
}
