package registry

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stackvm/stack/runtime/config"
)

func TestPing(t *testing.T) {
	alive := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusUnauthorized) // an answer, all the same
	}))
	defer alive.Close()
	dead := httptest.NewServer(nil)
	deadURL := dead.URL
	dead.Close()
	ways := func(urls ...string) *Client {
		var mirrors []*url.URL
		for _, s := range urls[:len(urls)-1] {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			mirrors = append(mirrors, u)
		}
		host := strings.TrimPrefix(urls[len(urls)-1], "http://")
		c := New(Options{Config: &config.Config{Registries: map[string]config.Registry{host: {Mirrors: mirrors, PlainHTTP: true}}}})
		t.Cleanup(c.Close)
		return c
	}
	host := func(u string) string { return strings.TrimPrefix(u, "http://") }
	if err := ways(alive.URL).Ping(t.Context(), host(alive.URL)); err != nil {
		t.Errorf("a registry that answers 401: %v", err)
	}
	if err := ways(alive.URL, deadURL).Ping(t.Context(), host(deadURL)); err != nil {
		t.Errorf("a dead registry with a live mirror: %v", err)
	}
	if err := ways(deadURL, deadURL).Ping(t.Context(), host(deadURL)); err == nil || strings.Count(err.Error(), "does not answer") != 2 {
		t.Errorf("dead, and its mirror too: %v", err)
	}
}
