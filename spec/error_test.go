package spec

import (
	"errors"
	"testing"
)

func TestErrorPrints(t *testing.T) {
	for _, tt := range []struct {
		e    *Error
		want string
	}{
		{&Error{Err: errors.New("x")}, "x"},
		{&Error{Pos: Pos{File: "a.yaml"}, Err: errors.New("x")}, "a.yaml: x"},
		{&Error{Pos: Pos{File: "a.yaml", Line: 3, Col: 4}, Err: errors.New("x"), Hint: "y"}, "a.yaml:3: x\n  hint: y"},
		{&Error{Err: errors.New("network \x1b[31mred\x07\u009b")}, `network \x1b[31mred\x07\x9b`},
	} {
		if got := tt.e.Error(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}
