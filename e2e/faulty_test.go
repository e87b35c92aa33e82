package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync/atomic"

	"github.com/rogpeppe/go-internal/testscript"
)

// faulty is "faulty NAME": a registry on 127.0.0.1, whose port the variable NAME
// tells, that misbehaves as the first part of a repository's name says:
//
//	401, 403, 429 …      answers so
//	later                asks to wait 90 minutes
//	patience             asks once to wait 2 s, then delivers
//	NAME                 delivers
//
// The rest of the name is a repository of the tests' registry. "faulty -login NAME"
// is one that wants the user user with the password "open sesame"; "faulty -dead
// NAME" is a port at which nothing listens.
func faulty(ts *testscript.TestScript, neg bool, args []string) {
	option := ""
	if len(args) == 2 {
		option = args[0]
	}
	if neg || len(args) == 0 || len(args) > 2 || option != "" && option != "-dead" && option != "-login" {
		ts.Fatalf("usage: faulty [-dead|-login] NAME")
	}
	if option == "-dead" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		ts.Check(l.Close())
		_, port, err := net.SplitHostPort(l.Addr().String())
		ts.Check(err)
		ts.Setenv(args[1], port)
		return
	}
	server := faultyRegistry(option == "-login")
	ts.Defer(server.Close)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	ts.Check(err)
	ts.Setenv(args[len(args)-1], port)
}

// faultyRegistry is the server of faulty; the caller closes it.
func faultyRegistry(login bool) *httptest.Server {
	behind := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: os.Getenv(envRegistry)})
	var asked atomic.Bool
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); login && (user != "user" || password != "open sesame") {
			w.Header().Set("WWW-Authenticate", `Basic realm="tests"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		r.Header.Del("Authorization")
		path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
		if !ok || path == "" {
			return // the handshake
		}
		fault, rest, _ := strings.Cut(path, "/")
		status, wait := 0, ""
		switch _, _ = fmt.Sscan(fault, &status); {
		case fault == "later":
			status, wait = http.StatusTooManyRequests, "5400"
		case fault == "patience" && asked.CompareAndSwap(false, true):
			status, wait = http.StatusTooManyRequests, "2"
		}
		if wait != "" {
			w.Header().Set("Retry-After", wait)
		}
		if status != 0 {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"errors":[{"code":"TEST","message":"words of the registry"}]}`)
			return
		}
		r.URL.Path, r.URL.RawPath = "/v2/"+rest, ""
		behind.ServeHTTP(w, r)
	}))
}
