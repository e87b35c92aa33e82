package registry

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"
)

const (
	attempts       = 5
	mirrorAttempts = 2 // then the next way is tried

	backoffFirst = 500 * time.Millisecond // doubled each time, half of it random
	maxWait      = 60 * time.Second       // asked for by Retry-After; a longer one is the user's to wait
)

// schemed gives requests to a plain HTTP host their scheme and refuses to leave
// TLS for any other.
type schemed struct {
	inner    http.RoundTripper
	endpoint *endpoint
}

var errPlainHTTP = errors.New("does not answer with TLS")

func (s *schemed) RoundTrip(req *http.Request) (*http.Response, error) {
	switch {
	case s.endpoint.plain && req.URL.Scheme == "https" && req.URL.Host == s.endpoint.host:
		req = req.Clone(req.Context())
		req.URL.Scheme = "http"
	case !s.endpoint.plain && req.URL.Scheme == "http" && (s.endpoint.mirror || !isLoopback(req.URL.Hostname())):
		// go-containerregistry tries HTTP for every private address; docker,
		// and so we, only for this host. A mirror's URL says what it speaks.
		return nil, errPlainHTTP
	}
	return s.inner.RoundTrip(req)
}

// Hold is a pause before a request is repeated.
type Hold struct {
	Host   string
	Status int           // of the answer that caused it
	For    time.Duration // 0: it is over
}

// heldError is a refusal that says when the request may be repeated.
type heldError struct {
	error
	asked time.Duration
}

func (e *heldError) Unwrap() error { return e.error }

// retrying repeats requests that a moment later may succeed.
type retrying struct {
	inner    http.RoundTripper
	attempts int
	sleep    func(context.Context, time.Duration) error
	held     func(Hold)
	log      *slog.Logger
}

func (r *retrying) RoundTrip(req *http.Request) (*http.Response, error) {
	for n := 1; ; n++ {
		resp, err := r.inner.RoundTrip(req)
		if n >= r.attempts || req.Context().Err() != nil || req.Body != nil && req.GetBody == nil {
			return resp, err
		}
		wait, hold := backoff(n), Hold{}
		switch {
		case err != nil && temporary(err):
			r.log.Debug("request is repeated", "host", req.URL.Host, "in", wait, "error", err)
		case err == nil && retryStatus(resp.StatusCode):
			if asked, ok := retryAfter(resp); ok {
				if asked > maxWait {
					return resp, nil
				}
				wait = max(asked, wait)
			}
			r.log.Info("registry asks for patience", "host", req.URL.Host, "status", resp.StatusCode, "in", wait)
			_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection can be used again
			resp.Body.Close()
			hold = Hold{Host: req.URL.Host, Status: resp.StatusCode, For: wait}
		default:
			return resp, err
		}
		if hold.For > 0 {
			r.held(hold)
		}
		if err := r.sleep(req.Context(), wait); err != nil {
			return nil, err
		}
		if hold.For > 0 {
			hold.For = 0
			r.held(hold)
		}
		if req.GetBody != nil {
			body, err := req.GetBody()
			if err != nil {
				return nil, err
			}
			req = req.Clone(req.Context())
			req.Body = body
		}
	}
}

// backoff is the pause after the n-th attempt.
func backoff(n int) time.Duration {
	d := backoffFirst << min(n-1, 6)
	return d/2 + rand.N(d/2)
}

func retryStatus(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// retryAfter is what the answer asks to wait: seconds, or until a date.
func retryAfter(resp *http.Response) (time.Duration, bool) {
	s := resp.Header.Get("Retry-After")
	if secs, err := strconv.Atoi(s); err == nil && secs >= 0 {
		return time.Duration(min(secs, 1<<20)) * time.Second, true
	}
	if at, err := http.ParseTime(s); err == nil {
		return max(time.Until(at), 0), true
	}
	return 0, false
}

// temporary tells whether the same request may succeed a moment later. A refused
// connection or an unknown name will not: waiting only hides them.
func temporary(err error) bool {
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.As(err, &dns):
		return dns.IsTemporary && !dns.IsNotFound
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return true
	case errors.As(err, &timeout):
		return timeout.Timeout()
	}
	return false
}
