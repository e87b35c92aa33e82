package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// engine is an engine with one volume "data" that keeps its containers.
type engine struct {
	containers map[string]string // id -> where it has the volume
	images     []string
	top        string // of the archive
	removed    []string
}

func (e *engine) serve(t *testing.T) *Engine {
	t.Helper()
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, v any) {
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Error(err)
		}
	}
	mux.HandleFunc("GET /_ping", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "OK") })
	mux.HandleFunc("GET /volumes/{name}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("name") != "data" {
			w.WriteHeader(http.StatusNotFound)
			answer(w, map[string]string{"message": "get nope: no such volume"})
			return
		}
		answer(w, Volume{Name: "data", Driver: "local", Labels: map[string]string{"com.docker.compose.project": "shop"}})
	})
	mux.HandleFunc("GET /containers/json", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("filters") != `{"volume":["data"]}` || r.URL.Query().Get("all") != "1" {
			t.Errorf("asked for containers with %s", r.URL.RawQuery)
		}
		list := []any{}
		for id, at := range e.containers {
			list = append(list, map[string]any{"Id": id, "Mounts": []any{map[string]string{"Type": "volume", "Name": "data", "Source": "/var/lib/docker/volumes/data/_data", "Destination": at}}})
		}
		answer(w, list)
	})
	mux.HandleFunc("GET /images/json", func(w http.ResponseWriter, _ *http.Request) {
		list := []any{}
		for _, id := range e.images {
			list = append(list, map[string]string{"Id": id})
		}
		answer(w, list)
	})
	mux.HandleFunc("POST /containers/create", func(w http.ResponseWriter, r *http.Request) {
		var c struct {
			Image      string
			HostConfig struct{ Binds []string }
		}
		if err := json.NewDecoder(r.Body).Decode(&c); err != nil || c.Image != e.images[0] || len(c.HostConfig.Binds) != 1 {
			t.Errorf("create: %+v, %v", c, err)
		}
		e.containers["made"] = strings.Split(c.HostConfig.Binds[0], ":")[1]
		w.WriteHeader(http.StatusCreated)
		answer(w, map[string]string{"Id": "made"})
	})
	mux.HandleFunc("DELETE /containers/{id}", func(w http.ResponseWriter, r *http.Request) {
		e.removed = append(e.removed, r.PathValue("id"))
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /containers/{id}/archive", func(w http.ResponseWriter, r *http.Request) {
		if at := e.containers[r.PathValue("id")]; r.URL.Query().Get("path") != at+"/." {
			t.Errorf("archive of %s", r.URL.Query().Get("path"))
		}
		out := tar.NewWriter(w)
		for _, h := range []tar.Header{
			{Typeflag: tar.TypeDir, Name: e.top + "/", Mode: 0o700, Uid: 70},
			{Typeflag: tar.TypeReg, Name: e.top + "/file", Size: 4, Uid: 70},
			{Typeflag: tar.TypeLink, Name: e.top + "/sub/link", Linkname: e.top + "/file"},
		} {
			if err := out.WriteHeader(&h); err != nil {
				t.Error(err)
			}
			if h.Typeflag == tar.TypeReg {
				_, _ = io.WriteString(out, "data")
			}
		}
		if err := out.Close(); err != nil {
			t.Error(err)
		}
	})
	socket := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: mux}
	go func() { _ = srv.Serve(l) }() // ends with Close
	t.Cleanup(func() { srv.Close() })
	found, err := Find(context.Background(), []string{filepath.Join(t.TempDir(), "none"), socket})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestArchive(t *testing.T) {
	want := []string{"./", "./file data", "./sub/link -> ./file"}
	for _, tc := range []struct {
		name    string
		engine  engine
		removed []string
	}{
		{"through a container that has it", engine{containers: map[string]string{"db": "/var/lib/db"}, top: "."}, nil},
		{"named by its directory", engine{containers: map[string]string{"db": "/var/lib/db"}, top: "db"}, nil},
		{"through one made for it", engine{containers: map[string]string{}, images: []string{"sha256:1"}, top: "."}, []string{"made"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := tc.engine.serve(t)
			if v, err := e.Volume(t.Context(), "data"); err != nil || v.Labels["com.docker.compose.project"] != "shop" {
				t.Errorf("the volume: %+v, %v", v, err)
			}
			var buf bytes.Buffer
			if err := e.Archive(t.Context(), "data", &buf); err != nil {
				t.Fatal(err)
			}
			var got []string
			for r := tar.NewReader(&buf); ; {
				h, err := r.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				line := h.Name
				if content, _ := io.ReadAll(r); len(content) > 0 {
					line += " " + string(content)
				}
				if h.Linkname != "" {
					line += " -> " + h.Linkname
				}
				got = append(got, line)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.removed, tc.engine.removed); diff != "" {
				t.Errorf("removed containers (-want +got):\n%s", diff)
			}
		})
	}
}

func TestArchiveWithoutAnything(t *testing.T) {
	bare := engine{containers: map[string]string{}}
	e := bare.serve(t)
	if err := e.Archive(t.Context(), "data", io.Discard); err == nil || !strings.Contains(err.Error(), "no image") {
		t.Errorf("without container and image: %v", err)
	}
	if _, err := e.Volume(t.Context(), "nope"); err == nil || !strings.Contains(err.Error(), "no such volume") {
		t.Errorf("of another: %v", err)
	}
}

func TestRebaseRefuses(t *testing.T) {
	for _, second := range []tar.Header{
		{Typeflag: tar.TypeReg, Name: "other/file"},
		{Typeflag: tar.TypeReg, Name: "database"},
		{Typeflag: tar.TypeLink, Name: "data/link", Linkname: "/etc/passwd"},
	} {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for _, h := range []tar.Header{{Typeflag: tar.TypeDir, Name: "data/"}, second} {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		w.Close()
		if err := rebase(&buf, io.Discard); err == nil {
			t.Errorf("%+v: no error", second)
		}
	}
}

func TestSockets(t *testing.T) {
	for _, tc := range []struct {
		env  map[string]string
		want []string
	}{
		{map[string]string{"DOCKER_HOST": "unix:///x.sock", "HOME": "/h"}, []string{"/x.sock"}},
		{map[string]string{"DOCKER_HOST": "tcp://far:2375"}, nil},
		{map[string]string{"XDG_RUNTIME_DIR": "/run/u", "HOME": "/h"}, []string{"/var/run/docker.sock", "/run/u/docker.sock", "/h/.docker/run/docker.sock"}},
	} {
		if diff := cmp.Diff(tc.want, Sockets(func(k string) string { return tc.env[k] })); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tc.env, diff)
		}
	}
	if _, err := Find(t.Context(), []string{filepath.Join(t.TempDir(), "none")}); !errors.Is(err, ErrNoEngine) {
		t.Errorf("no socket: %v", err)
	}
}

func TestPublisher(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `[{"Names":["/quiet"],"Ports":[{"PrivatePort":8080,"Type":"tcp"}]},
			{"Names":["/shop-web-1"],"Ports":[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},{"PrivatePort":53,"PublicPort":5353,"Type":"udp"}]}]`)
	}))
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	defer srv.Close()
	e := New(socket)
	for _, tc := range []struct {
		port  uint16
		proto string
		want  string
	}{{8080, "tcp", "shop-web-1"}, {5353, "udp", "shop-web-1"}, {5353, "tcp", ""}, {80, "tcp", ""}, {0, "tcp", ""}} {
		if got, err := e.Publisher(t.Context(), tc.port, tc.proto); err != nil || got != tc.want {
			t.Errorf("%d/%s: %q, %v, want %q", tc.port, tc.proto, got, err, tc.want)
		}
	}
}
