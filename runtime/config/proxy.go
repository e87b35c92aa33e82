package config

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpproxy"
)

// Proxy is the way out of this host for requests to registries. It may hold a
// password, so it is handed on in memory only.
type Proxy struct {
	HTTP    string `json:"http,omitempty"`  // URL of the proxy for plain HTTP; "" for none
	HTTPS   string `json:"https,omitempty"` // and for HTTPS
	NoProxy string `json:"no_proxy,omitempty"`
}

// Func returns what an http.Transport takes as its Proxy. The host itself is
// always reached directly.
func (p Proxy) Func() func(*http.Request) (*url.URL, error) {
	f := (&httpproxy.Config{HTTPProxy: p.HTTP, HTTPSProxy: p.HTTPS, NoProxy: p.NoProxy}).ProxyFunc()
	return func(r *http.Request) (*url.URL, error) { return f(r.URL) }
}

// parseProxy accepts what curl does: a URL, or host:port for an HTTP proxy.
func parseProxy(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || !strings.Contains(s, "://") {
		u, err = url.Parse("http://" + s)
	}
	if err != nil || u.Host == "" {
		return nil, errors.New("not a proxy's URL, such as http://proxy.example.com:3128") // which may hold a password: not shown
	}
	switch u.Scheme {
	case "http", "https", "socks5", "socks5h":
		return u, nil
	}
	return nil, errors.New("a proxy's URL begins with http, https, socks5 or socks5h")
}

func redactURL(s string) string {
	if s == "" {
		return ""
	}
	u, err := parseProxy(s)
	if err != nil {
		return "(not a URL)"
	}
	return u.Redacted()
}
