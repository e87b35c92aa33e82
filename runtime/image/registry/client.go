package registry

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/stackvm/stack/runtime/config"
)

// Options are what a Client works with. Zero fields have defaults.
type Options struct {
	Config   *config.Config
	Keychain authn.Keychain                        // nil: no credentials
	Proxy    func(*http.Request) (*url.URL, error) // nil: Config's
	Log      *slog.Logger

	// Held, if not nil, is told of each pause that a registry asks for or is
	// given, before it begins and after its end. It is called by several
	// goroutines at a time, and must not block.
	Held func(Hold)

	// The clocks of tests.
	sleep func(context.Context, time.Duration) error
	stall time.Duration // stallTimeout
}

// Client reads from registries with one user's settings and credentials. It is
// safe for concurrent use.
type Client struct {
	opt Options

	mu         sync.Mutex // guards what follows; never held over a request
	transports map[string]*http.Transport
	sessions   map[sessionKey]*session
	liars      map[endpoint]bool // sent what does not have its digest
}

// New returns a Client. Close it.
func New(opt Options) *Client {
	if opt.Config == nil {
		opt.Config = &config.Config{}
	}
	if opt.Proxy == nil {
		opt.Proxy = opt.Config.Proxy.Func()
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Held == nil {
		opt.Held = func(Hold) {}
	}
	if opt.sleep == nil {
		opt.sleep = sleep
	}
	if opt.stall == 0 {
		opt.stall = stallTimeout
	}
	return &Client{opt: opt, transports: make(map[string]*http.Transport), sessions: make(map[sessionKey]*session), liars: make(map[endpoint]bool)}
}

// Close ends the idle connections.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.transports {
		t.CloseIdleConnections()
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Repository is where an image lives: a registry's host as in normalised names
// ("docker.io"), and the path on it ("library/nginx").
type Repository struct{ Host, Path string }

func (r Repository) String() string { return r.Host + "/" + r.Path }

// Manifest is a manifest or an index as the registry holds it.
type Manifest struct {
	Bytes     []byte
	Digest    string // sha256:…, of Bytes
	MediaType string

	from *endpoint // asked first for the blobs
}

// The most a manifest may have, in bytes: twice what registries must accept.
const maxManifest = 8 << 20

var acceptManifests = strings.Join([]string{
	string(types.OCIImageIndex), string(types.OCIManifestSchema1),
	string(types.DockerManifestList), string(types.DockerManifestSchema2),
	string(types.DockerManifestSchema1Signed), // only to say what is wrong with it
}, ", ")

// Manifest fetches the manifest that a tag or digest of the repository names.
func (c *Client) Manifest(ctx context.Context, repo Repository, ref string) (*Manifest, error) {
	var m *Manifest
	err := c.each(ctx, repo, nil, ref, func(e *endpoint) error {
		resp, err := c.do(ctx, e, http.MethodGet, "manifests/"+ref, http.Header{"Accept": {acceptManifests}}, http.StatusOK)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
		if err != nil {
			return err
		}
		if len(b) > maxManifest {
			return fmt.Errorf("a manifest of more than %d MiB", maxManifest>>20)
		}
		sum := sha256.Sum256(b)
		digest := "sha256:" + hex.EncodeToString(sum[:])
		if isDigest(ref) && ref != digest {
			c.distrust(e)
			return wrongDigest(digest, ref)
		}
		mediaType, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
		m = &Manifest{Bytes: b, Digest: digest, MediaType: strings.TrimSpace(mediaType), from: e}
		return nil
	})
	return m, err
}

// Resolve returns the digest that a tag names now, without fetching anything
// else. Of a multi-platform image it is the index's.
func (c *Client) Resolve(ctx context.Context, repo Repository, ref string) (string, error) {
	digest := ""
	err := c.each(ctx, repo, nil, ref, func(e *endpoint) error {
		resp, err := c.do(ctx, e, http.MethodHead, "manifests/"+ref, http.Header{"Accept": {acceptManifests}}, http.StatusOK)
		if err != nil {
			return err
		}
		resp.Body.Close()
		digest = resp.Header.Get("Docker-Content-Digest")
		return nil
	})
	if err != nil {
		return "", err
	}
	if !isDigest(digest) || isDigest(ref) && ref != digest {
		// The header is optional; what the body hashes to is not.
		m, err := c.Manifest(ctx, repo, ref)
		if err != nil {
			return "", err
		}
		digest = m.Digest
	}
	return digest, nil
}

// isDigest accepts what the OCI names a registered sha256 digest.
func isDigest(s string) bool {
	h, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(h) != 64 {
		return false
	}
	return strings.Trim(h, "0123456789abcdef") == ""
}

// DigestError says that a source sent other content than the digest names. The
// Client does not ask that source again.
type DigestError struct{ what string }

func (e *DigestError) Error() string { return "sent other content than asked for: " + e.what }

func wrongDigest(got, want string) error {
	return &DigestError{fmt.Sprintf("digest %s instead of %s", got, want)}
}

// endpoint is one way to a repository: a mirror, or the registry itself.
type endpoint struct {
	name   string // for messages
	host   string // of requests
	path   string // of the repository on it
	plain  bool   // HTTP without TLS
	mirror bool
}

// endpoints lists the ways in the order to try them.
func (c *Client) endpoints(repo Repository) []*endpoint {
	r := c.opt.Config.Registry(repo.Host)
	var all []*endpoint
	for _, m := range r.Mirrors {
		// As a registry behind a path is addressed by containerd: …/v2/PREFIX/REPOSITORY.
		prefix := strings.TrimPrefix(strings.TrimPrefix(m.Path, "/v2"), "/")
		if prefix != "" {
			prefix += "/"
		}
		all = append(all, &endpoint{
			name: "mirror " + m.Redacted(), host: strings.ToLower(m.Host), path: prefix + repo.Path,
			plain: m.Scheme == "http", mirror: true,
		})
	}
	host := repo.Host
	if host == config.DockerHub {
		host = name.DefaultRegistry
	}
	return append(all, &endpoint{name: repo.Host, host: host, path: repo.Path, plain: r.PlainHTTP})
}

// each calls try with every endpoint, first the preferred one, until one gives
// no error. Otherwise it returns an *Error about what of repo was wanted.
func (c *Client) each(ctx context.Context, repo Repository, first *endpoint, what string, try func(*endpoint) error) error {
	ways := c.honest(c.endpoints(repo))
	if first != nil {
		for n, e := range ways {
			if *e == *first {
				ways = append([]*endpoint{e}, append(ways[:n:n], ways[n+1:]...)...)
				break
			}
		}
	}
	var faults []fault
	for _, e := range ways {
		err := try(e)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		faults = append(faults, classify(e, repo, what, err, c.anonymous(e)))
		if e.mirror {
			c.opt.Log.Warn("mirror does not help", "mirror", e.name, "image", repo.String(), "error", err)
		}
	}
	return newError(repo, what, faults)
}

// distrust has the endpoint not asked again while there is another.
func (c *Client) distrust(e *endpoint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.liars[*e] = true
}

func (c *Client) honest(ways []*endpoint) []*endpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	left := slices.DeleteFunc(slices.Clone(ways), func(e *endpoint) bool { return c.liars[*e] })
	if len(left) == 0 {
		return ways
	}
	return left
}

// sessionKey is what a token is good for.
type sessionKey struct {
	host, path string
	plain      bool
}

// session is an authenticated transport to one repository of one host.
type session struct {
	mu        sync.Mutex // held while it is being made, so that one handshake serves all
	rt        http.RoundTripper
	anonymous bool
}

// do sends a request about the endpoint's repository and accepts the statuses.
func (c *Client) do(ctx context.Context, e *endpoint, method, path string, header http.Header, accept ...int) (*http.Response, error) {
	rt, err := c.session(ctx, e)
	if err != nil {
		return nil, err
	}
	u := url.URL{Scheme: "https", Host: e.host, Path: "/v2/" + e.path + "/" + path}
	if e.plain {
		u.Scheme = "http"
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header = header
	client := http.Client{Transport: rt, CheckRedirect: checkRedirect}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if err := transport.CheckError(resp, accept...); err != nil {
		resp.Body.Close()
		if asked, ok := retryAfter(resp); ok {
			return nil, &heldError{err, asked}
		}
		return nil, err
	}
	return resp, nil
}

// session returns the transport for the endpoint, after the handshake.
func (c *Client) session(ctx context.Context, e *endpoint) (http.RoundTripper, error) {
	key := sessionKey{e.host, e.path, e.plain}
	c.mu.Lock()
	s := c.sessions[key]
	if s == nil {
		s = &session{}
		c.sessions[key] = s
	}
	c.mu.Unlock()

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rt != nil {
		return s.rt, nil
	}
	reg, err := name.NewRegistry(e.host, name.StrictValidation)
	if err != nil {
		return nil, err
	}
	repo := reg.Repo(e.path)
	auth := authn.Anonymous
	if c.opt.Keychain != nil {
		if auth, err = authn.Resolve(ctx, c.opt.Keychain, repo); err != nil {
			return nil, fmt.Errorf("looking for the credentials of %s: %w", e.host, err)
		}
	}
	s.anonymous = auth == authn.Anonymous
	s.rt, err = c.handshake(ctx, e, reg, auth, []string{repo.Scope(transport.PullScope)})
	return s.rt, err
}

// handshake finds out how the endpoint wants to be asked and returns a transport
// that does so.
func (c *Client) handshake(ctx context.Context, e *endpoint, reg name.Registry, auth authn.Authenticator, scopes []string) (http.RoundTripper, error) {
	base, err := c.transport(e)
	if err != nil {
		return nil, err
	}
	attempts := attempts
	if e.mirror {
		attempts = mirrorAttempts
	}
	rt := &retrying{
		inner:    &schemed{inner: base, endpoint: e},
		attempts: attempts, sleep: c.opt.sleep, held: c.opt.Held, log: c.opt.Log,
	}
	return transport.NewWithContext(ctx, reg, auth, transport.NewUserAgent(rt, userAgent), scopes)
}

// anonymous tells whether requests to the endpoint carry no credentials.
func (c *Client) anonymous(e *endpoint) bool {
	c.mu.Lock()
	s := c.sessions[sessionKey{e.host, e.path, e.plain}]
	c.mu.Unlock()
	if s == nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.anonymous
}

const userAgent = "stack"

// transport returns the connections to a host, made with its certificates.
func (c *Client) transport(e *endpoint) (*http.Transport, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.transports[e.host]; t != nil {
		return t, nil
	}
	host := e.host
	pool, err := c.opt.Config.CAs(host)
	if err != nil {
		return nil, err
	}
	t := &http.Transport{
		Proxy: c.opt.Proxy,
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
			if resp.StatusCode != http.StatusOK {
				return &proxyError{resp.StatusCode}
			}
			return nil
		},
		DialContext: (&net.Dialer{
			Timeout:   15 * time.Second,
			KeepAlive: 30 * time.Second,
		}).DialContext,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 60 * time.Second,
		IdleConnTimeout:       30 * time.Second,
		MaxIdleConnsPerHost:   16,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true, // blobs are what their digest says
		TLSClientConfig: &tls.Config{
			RootCAs:            pool,
			InsecureSkipVerify: c.opt.Config.Registry(host).InsecureSkipVerify, //nolint:gosec // asked for, per host, in the user's file
			MinVersion:         tls.VersionTLS12,
		},
	}
	c.transports[e.host] = t
	return t, nil
}

// proxyError is a proxy's refusal to connect.
type proxyError struct{ status int }

func (e *proxyError) Error() string {
	return fmt.Sprintf("the proxy answers %d %s", e.status, http.StatusText(e.status))
}

var errRedirects = errors.New("more than 10 redirects")

// checkRedirect lets a registry point to its storage, but not back from TLS to
// plain HTTP, and not from elsewhere to an address of this host or its links,
// where the metadata services of clouds live.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errRedirects
	}
	from, to := via[0].URL, req.URL
	if from.Scheme == "https" && to.Scheme != "https" {
		return fmt.Errorf("redirect from %s to %s without TLS: refused", from.Host, to.Host)
	}
	if ip := net.ParseIP(to.Hostname()); ip != nil && to.Hostname() != from.Hostname() &&
		(ip.IsLinkLocalUnicast() || ip.IsUnspecified() || ip.IsLoopback() && !isLoopback(from.Hostname())) {
		return fmt.Errorf("redirect from %s to %s, an address of this host: refused", from.Host, to.Host)
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}
