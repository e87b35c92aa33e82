package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/stackvm/stack/runtime/config"
)

// Kind is what a caller may branch on when a registry does not deliver.
type Kind int

const (
	Other        Kind = iota
	NotFound          // no such repository, tag or digest
	Unauthorized      // credentials are missing or wrong
	Denied            // credentials are right, but not for this
	RateLimited       // too many requests
	Unreachable       // no answer: name, network, proxy or certificate
)

// Error says why an image cannot be had: from each way that was tried, with
// what to do next.
type Error struct {
	Image  string // as asked for, host and tag or digest included
	Kind   Kind
	faults []fault
}

// fault is the answer of one way.
type fault struct {
	endpoint *endpoint
	kind     Kind
	text     string // a sentence about the endpoint and the image
	hint     string // what to do next
	err      error
}

func newError(repo Repository, ref string, faults []fault) *Error {
	// The registry's own answer is told first, as to who has no mirror.
	slices.SortStableFunc(faults, func(a, b fault) int {
		switch {
		case a.endpoint.mirror == b.endpoint.mirror:
			return 0
		case a.endpoint.mirror:
			return 1
		}
		return -1
	})
	e := &Error{Image: tagged(repo.String(), ref), faults: faults}
	// What the registry itself says counts; when it cannot say anything, a
	// mirror's answer does.
	e.Kind = faults[0].kind
	for _, f := range faults {
		if f.kind != Unreachable && f.kind != Other {
			e.Kind = f.kind
			break
		}
	}
	return e
}

// tagged joins a repository and a tag or digest.
func tagged(repo, ref string) string {
	if isDigest(ref) {
		return repo + "@" + ref
	}
	return repo + ":" + ref
}

// Error is one line: a sentence for each way, then the next step.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "image %q: ", e.Image)
	hint := ""
	for n, f := range e.faults {
		if n > 0 {
			b.WriteString("; ")
		}
		b.WriteString(f.text)
		if hint == "" && f.kind == e.Kind {
			hint = f.hint
		}
	}
	if hint != "" {
		b.WriteString("; " + hint)
	}
	return b.String()
}

// Unwrap gives what each way said.
func (e *Error) Unwrap() []error {
	var errs []error
	for _, f := range e.faults {
		errs = append(errs, f.err)
	}
	return errs
}

// classify makes a sentence of what went wrong with one way.
func classify(e *endpoint, repo Repository, what string, err error, anonymous bool) fault {
	f := fault{endpoint: e, err: err}
	var status *transport.Error
	var certificate *tls.CertificateVerificationError
	// Of a host that was tried with TLS and then without, the first answer counts.
	if errors.As(err, &status) && !errors.As(err, &certificate) {
		f.fromStatus(status, repo, what, anonymous)
		var held *heldError
		if f.kind == RateLimited && errors.As(err, &held) && held.asked > 0 {
			f.text += fmt.Sprintf(" and asks to wait %s", held.asked.Round(time.Second))
		}
		return f
	}
	cause := plainCause(err)
	f.text = fmt.Sprintf("%s: %v", e.name, cause)
	host, _, splitErr := net.SplitHostPort(e.host)
	if splitErr != nil {
		host = e.host
	}
	f.kind = Unreachable
	var dns *net.DNSError
	var op *net.OpError
	var unknownCA x509.UnknownAuthorityError
	var badName x509.HostnameError
	var invalid x509.CertificateInvalidError
	var notTLS tls.RecordHeaderError
	var timeout net.Error
	var refused *proxyError
	switch {
	case errors.Is(err, errPlainHTTP) || errors.As(err, &notTLS) || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		f.text = fmt.Sprintf("%s answers without TLS", e.name)
		f.hint = fmt.Sprintf("if that is meant, set registries.%s.plain_http: true in %s", e.host, config.File)
		if e.mirror {
			f.text += ": is its URL to begin with http://?"
		}
	case errors.As(err, &unknownCA):
		f.text = fmt.Sprintf("the certificate of %s is signed by an authority that is not trusted here", e.name)
		f.hint = fmt.Sprintf("set registries.%s.ca_file in %s", e.host, config.File)
	case errors.As(err, &badName):
		f.text = fmt.Sprintf("the certificate of %s is for another name: %v", e.name, badName)
		f.hint = "check the registry's name and who answers for it"
	case errors.As(err, &invalid):
		f.text = fmt.Sprintf("the certificate of %s is not valid: %v", e.name, invalid)
		f.hint = "check the clock of this host and the registry's certificate"
	case errors.As(err, &refused):
		f.text = fmt.Sprintf("%s is to be reached through a proxy that refuses (%d %s)", e.name, refused.status, http.StatusText(refused.status))
		f.hint = fmt.Sprintf("check proxy in %s and HTTPS_PROXY, its user and password included", config.File)
	case errors.As(err, &op) && op.Op == "proxyconnect":
		f.text = fmt.Sprintf("%s is to be reached through a proxy that does not answer: %v", e.name, cause)
		f.hint = fmt.Sprintf("check proxy in %s and HTTPS_PROXY", config.File)
	case errors.As(err, &dns) && dns.IsNotFound:
		f.text = fmt.Sprintf("the name %s does not resolve", host)
		f.hint = "check its spelling and this host's network; behind a proxy set HTTPS_PROXY"
	case errors.As(err, &dns):
		f.text = fmt.Sprintf("looking up the name %s: %v", host, dns.Err)
		f.hint = "check this host's name servers"
	case errors.Is(err, syscall.ECONNREFUSED):
		f.text = fmt.Sprintf("nothing listens at %s (connection refused)", e.host)
		f.hint = "check that the registry runs and its port is right"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		f.text = fmt.Sprintf("there is no route to %s", e.host)
		f.hint = "check this host's network"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		f.text = fmt.Sprintf("%s does not answer in time", e.host)
		f.hint = "check this host's network, or try again later"
	case errors.As(err, new(*DigestError)):
		f.kind = Other
		f.text = fmt.Sprintf("%s %v", e.name, cause)
		f.hint = "do not use this source; report it to who runs it"
	case errors.As(err, &op):
	default:
		f.kind = Other
	}
	return f
}

func (f *fault) fromStatus(status *transport.Error, repo Repository, what string, anonymous bool) {
	name := f.endpoint.name
	detail := fmt.Sprintf("%d", status.StatusCode)
	// The registry's own words: bounded, and without what could move a cursor.
	if len(status.Errors) > 0 {
		words := string(status.Errors[0].Code)
		if m := status.Errors[0].Message; m != "" {
			words = m
		}
		detail += " " + printable(words)
	}
	login := f.endpoint.host
	if login == "index.docker.io" {
		login = ""
	}
	login = strings.TrimSpace("stack login " + login)
	// As docker names it: its messages are matched by scripts.
	repository := repo.String()
	if repo.Host == config.DockerHub {
		repository = strings.TrimPrefix(repo.Path, "library/")
	}
	switch code := status.StatusCode; {
	case code == http.StatusUnauthorized && anonymous:
		f.kind = Unauthorized
		f.text = fmt.Sprintf("pull access denied for %s, repository does not exist or may require 'docker login': %s wants credentials and there are none (%s)", repository, name, detail)
		f.hint = fmt.Sprintf("check the name, or log in with %q", login)
	case code == http.StatusUnauthorized:
		f.kind = Unauthorized
		f.text = fmt.Sprintf("%s does not accept the stored credentials (%s)", name, detail)
		f.hint = fmt.Sprintf("log in again with %q", login)
	case code == http.StatusForbidden:
		f.kind = Denied
		f.text = fmt.Sprintf("%s denies access to %s (%s)", name, repository, detail)
		f.hint = "ask its owner for the right to pull, or check which account is logged in"
		if anonymous {
			f.hint = fmt.Sprintf("log in with %q, or ask its owner for the right to pull", login)
		}
	case code == http.StatusNotFound:
		f.kind = NotFound
		f.text = fmt.Sprintf("%s not found at %s (%s)", tagged(repository, what), name, detail)
		if !isDigest(what) {
			f.text = "manifest for " + f.text // docker's words
		}
		f.hint = "check the spelling of name and tag"
	case code == http.StatusTooManyRequests:
		f.kind = RateLimited
		f.text = fmt.Sprintf("%s limits the rate of pulls and it is reached (%s)", name, detail)
		f.hint = fmt.Sprintf("wait, or set a mirror in %s", config.File)
		if anonymous {
			f.hint = fmt.Sprintf("wait, log in with %q for a higher limit, or set a mirror in %s", login, config.File)
		}
	case code >= 500:
		f.kind = Unreachable
		f.text = fmt.Sprintf("%s is out of order (%s)", name, detail)
		f.hint = "try again later"
	default:
		f.text = fmt.Sprintf("%s answers %s", name, detail)
	}
}

// plainCause drops what net/http puts around a cause: the method and a URL that
// may be signed.
func plainCause(err error) error {
	var u *url.Error
	for errors.As(err, &u) {
		err = u.Err
	}
	return err
}

func printable(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}
