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
// The rest of the name is a repository of the tests' registry. "faulty -dead NAME"
// is a port at which nothing listens.
func faulty(ts *testscript.TestScript, neg bool, args []string) {
	dead := len(args) == 2 && args[0] == "-dead"
	if neg || len(args) != 1 && !dead {
		ts.Fatalf("usage: faulty [-dead] NAME")
	}
	if dead {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		ts.Check(l.Close())
		_, port, err := net.SplitHostPort(l.Addr().String())
		ts.Check(err)
		ts.Setenv(args[1], port)
		return
	}
	behind := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: os.Getenv(envRegistry)})
	var asked atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
	ts.Defer(server.Close)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	ts.Check(err)
	ts.Setenv(args[0], port)
}
