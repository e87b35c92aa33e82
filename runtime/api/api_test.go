package api

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestTokenIsMadeOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "token")
	if _, err := ReadToken(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	tokens := make([]string, 8)
	var wg sync.WaitGroup
	for i := range tokens {
		wg.Go(func() {
			var err error
			if tokens[i], err = MakeToken(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, token := range tokens {
		if token != tokens[0] || len(token) < 32 {
			t.Errorf("tokens %q", tokens)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadToken(path); err == nil {
		t.Error("a token that others may read was accepted")
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadToken(link); err == nil {
		t.Error("a link was followed")
	}
}

func TestRequireToken(t *testing.T) {
	h := RequireToken("secret", nil)
	for _, header := range []string{"", "secret", "Bearer ", "Bearer secre", "Bearer secrets"} {
		r := httptest.NewRequest(http.MethodPost, PathInfo, nil)
		r.Header.Set("Authorization", header)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r) // the nil handler behind it would panic
		if w.Code != 401 || strings.Contains(w.Body.String(), "secret\"") {
			t.Errorf("%q was answered %d %s", header, w.Code, w.Body)
		}
	}
}

func TestNewer(t *testing.T) {
	old := Build{ID: "a", Time: time.Unix(1, 0)}
	for _, tt := range []struct {
		b    Build
		want bool
	}{
		{Build{ID: "b", Time: time.Unix(2, 0)}, true},
		{Build{ID: "a", Time: time.Unix(2, 0)}, false}, // the same, copied
		{Build{ID: "b", Time: time.Unix(0, 0)}, false},
	} {
		if got := tt.b.Newer(old); got != tt.want {
			t.Errorf("%v newer than %v: %v", tt.b, old, got)
		}
	}
	if b := ThisBuild(); b.ID == "" || b.Time.IsZero() {
		t.Errorf("this build is %+v", b)
	}
}

func TestCredentialsDoNotPrint(t *testing.T) {
	r := Registry{Auth: map[string]Credentials{"x": {Username: "u", Password: "hunter2", IdentityToken: "hunter3"}}}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(format, r); strings.Contains(text, "hunter") {
			t.Errorf("%s prints %s", format, text)
		}
	}
}

func TestAsError(t *testing.T) {
	inner := &Error{Code: CodeNotFound, Message: "no such container: x", ExitCode: 3}
	if got := AsError(inner); got != inner {
		t.Errorf("got %v", got)
	}
	got := AsError(fmt.Errorf("service web: %w", inner))
	if got.Code != CodeNotFound || got.ExitCode != 3 || got.Message != "service web: no such container: x" {
		t.Errorf("got %+v", got)
	}
}
