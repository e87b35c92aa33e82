package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-multierror"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/api"
)

var now = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func TestParseTime(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want time.Time
	}{
		{"", time.Time{}},
		{"42m", now.Add(-42 * time.Minute)},
		{"1h30m", now.Add(-90 * time.Minute)},
		{"2013-01-02T13:23:37Z", time.Date(2013, 1, 2, 13, 23, 37, 0, time.UTC)},
		{"2013-01-02T13:23:37.123456789+02:00", time.Date(2013, 1, 2, 11, 23, 37, 123456789, time.UTC)},
		{"2013-01-02T13:23:37", time.Date(2013, 1, 2, 13, 23, 37, 0, time.Local)},
		{"2013-01-02T13:23", time.Date(2013, 1, 2, 13, 23, 0, 0, time.Local)},
		{"2013-01-02T13", time.Date(2013, 1, 2, 13, 0, 0, 0, time.Local)},
		{"2013-01-02", time.Date(2013, 1, 2, 0, 0, 0, 0, time.Local)},
		{"2013-01-02Z", time.Date(2013, 1, 2, 0, 0, 0, 0, time.UTC)},
		{"1136073845", time.Unix(1136073845, 0)},
		{"1136073845.5", time.Unix(1136073845, 5e8)},
	} {
		if got, err := parseTime(tc.in, now); err != nil || !got.Equal(tc.want) {
			t.Errorf("%q: %v, %v, want %v", tc.in, got, err, tc.want)
		}
	}
	for _, in := range []string{"yesterday", "2013-13-01", "-5", "NaN", "Inf", "1e300", "42 m", "\x00"} {
		if got, err := parseTime(in, now); err == nil {
			t.Errorf("%q: %v, want an error", in, got)
		}
	}
}

func FuzzParseTime(f *testing.F) {
	for _, s := range []string{"", "42m", "2013-01-02", "1136073845.5", "9223372036854775807", "2013-01-02T13:23:37Z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		got, err := parseTime(in, now)
		if err != nil {
			if !got.IsZero() {
				t.Errorf("%q: %v beside %v", in, got, err)
			}
			return
		}
		if in == "" {
			return
		}
		again, err := parseTime(got.Format(time.RFC3339Nano), now)
		if got.Year() >= 0 && got.Year() < 10000 && (err != nil || !again.Equal(got)) {
			t.Errorf("%q is %v, which reads as %v, %v", in, got, again, err)
		}
	})
}

func TestParseTail(t *testing.T) {
	for in, want := range map[string]int{"": -1, "all": -1, "0": 0, "12": 12} {
		if got, err := parseTail(in); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"some", "1.5", "99999999999999999999"} {
		if _, err := parseTail(in); err == nil {
			t.Errorf("%q was taken", in)
		}
	}
}

func TestParseScale(t *testing.T) {
	got, err := parseScale([]string{"web=3", "db=0", "web=2"})
	if diff := cmp.Diff(map[string]int{"web": 2, "db": 0}, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	for _, in := range []string{"", "web", "web=", "=3", "web=-1", "web=x", "web=1=2"} {
		if got, err := parseScale([]string{in}); err == nil {
			t.Errorf("%q: %v, want an error", in, got)
		}
	}
}

func TestSplitCopy(t *testing.T) {
	for in, want := range map[string][2]string{
		"web:/etc/hosts": {"web", "/etc/hosts"},
		"web:a:b":        {"web", "a:b"},
		"web:":           {"web", ""},
		"file":           {"", "file"},
		"./web:x":        {"", "./web:x"},
		"../web:x":       {"", "../web:x"},
		"/web:x":         {"", "/web:x"},
		"-":              {"", "-"},
	} {
		if service, path := splitCopy(in); service != want[0] || path != want[1] {
			t.Errorf("%q: %q, %q, want %q", in, service, path, want)
		}
	}
}

func TestSplitTag(t *testing.T) {
	for in, want := range map[string][2]string{
		"nginx:1.27":                {"nginx", "1.27"},
		"nginx":                     {"nginx", "latest"},
		"registry.test:5000/a/b":    {"registry.test:5000/a/b", "latest"},
		"registry.test:5000/a/b:v1": {"registry.test:5000/a/b", "v1"},
	} {
		if repository, tag := splitTag(in); repository != want[0] || tag != want[1] {
			t.Errorf("%q: %q, %q, want %q", in, repository, tag, want)
		}
	}
}

func TestFromEnvironment(t *testing.T) {
	t.Setenv("STACK_TEST_SET", "a=b")
	got, err := fromEnvironment([]string{"K=V", "EMPTY=", "STACK_TEST_SET", "STACK_TEST_UNSET"})
	if diff := cmp.Diff([]string{"K=V", "EMPTY=", "STACK_TEST_SET=a=b"}, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if _, err := fromEnvironment([]string{"=V"}); err == nil {
		t.Error("a variable without a name was taken")
	}
}

// TestExitStatus holds the statuses that scripts rely on, docker compose's.
func TestExitStatus(t *testing.T) {
	var many error = multierror.Append(nil, errors.New("one"), errors.New("two"))
	for _, tc := range []struct {
		name   string
		err    error
		status int
		says   string
	}{
		{"success", nil, 0, ""},
		{"an error", errors.New("no such service: x"), 1, "no such service: x\n"},
		{"several", many, 1, "one\ntwo\n"},
		{"interrupted", fmt.Errorf("pulling: %w", context.Canceled), 130, ""},
		{"interrupted up", statusInterrupted, 130, ""},
		{"the command's own", status(wire.ExitStatus{Code: 7}, nil), 7, ""},
		{"the command succeeded", status(wire.ExitStatus{}, nil), 0, ""},
		{"could not run", status(wire.ExitStatus{Code: 126, Error: "not executable"}, nil), 126, "not executable\n"},
		{"not found", commandFailure(&api.Error{Code: api.CodeCommand, Message: "not found", ExitCode: 127}), 127, "not found\n"},
		{"another fault", commandFailure(&api.Error{Code: api.CodeNotFound, Message: "no container"}), 1, "no container\n"},
		{"plan --exit-code", statusChanges, 2, ""},
	} {
		var said bytes.Buffer
		a := &app{err: &said}
		if got := a.report(tc.err); got != tc.status || said.String() != tc.says {
			t.Errorf("%s: status %d, %q, want %d, %q", tc.name, got, said.String(), tc.status, tc.says)
		}
	}
}
