package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"go.uber.org/goleak"

	"github.com/stackvm/stack/runtime/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func digestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// fake is a registry of one repository, "library/x", that a test can break.
type fake struct {
	*httptest.Server
	manifest []byte
	blob     []byte

	mu       sync.Mutex
	requests []string                                                 // METHOD PATH of every request below /v2/
	before   func(n int, w http.ResponseWriter, r *http.Request) bool // answers the n-th such request itself if it says so
}

func newFake(t testing.TB, start func(http.Handler) *httptest.Server) *fake {
	t.Helper()
	f := &fake{manifest: []byte(`{"schemaVersion":2}`), blob: bytes.Repeat([]byte("0123456789abcdef"), 64<<10)}
	f.Server = start(f)
	t.Cleanup(f.Close)
	return f
}

func (f *fake) host() string { return f.Listener.Addr().String() }

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v2/" {
		return
	}
	f.mu.Lock()
	f.requests = append(f.requests, r.Method+" "+r.URL.Path)
	n, before := len(f.requests), f.before
	f.mu.Unlock()
	if before != nil && before(n, w, r) {
		return
	}
	rest, ok := strings.CutPrefix(r.URL.Path, "/v2/library/x/")
	switch {
	case !ok:
		http.NotFound(w, r)
	case rest == "manifests/1", rest == "manifests/"+digestOf(f.manifest):
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.Header().Set("Docker-Content-Digest", digestOf(f.manifest))
		if r.Method == http.MethodGet {
			w.Write(f.manifest)
		}
	case rest == "blobs/"+digestOf(f.blob):
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.blob)) // with ranges
	default:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`)
	}
}

func (f *fake) log() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.requests...)
}

// clock counts the pauses a client would make, and makes none.
type clock struct {
	mu     sync.Mutex
	pauses []time.Duration
	holds  []Hold
}

func (c *clock) held(h Hold) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holds = append(c.holds, h)
}

func (c *clock) sleep(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pauses = append(c.pauses, d)
	return ctx.Err()
}

func (c *clock) list() []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]time.Duration(nil), c.pauses...)
}

func newClient(t testing.TB, cfg *config.Config, keychain authn.Keychain) (*Client, *clock) {
	t.Helper()
	clk := &clock{}
	c := New(Options{Config: cfg, Keychain: keychain, sleep: clk.sleep, Held: clk.held})
	t.Cleanup(c.Close)
	return c, clk
}

func mirrors(t testing.TB, urls ...string) *config.Config {
	t.Helper()
	var r config.Registry
	for _, s := range urls {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		r.Mirrors = append(r.Mirrors, u)
	}
	return &config.Config{Registries: map[string]config.Registry{config.DockerHub: r}}
}

func at(host string) Repository { return Repository{Host: host, Path: "library/x"} }

var hub = at(config.DockerHub)

// deadHost is an address at which nothing listens.
func deadHost(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestMirrorsInTheirOrder(t *testing.T) {
	first, second := newFake(t, httptest.NewServer), newFake(t, httptest.NewServer)
	first.before = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusNotFound)
		return true
	}
	c, _ := newClient(t, mirrors(t, "http://"+deadHost(t), first.URL, second.URL), nil)
	m, err := c.Manifest(t.Context(), hub, "1")
	if err != nil {
		t.Fatal(err)
	}
	if m.Digest != digestOf(second.manifest) {
		t.Errorf("digest %s", m.Digest)
	}
	// The mirror that had the manifest is the first to be asked for the blob.
	b, err := c.Blob(t.Context(), hub, m, digestOf(second.blob), int64(len(second.blob)))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, second.blob) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if diff := cmp.Diff([]string{"GET /v2/library/x/manifests/1"}, first.log()); diff != "" {
		t.Error(diff)
	}
}

func TestMirrorWithAPath(t *testing.T) {
	f := newFake(t, httptest.NewServer)
	f.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if rest, ok := strings.CutPrefix(r.URL.Path, "/v2/cache/hub/"); ok {
			r.URL.Path = "/v2/" + rest
		} else {
			w.WriteHeader(http.StatusTeapot)
			return true
		}
		return false
	}
	for _, path := range []string{"/cache/hub", "/v2/cache/hub"} {
		c, _ := newClient(t, mirrors(t, f.URL+path), nil)
		if _, err := c.Manifest(t.Context(), hub, "1"); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestResolve(t *testing.T) {
	f := newFake(t, httptest.NewServer)
	c, _ := newClient(t, nil, nil)
	if got, err := c.Resolve(t.Context(), at(f.host()), "1"); err != nil || got != digestOf(f.manifest) {
		t.Errorf("%q, %v", got, err)
	}
	if diff := cmp.Diff([]string{"HEAD /v2/library/x/manifests/1"}, f.log()); diff != "" {
		t.Error(diff)
	}
	// Without the header, and with one that cannot be true, the body decides.
	f.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodHead {
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			return true
		}
		return false
	}
	if got, err := c.Resolve(t.Context(), at(f.host()), "1"); err != nil || got != digestOf(f.manifest) {
		t.Errorf("without header: %q, %v", got, err)
	}
}

// TestResume: a blob whose connection breaks again and again arrives whole, each
// time from where it broke, and no byte is asked for twice.
func TestResume(t *testing.T) {
	for _, test := range []struct {
		name   string
		ranges bool
	}{{"with ranges", true}, {"without", false}} {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(t, httptest.NewServer)
			cut := len(f.blob) / 4
			var sent atomic.Int64
			f.before = func(n int, w http.ResponseWriter, r *http.Request) bool {
				start := 0
				if test.ranges {
					fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &start)
				}
				w.Header().Set("Content-Length", fmt.Sprint(len(f.blob)-start))
				if start > 0 {
					w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, len(f.blob)-1, len(f.blob)))
					w.WriteHeader(http.StatusPartialContent)
				}
				end := min(start+cut, len(f.blob))
				if !test.ranges {
					end = min(n*cut, len(f.blob))
				}
				k, _ := w.Write(f.blob[start:end])
				sent.Add(int64(k))
				if end < len(f.blob) {
					http.NewResponseController(w).Flush()
					panic(http.ErrAbortHandler) // breaks the connection
				}
				return true
			}
			c, clk := newClient(t, nil, nil)
			b, err := c.Blob(t.Context(), at(f.host()), nil, digestOf(f.blob), int64(len(f.blob)))
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			got, err := io.ReadAll(b)
			if err != nil || !bytes.Equal(got, f.blob) {
				t.Fatalf("%d of %d bytes, %v", len(got), len(f.blob), err)
			}
			if n := len(f.log()); n != 4 {
				t.Errorf("%d requests, want 4", n)
			}
			if test.ranges && sent.Load() != int64(len(f.blob)) {
				t.Errorf("%d bytes sent for %d", sent.Load(), len(f.blob))
			}
			if p := clk.list(); len(p) > 0 {
				t.Errorf("paused %v though bytes arrived", p)
			}
		})
	}
}

// TestStall: a connection that brings nothing is given up and resumed.
func TestStall(t *testing.T) {
	f := newFake(t, httptest.NewServer)
	f.before = func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n > 1 {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(f.blob)))
		w.Write(f.blob[:1000])
		http.NewResponseController(w).Flush()
		<-r.Context().Done() // until the client lets go
		return true
	}
	c := New(Options{stall: 50 * time.Millisecond})
	defer c.Close()
	b, err := c.Blob(t.Context(), at(f.host()), nil, digestOf(f.blob), int64(len(f.blob)))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, f.blob) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestResumeGivesUp(t *testing.T) {
	f := newFake(t, httptest.NewServer)
	f.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(f.blob)))
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	c, clk := newClient(t, nil, nil)
	b, err := c.Blob(t.Context(), at(f.host()), nil, digestOf(f.blob), int64(len(f.blob)))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	_, err = io.ReadAll(b)
	if err == nil || !strings.Contains(err.Error(), "broke 5 times without a byte") {
		t.Errorf("got %v", err)
	}
	if p := clk.list(); len(p) != maxStuck-1 || p[len(p)-1] < 2*time.Second {
		t.Errorf("pauses %v", p)
	}
}

// TestResumeElsewhere: the rest of a blob may come from another source.
func TestResumeElsewhere(t *testing.T) {
	first, second := newFake(t, httptest.NewServer), newFake(t, httptest.NewServer)
	half := len(first.blob) / 2
	first.before = func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n > 1 {
			w.WriteHeader(http.StatusNotFound)
			return true
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(first.blob)))
		w.Write(first.blob[:half])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	c, _ := newClient(t, mirrors(t, first.URL, second.URL), nil)
	b, err := c.Blob(t.Context(), hub, nil, digestOf(first.blob), int64(len(first.blob)))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, first.blob) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
}

func TestWrongContent(t *testing.T) {
	liar, honest := newFake(t, httptest.NewServer), newFake(t, httptest.NewServer)
	size := int64(len(honest.blob))
	wrong := bytes.Clone(honest.blob)
	wrong[12345]++
	answer := func(b []byte) func(int, http.ResponseWriter, *http.Request) bool {
		return func(_ int, w http.ResponseWriter, r *http.Request) bool {
			w.Write(b)
			return true
		}
	}
	c, _ := newClient(t, mirrors(t, liar.URL, honest.URL), nil)
	read := func() error {
		b, err := c.Blob(t.Context(), hub, nil, digestOf(honest.blob), size)
		if err != nil {
			return err
		}
		defer b.Close()
		got, err := io.ReadAll(b)
		if err == nil && !bytes.Equal(got, honest.blob) {
			t.Error("wrong content without an error")
		}
		return err
	}
	liar.before = answer(wrong)
	if err := read(); !errors.As(err, new(*DigestError)) {
		t.Errorf("wrong byte: %v", err)
	}
	if err := read(); err != nil {
		t.Errorf("the liar is asked again: %v", err)
	}

	for _, test := range []struct {
		name string
		body []byte
	}{{"short", wrong[:100]}, {"long", append(wrong, "more"...)}} {
		c, _ = newClient(t, mirrors(t, liar.URL, honest.URL), nil)
		liar.before = answer(test.body)
		err := read()
		if test.name == "long" { // it may have sent a size before, or not
			if err != nil && !errors.As(err, new(*DigestError)) {
				t.Errorf("long: %v", err)
			}
			err = read()
		}
		if err != nil {
			t.Errorf("%s: a source whose length is wrong is used: %v", test.name, err)
		}
	}
	// A manifest asked for by digest is checked as well.
	c, _ = newClient(t, mirrors(t, liar.URL, honest.URL), nil)
	liar.before = answer([]byte(`{"schemaVersion":2,"evil":true}`))
	if m, err := c.Manifest(t.Context(), hub, digestOf(honest.manifest)); err != nil || !bytes.Equal(m.Bytes, honest.manifest) {
		t.Errorf("manifest: %v, %v", m, err)
	}
}

func TestRetries(t *testing.T) {
	for _, test := range []struct {
		name   string
		status int
		header string
		fails  int // requests that fail before one succeeds
		ok     bool
		least  time.Duration // of the first pause
		pauses int
	}{
		{"429 with seconds", 429, "7", 1, true, 7 * time.Second, 1},
		{"429 for too long", 429, "3600", 1, false, 0, 0},
		{"503", 503, "", 4, true, 250 * time.Millisecond, 4},
		{"503 for ever", 503, "", 99, false, 250 * time.Millisecond, 4},
		{"500", 500, "", 1, true, 250 * time.Millisecond, 1},
		{"403", 403, "", 1, false, 0, 0},
		{"connection reset", 0, "", 2, true, 250 * time.Millisecond, 1}, // net/http repeats once by itself
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(t, httptest.NewServer)
			f.before = func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n > test.fails {
					return false
				}
				if test.status == 0 {
					panic(http.ErrAbortHandler)
				}
				if test.header != "" {
					w.Header().Set("Retry-After", test.header)
				}
				w.WriteHeader(test.status)
				return true
			}
			c, clk := newClient(t, nil, nil)
			_, err := c.Manifest(t.Context(), at(f.host()), "1")
			if (err == nil) != test.ok {
				t.Errorf("got %v", err)
			}
			p := clk.list()
			if len(p) != test.pauses || len(p) > 0 && p[0] < test.least {
				t.Errorf("pauses %v, want %d from %v", p, test.pauses, test.least)
			}
			var holds []Hold // each pause for an answer is told of, and its end
			for _, d := range p {
				if test.status != 0 {
					holds = append(holds, Hold{f.host(), test.status, d}, Hold{f.host(), test.status, 0})
				}
			}
			if diff := cmp.Diff(holds, clk.holds); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRetryAfterDate(t *testing.T) {
	resp := &http.Response{Header: http.Header{"Retry-After": {time.Now().Add(30 * time.Second).UTC().Format(http.TimeFormat)}}}
	if d, ok := retryAfter(resp); !ok || d < 20*time.Second || d > 30*time.Second {
		t.Errorf("%v, %v", d, ok)
	}
	resp.Header.Set("Retry-After", "soon")
	if _, ok := retryAfter(resp); ok {
		t.Error("nonsense is a date")
	}
}

// TestSentences: every way in which a registry does not deliver has a kind and
// words of its own.
func TestSentences(t *testing.T) {
	status := func(code int, body string) func(t *testing.T) (*config.Config, Repository) {
		return func(t *testing.T) (*config.Config, Repository) {
			f := newFake(t, httptest.NewServer)
			f.before = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
				w.WriteHeader(code)
				fmt.Fprint(w, body)
				return true
			}
			return nil, at(f.host())
		}
	}
	user := Credentials{}
	for _, test := range []struct {
		name  string
		setup func(t *testing.T) (*config.Config, Repository)
		login bool
		kind  Kind
		want  []string
	}{
		{"401", status(401, ""), false, Unauthorized, []string{"pull access denied for 127.0.0.1:", "/library/x, repository does not exist or may require 'docker login'", `log in with "stack login 127.0.0.1`}},
		{"401 with credentials", status(401, ""), true, Unauthorized, []string{"does not accept the stored credentials (401)", "log in again"}},
		{"403", status(403, `{"errors":[{"code":"DENIED","message":"not for\u001b[31m you"}]}`), true, Denied, []string{"denies access to 127.0.0.1:", "/library/x (403 not for [31m you)", "ask its owner"}},
		{"404", status(404, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`), false, NotFound, []string{"manifest for 127.0.0.1:", "/library/x:1 not found at", "404 manifest unknown", "check the spelling"}},
		{"429", status(429, `{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}`), false, RateLimited, []string{"limits the rate of pulls", "You have reached your pull rate limit.", "for a higher limit"}},
		{"429 for long", func(t *testing.T) (*config.Config, Repository) {
			f := newFake(t, httptest.NewServer)
			f.before = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Retry-After", "5400")
				w.WriteHeader(http.StatusTooManyRequests)
				return true
			}
			return nil, at(f.host())
		}, true, RateLimited, []string{"limits the rate of pulls and it is reached (429) and asks to wait 1h30m0s", "wait, or set a mirror"}},
		{"404 of the hub's mirror", func(t *testing.T) (*config.Config, Repository) {
			f := newFake(t, httptest.NewServer)
			f.before = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
				w.WriteHeader(http.StatusNotFound)
				return true
			}
			return mirrors(t, f.URL), hub
		}, false, NotFound, []string{"manifest for x:1 not found at mirror http://127.0.0.1", "docker.io is to be reached through a proxy that does not answer", "check the spelling"}},
		{"503", status(503, ""), false, Unreachable, []string{"is out of order (503)", "try again later"}},
		{"418", status(418, ""), false, Other, []string{"answers 418"}},
		{"nothing listens", func(t *testing.T) (*config.Config, Repository) { return nil, at(deadHost(t)) }, false, Unreachable, []string{"nothing listens at 127.0.0.1", "check that the registry runs"}},
		{"no such name", func(t *testing.T) (*config.Config, Repository) { return nil, at("registry.invalid") }, false, Unreachable, []string{"registry.invalid", "name"}},
		{"unknown authority", func(t *testing.T) (*config.Config, Repository) {
			// Of the loopback, where HTTP is tried next: the first answer counts.
			return nil, at(newFake(t, quietTLS).host())
		}, false, Unreachable, []string{"signed by an authority that is not trusted here", ".ca_file in config.yaml"}},
		{"plain HTTP", func(t *testing.T) (*config.Config, Repository) {
			f := newFake(t, httptest.NewServer)
			return &config.Config{Proxy: config.Proxy{HTTPS: tunnel(t, f.host())}}, at("registry.example.com")
		}, false, Unreachable, []string{"registry.example.com answers without TLS", "registries.registry.example.com.plain_http: true in config.yaml"}},
		{"plain HTTP of a mirror", func(t *testing.T) (*config.Config, Repository) {
			return mirrors(t, "https://"+newFake(t, httptest.NewServer).host()), hub
		}, false, Unreachable, []string{"mirror https://127.0.0.1", "answers without TLS: is its URL to begin with http://?"}},
		{"proxy", func(t *testing.T) (*config.Config, Repository) {
			return &config.Config{Proxy: config.Proxy{HTTPS: "http://" + deadHost(t)}}, at("registry.example.com")
		}, false, Unreachable, []string{"through a proxy that does not answer", "check proxy in config.yaml"}},
		{"proxy's refusal", func(t *testing.T) (*config.Config, Repository) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusProxyAuthRequired) }))
			t.Cleanup(s.Close)
			return &config.Config{Proxy: config.Proxy{HTTPS: s.URL}}, at("registry.example.com")
		}, false, Unreachable, []string{"through a proxy that refuses (407 Proxy Authentication Required)", "password"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg, repo := test.setup(t)
			if cfg != nil && cfg.Registries != nil {
				// Without the hub behind it, which no test may ask.
				cfg.Proxy.HTTPS = "http://" + deadHost(t)
			}
			var keys authn.Keychain
			if test.login {
				user[repo.Host] = authn.AuthConfig{Username: "u", Password: "p"}
				keys = user
			}
			c, _ := newClient(t, cfg, keys)
			_, err := c.Manifest(t.Context(), repo, "1")
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v", err)
			}
			if e.Kind != test.kind {
				t.Errorf("kind %v, want %v", e.Kind, test.kind)
			}
			for _, want := range append(test.want, `image "`+repo.String()+`:1": `) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %s", want, err)
				}
			}
			if strings.Contains(err.Error(), "http://127.0.0.1") && !strings.Contains(err.Error(), "mirror") {
				t.Errorf("a URL is in: %s", err)
			}
		})
	}
}

// tunnel is a proxy that connects everything to one address.
func tunnel(t *testing.T, to string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		up, err := net.Dial("tcp", to)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer up.Close()
		w.WriteHeader(http.StatusOK)
		down, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer down.Close()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = io.Copy(up, buf)
			up.Close()
		}()
		_, _ = io.Copy(down, up)
		down.Close()
		<-done
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// quietTLS is a server whose clients refuse its certificate, without saying so
// on the test's output.
func quietTLS(h http.Handler) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	return s
}

func TestCertificates(t *testing.T) {
	f := newFake(t, quietTLS)
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, yaml string
		ok         bool
	}{
		{"nothing", "", false},
		{"for everything", "ca_file: ca.pem", true},
		{"for the host", fmt.Sprintf("registries: {%q: {ca_file: ca.pem}}", f.host()), true},
		{"for another host", `registries: {"other:5000": {ca_file: ca.pem}}`, false},
		{"not looking", fmt.Sprintf("registries: {%q: {insecure_skip_verify: true}}", f.host()), true},
		{"plain HTTP to TLS", fmt.Sprintf("registries: {%q: {plain_http: true}}", f.host()), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := os.WriteFile(filepath.Join(dir, config.File), []byte(test.yaml), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg, err := config.Load(dir)
			if err != nil {
				t.Fatal(err)
			}
			c, _ := newClient(t, cfg, nil)
			if _, err := c.Manifest(t.Context(), at(f.host()), "1"); (err == nil) != test.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestPlainHTTP: without being told so, only this host is spoken to without TLS.
func TestPlainHTTP(t *testing.T) {
	f := newFake(t, httptest.NewServer)
	var seen atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		seen.Add(1)
		f.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	for _, test := range []struct {
		host  string
		plain bool
		ok    bool
	}{
		{"10.1.2.3:5000", false, false}, // where go-containerregistry would try HTTP
		{"10.1.2.3:5000", true, true},
		{"registry.example.com", true, true},
	} {
		cfg := &config.Config{
			Registries: map[string]config.Registry{test.host: {PlainHTTP: test.plain}},
			Proxy:      config.Proxy{HTTP: proxy.URL, HTTPS: proxy.URL},
		}
		seen.Store(0)
		c, _ := newClient(t, cfg, nil)
		_, err := c.Manifest(t.Context(), at(test.host), "1")
		if (err == nil) != test.ok || (seen.Load() > 0) != test.ok {
			t.Errorf("%s, plain %v: %v after %d plain requests", test.host, test.plain, err, seen.Load())
		}
	}
}

func TestRedirects(t *testing.T) {
	f := newFake(t, httptest.NewServer)
	storage := newFake(t, httptest.NewServer)
	storage.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != "" {
			t.Error("credentials went to the storage")
		}
		w.Write(f.blob)
		return true
	}
	_, port, _ := net.SplitHostPort(storage.host())
	target := ""
	f.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, target, http.StatusTemporaryRedirect)
		return true
	}
	for _, test := range []struct {
		to string
		ok bool
	}{
		{storage.URL + "/anywhere", true},
		{"http://localhost:" + port + "/anywhere", true},
		{"http://169.254.169.254/latest/meta-data", false},
		{"http://[fe80::1]/x", false},
		{"http://0.0.0.0:" + port + "/x", false},
	} {
		target = test.to
		c, _ := newClient(t, nil, Credentials{f.host(): {Username: "u", Password: "p"}})
		b, err := c.Blob(t.Context(), at(f.host()), nil, digestOf(f.blob), int64(len(f.blob)))
		if (err == nil) != test.ok {
			t.Errorf("%s: %v", test.to, err)
		}
		if err == nil {
			b.Close()
		}
	}
	req := func(s string) *http.Request {
		u, _ := url.Parse(s)
		return &http.Request{URL: u}
	}
	for _, to := range []string{"http://cdn.example.com/x", "https://127.0.0.1/x", "https://169.254.169.254/x"} {
		if checkRedirect(req(to), []*http.Request{req("https://registry.example.com/v2/")}) == nil {
			t.Errorf("a redirect from a public registry to %s is followed", to)
		}
	}
	if err := checkRedirect(req("https://cdn.example.com/x"), []*http.Request{req("https://registry.example.com/v2/")}); err != nil {
		t.Error(err)
	}
}

// TestCredentials: they reach the host they are for, by either scheme, and no
// other.
func TestCredentials(t *testing.T) {
	for _, scheme := range []string{"basic", "bearer"} {
		t.Run(scheme, func(t *testing.T) {
			f := newFake(t, httptest.NewServer)
			mux := http.NewServeMux()
			mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
				if u, p, _ := r.BasicAuth(); u != "user" || p != "secret" || r.FormValue("scope") != "repository:library/x:pull" {
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				fmt.Fprint(w, `{"token":"good"}`)
			})
			front := httptest.NewServer(mux)
			defer front.Close()
			mux.HandleFunc("/v2/", func(w http.ResponseWriter, r *http.Request) {
				u, p, _ := r.BasicAuth()
				switch {
				case scheme == "basic" && u == "user" && p == "secret", scheme == "bearer" && r.Header.Get("Authorization") == "Bearer good":
					f.ServeHTTP(w, r)
					return
				case scheme == "basic":
					w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				default:
					w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="x"`, front.URL))
				}
				w.WriteHeader(http.StatusUnauthorized)
			})
			host := strings.TrimPrefix(front.URL, "http://")
			mirror := newFake(t, httptest.NewServer)
			mirror.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
				if r.Header.Get("Authorization") != "" {
					t.Error("credentials went to a mirror")
				}
				w.WriteHeader(http.StatusNotFound)
				return true
			}
			u, _ := url.Parse(mirror.URL)
			cfg := &config.Config{Registries: map[string]config.Registry{host: {Mirrors: []*url.URL{u}}}}

			c, _ := newClient(t, cfg, Credentials{host: {Username: "user", Password: "secret"}})
			if _, err := c.Manifest(t.Context(), at(host), "1"); err != nil {
				t.Error(err)
			}
			for name, keys := range map[string]authn.Keychain{"none": nil, "wrong": Credentials{host: {Username: "user", Password: "bad"}}} {
				c, _ = newClient(t, cfg, keys)
				_, err := c.Manifest(t.Context(), at(host), "1")
				var e *Error
				if !errors.As(err, &e) || e.Kind != Unauthorized && e.Kind != NotFound {
					t.Errorf("%s: %v", name, err)
				}
			}
			if len(mirror.log()) == 0 {
				t.Error("the mirror was not asked")
			}
		})
	}
}

// TestLogin: what /v2/ asks for decides, also where the token is given to anyone.
func TestLogin(t *testing.T) {
	for _, scheme := range []string{"basic", "bearer", "careless"} {
		t.Run(scheme, func(t *testing.T) {
			mux := http.NewServeMux()
			front := httptest.NewServer(mux)
			defer front.Close()
			mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
				u, p, _ := r.BasicAuth()
				switch right := u == "user" && p == "secret"; {
				case right:
					fmt.Fprint(w, `{"token":"good"}`)
				case scheme == "careless":
					fmt.Fprint(w, `{"token":"for-nothing"}`)
				default:
					w.WriteHeader(http.StatusUnauthorized)
				}
			})
			mux.HandleFunc("/v2/", func(w http.ResponseWriter, r *http.Request) {
				u, p, _ := r.BasicAuth()
				switch {
				case scheme == "basic" && u == "user" && p == "secret", r.Header.Get("Authorization") == "Bearer good":
					return
				case scheme == "basic":
					w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				default:
					w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="x"`, front.URL))
				}
				w.WriteHeader(http.StatusUnauthorized)
			})
			host := strings.TrimPrefix(front.URL, "http://")
			c, _ := newClient(t, nil, nil)
			if err := c.Login(t.Context(), host, authn.AuthConfig{Username: "user", Password: "secret"}); err != nil {
				t.Error(err)
			}
			err := c.Login(t.Context(), host, authn.AuthConfig{Username: "user", Password: "wrong-one"})
			var e *LoginError
			if !errors.As(err, &e) || e.Kind != Unauthorized || !strings.Contains(err.Error(), "unauthorized: incorrect username or password") || strings.Contains(err.Error(), "wrong-one") {
				t.Errorf("got %v", err)
			}
		})
	}
	c, _ := newClient(t, nil, nil)
	if err := c.Login(t.Context(), deadHost(t), authn.AuthConfig{Username: "u", Password: "p"}); err == nil || !strings.Contains(err.Error(), "nothing listens at 127.0.0.1") {
		t.Errorf("got %v", err)
	}
}

func TestCredentialsStaySecret(t *testing.T) {
	c := Credentials{"h": {Username: "user", Password: "canary"}}
	for _, s := range []string{fmt.Sprint(c), fmt.Sprintf("%v %+v %#v %s", c, c, c, c), fmt.Sprintf("%v", struct{ C Credentials }{c})} {
		if strings.Contains(s, "canary") {
			t.Errorf("printed: %s", s)
		}
	}
}

func TestFindCredentials(t *testing.T) {
	cfg := mirrors(t, "http://mirror.example.com:5000/path")
	keys := Credentials{"mirror.example.com:5000": {Username: "m"}, "index.docker.io": {Username: "h"}, "unrelated.example.com": {Username: "u"}}
	got, err := FindCredentials(t.Context(), keys, cfg, []Repository{hub, at("ghcr.io")})
	if err != nil {
		t.Fatal(err)
	}
	want := Credentials{"mirror.example.com:5000": {Username: "m"}, "index.docker.io": {Username: "h"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestEndsWithItsContext: a caller that gives up is not kept by a registry that
// does not answer.
func TestEndsWithItsContext(t *testing.T) {
	f := newFake(t, httptest.NewServer)
	ctx, cancel := context.WithCancel(t.Context())
	f.before = func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n == 2 {
			w.Header().Set("Content-Length", fmt.Sprint(len(f.blob)))
			w.Write(f.blob[:1000])
			http.NewResponseController(w).Flush()
		}
		cancel()
		<-r.Context().Done()
		return true
	}
	c, _ := newClient(t, nil, nil)
	if _, err := c.Manifest(ctx, at(f.host()), "1"); !errors.Is(err, context.Canceled) {
		t.Errorf("manifest: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	b, err := c.Blob(ctx, at(f.host()), nil, digestOf(f.blob), int64(len(f.blob)))
	if err == nil {
		defer b.Close()
		_, err = io.ReadAll(b)
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("blob: %v", err)
	}
}
