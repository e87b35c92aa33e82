package registry

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/stackvm/stack/runtime/config"
)

// LoginError says why a registry does not accept credentials.
type LoginError struct {
	Host  string
	Kind  Kind // Unauthorized: they are wrong
	fault fault
}

// Error is one line, with what to do next.
func (e *LoginError) Error() string {
	s := fmt.Sprintf("logging in to %s: %s", e.Host, e.fault.text)
	if e.fault.hint != "" {
		s += "; " + e.fault.hint
	}
	return s
}

func (e *LoginError) Unwrap() error { return e.fault.err }

// Login asks a registry itself, no mirror, whether it accepts credentials, by
// what its /v2/ endpoint asks for: basic authentication, or a token. Its error is
// a *LoginError or that of ctx.
func (c *Client) Login(ctx context.Context, host string, auth authn.AuthConfig) error {
	e := &endpoint{name: host, host: host, plain: c.opt.Config.Registry(host).PlainHTTP}
	if host == config.DockerHub {
		e.host = name.DefaultRegistry
	}
	err := c.login(ctx, e, authn.FromConfig(auth))
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	f := classify(e, Repository{Host: host}, "", err, false)
	switch f.kind {
	case Unauthorized:
		f.text, f.hint = "unauthorized: incorrect username or password", ""
	case Denied:
		f.text, f.hint = "this account may not use it (403)", "ask who runs it"
	case NotFound:
		f.text, f.hint = "answers 404: no registry is there", "check the name and port"
	}
	return &LoginError{Host: host, Kind: f.kind, fault: f}
}

func (c *Client) login(ctx context.Context, e *endpoint, auth authn.Authenticator) error {
	reg, err := name.NewRegistry(e.host, name.StrictValidation)
	if err != nil {
		return err
	}
	rt, err := c.handshake(ctx, e, reg, auth, nil)
	if err != nil {
		return err
	}
	u := url.URL{Scheme: reg.Scheme(), Host: e.host, Path: "/v2/"}
	if e.plain {
		u.Scheme = "http"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	// The handshake asks for a token; whether it, or a password, is accepted is
	// known once it has been used.
	resp, err := (&http.Client{Transport: rt, CheckRedirect: checkRedirect}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return transport.CheckError(resp, http.StatusOK)
}
