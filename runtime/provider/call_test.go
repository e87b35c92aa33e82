package provider

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// program makes a provider of a shell script, which knows metadata as $META says.
func program(t *testing.T, script string) Call {
	t.Helper()
	path := filepath.Join(t.TempDir(), "provider")
	text := "#!/bin/sh\nif [ \"$2\" = metadata ]; then echo \"$META\"; exit 0; fi\n" + script + "\n"
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return Call{
		Path: path, Env: []string{"PATH=" + os.Getenv("PATH"), "META=not json"}, Dir: t.TempDir(), Project: "shop", Service: "db", Type: "aws",
		Options: map[string][]string{"size": {"1", "2"}, "name": {"a b"}}, Config: []byte(`{"provider":{}}`),
	}
}

func TestCall(t *testing.T) {
	const meta = `META={"description":"d","up":{"parameters":[{"name":"name"},{"name":"zone","required":true}]},"down":{"parameters":[{"name":"size"}]}}`
	for _, tt := range []struct {
		name, script, meta string
		command            Command
		want               Variables
		err                string
		said               string
	}{
		{name: "all options without metadata", script: `echo "{\"type\":\"info\",\"message\":\"$*\"}"`, command: Up, said: "info compose --project-name=shop up --name=a b --size=1 --size=2 db\n"},
		{name: "the command's parameters only", script: `echo "{\"type\":\"info\",\"message\":\"$*\"}"`, meta: meta, command: Down, said: "info compose --project-name=shop down --size=1 --size=2 db\n"},
		{name: "a required one", meta: meta, command: Up, err: `required parameter "zone" is missing from provider "aws" definition`},
		{name: "no stop", script: "exit 1", meta: meta, command: Stop},
		{name: "stop", script: `echo "{\"type\":\"info\",\"message\":\"$3\"}"`, meta: `META={"description":"d","stop":{}}`, command: Stop, said: "info stop\n"},
		{
			name: "variables", command: Up,
			script: `printf '%s' '{"type":"setenv","message":"URL=a=b"}{"type":"rawsetenv","message":"RAW="}' '{"type":"debug","message":"two\nlines"}'`,
			want:   Variables{Prefixed: map[string]string{"URL": "a=b"}, Raw: map[string]string{"RAW": ""}}, said: "debug two\n",
		},
		{name: "its error", script: `echo '{"type":"error","message":"no quota"}'; sleep 1000`, command: Up, err: "no quota"},
		{name: "a status", script: "echo why >&2; exit 3", command: Up, err: "failed to create service provider: exit status 3: why"},
		{name: "down's words", script: "exit 3", command: Down, err: "failed to remove service provider: exit status 3"},
		{name: "no JSON", script: "echo hello; sleep 1000", command: Up, err: `provider "aws": invalid response: invalid character 'h' looking for beginning of value`},
		{name: "an unknown type", script: `echo '{"type":"other"}'`, command: Up, err: `provider "aws": invalid response of type "other"`},
		{name: "no variable", script: `echo '{"type":"setenv","message":"secret"}'`, command: Up, err: `provider "aws": invalid response: setenv without KEY=VALUE`},
		{
			name: "the service", command: Up,
			script: `echo '{"type":"get-service-config"}'; read answer; test "$answer" = '{"provider":{}}' && echo '{"type":"info","message":"right"}'`, said: "info right\n",
		},
		{name: "questions nobody reads", script: `while :; do echo '{"type":"get-service-config"}'; done`, command: Up, err: `provider "aws": it asks and does not read the answers`},
		{name: "endless", script: `printf '{"type":"info","message":"'; while :; do printf xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done`, command: Up, err: `provider "aws": invalid response: it says too much`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := program(t, tt.script)
			if tt.meta != "" {
				c.Env[1] = tt.meta
			}
			if tt.name == "questions nobody reads" {
				c.Config = bytes.Repeat([]byte(" "), 1<<20)
			}
			var said strings.Builder
			c.Info, c.Debug = func(s string) { said.WriteString("info " + s + "\n") }, func(s string) { said.WriteString("debug " + s + "\n") }
			got, err := c.Run(t.Context(), tt.command)
			switch {
			case tt.err == "" && err != nil, tt.err != "" && (err == nil || err.Error() != tt.err):
				t.Fatalf("error %v, want %s", err, tt.err)
			case tt.want.Prefixed != nil && !cmp.Equal(got, tt.want):
				t.Errorf("(-want +got):\n%s", cmp.Diff(tt.want, got))
			case said.String() != tt.said:
				t.Errorf("it said %q, want %q", said.String(), tt.said)
			}
		})
	}
}

// A call that is cancelled ends the program, and what that has started.
func TestCancel(t *testing.T) {
	c := program(t, `sleep 1000 & echo '{"type":"info","message":"begun"}'; wait`)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the user does not want it any more")
	c.Info = func(string) { cancel(why) }
	done := make(chan error, 1)
	go func() {
		_, err := c.Run(ctx, Up)
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, why) {
			t.Errorf("it ends with %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it goes on")
	}
}

// Whatever a program says, the names of variables can be told from their values,
// and there are not more than there may be.
func FuzzRead(f *testing.F) {
	for _, s := range []string{
		`{"type":"setenv","message":"A=b"}`, `{"type":"rawsetenv","message":"A=b=c"} {"type":"info","message":"x\ny"}`,
		`{"type":"error","message":"e"}`, `{"type":"get-service-config"}`, `[]`, `{"type":1}`, `{"type":"setenv","message":"=x"}`, "{\"type\":\"setenv\",\"message\":\"A\\u0000=\"}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		c := Call{Type: "t", Info: func(s string) {
			if strings.Contains(s, "\n") {
				t.Errorf("%q is no line", s)
			}
		}}
		v, err := c.read(bytes.NewReader(said), func() error { return nil })
		if err != nil {
			return
		}
		for _, m := range []map[string]string{v.Prefixed, v.Raw} {
			for k, value := range m {
				if k == "" || strings.ContainsAny(k, "=\x00") || strings.Contains(value, "\x00") {
					t.Errorf("variable %q=%q", k, value)
				}
			}
		}
	})
}
