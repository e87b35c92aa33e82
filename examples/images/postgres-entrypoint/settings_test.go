package main

import (
	"errors"
	"io/fs"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReadSettings(t *testing.T) {
	files := map[string]string{"/run/secrets/password": "s3cret\n", "/two": "a\nb\n"}
	for _, tt := range []struct {
		name, env string
		want      settings
		fault     string
	}{
		{"nothing", "", settings{user: "postgres", database: "postgres", data: "/var/lib/postgresql/data"}, ""},
		{
			"everything", "POSTGRES_PASSWORD_FILE=/run/secrets/password POSTGRES_USER=app POSTGRES_INITDB_ARGS=--data-checksums PGDATA=/d POSTGRES_INITDB_WALDIR=/w POSTGRES_HOST_AUTH_METHOD=md5",
			settings{password: "s3cret", user: "app", database: "app", initdbArgs: []string{"--data-checksums"}, data: "/d", walDir: "/w", authMethod: "md5"},
			"",
		},
		{"database", "POSTGRES_DB=shop POSTGRES_USER=app", settings{user: "app", database: "shop", data: "/var/lib/postgresql/data"}, ""},
		{"empty counts as unset", "POSTGRES_USER= POSTGRES_PASSWORD= POSTGRES_PASSWORD_FILE=/run/secrets/password", settings{password: "s3cret", user: "postgres", database: "postgres", data: "/var/lib/postgresql/data"}, ""},
		{"both", "POSTGRES_PASSWORD=a POSTGRES_PASSWORD_FILE=/run/secrets/password", settings{}, "both POSTGRES_PASSWORD and"},
		{"no file", "POSTGRES_USER_FILE=/none", settings{}, "POSTGRES_USER_FILE"},
		{"two lines", "POSTGRES_PASSWORD_FILE=/two", settings{}, "line break"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			env := map[string]string{}
			for _, pair := range strings.Fields(tt.env) {
				key, value, _ := strings.Cut(pair, "=")
				env[key] = value
			}
			got, err := readSettings(
				func(name string) (string, bool) { v, ok := env[name]; return v, ok },
				func(name string) ([]byte, error) {
					if text, ok := files[name]; ok {
						return []byte(text), nil
					}
					return nil, fs.ErrNotExist
				})
			if tt.fault != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fault) {
					t.Errorf("error = %v, want %q", err, tt.fault)
				}
				return
			}
			got.initdbArgs = append([]string(nil), got.initdbArgs...)
			if diff := cmp.Diff(tt.want, *got, cmp.AllowUnexported(settings{})); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestCheckPassword(t *testing.T) {
	for _, tt := range []struct {
		s    settings
		want bool
	}{
		{settings{}, false},
		{settings{authMethod: "md5"}, false},
		{settings{authMethod: "trust"}, true},
		{settings{password: "x"}, true},
	} {
		if err := tt.s.checkPassword(); (err == nil) != tt.want {
			t.Errorf("%+v: %v", tt.s, err)
		}
	}
}

func TestQuoting(t *testing.T) {
	if got := identifier(`a"b`); got != `"a""b"` {
		t.Errorf("identifier: %s", got)
	}
	if got := shellQuote("a'b c"); got != `'a'\''b c'` {
		t.Errorf("shellQuote: %s", got)
	}
	if err := run([]string{"no-such-program-anywhere"}); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("run = %v", err)
	}
}
