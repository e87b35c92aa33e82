package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// memory is both stores.
type memory struct {
	rows, counter int64
	down          error
}

func (m *memory) Ping(context.Context) error { return m.down }

func (m *memory) Visit(context.Context) (Visit, error) {
	m.rows++
	m.counter++
	return Visit{Rows: m.rows, Counter: m.counter, DBBootID: "kernel-db", CacheBootID: "kernel-cache"}, m.down
}

func get(t *testing.T, h http.Handler, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w
}

func TestPage(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Write([]byte("kernel-web\n"))
	}))
	defer web.Close()
	m := &memory{}
	h := newPage(m, web.URL)

	var a Answer
	w := get(t, h, "/api")
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	if a.Rows != 1 || a.Counter != 1 || a.BootIDs["web"] != "kernel-web" || a.BootIDs["db"] != "kernel-db" || a.Kernels != 4 {
		t.Errorf("answer %+v", a)
	}
	if body := get(t, h, "/").Body.String(); !strings.Contains(body, "Visit 2") || !strings.Contains(body, "kernel-cache") {
		t.Errorf("page:\n%s", body)
	}
	if code := get(t, h, "/elsewhere").Code; code != http.StatusNotFound {
		t.Errorf("/elsewhere: %d", code)
	}

	web.Close()
	if body := get(t, h, "/").Body.String(); !strings.Contains(body, "3 kernels") || !strings.Contains(body, "not known") {
		t.Errorf("page without web:\n%s", body)
	}
	if code := get(t, h, "/healthz").Code; code != http.StatusOK {
		t.Errorf("health: %d", code)
	}
	m.down = errors.New("gone")
	for _, path := range []string{"/", "/api", "/healthz"} {
		if w := get(t, h, path); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "gone") {
			t.Errorf("%s with a store down: %d %s", path, w.Code, w.Body)
		}
	}
}
