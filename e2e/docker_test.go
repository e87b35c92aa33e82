package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// makeArchive is "archive FILE": a tar of a volume with owners, modes, a hard
// link and a file that is not in any image.
func makeArchive(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: archive FILE")
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range []struct {
		tar.Header
		content string
	}{
		{tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o2750}, ""},
		{tar.Header{Typeflag: tar.TypeReg, Name: "./greeting", Mode: 0o640}, "hello from the archive\n"},
		{tar.Header{Typeflag: tar.TypeLink, Name: "./linked", Linkname: "./greeting"}, ""},
		{tar.Header{Typeflag: tar.TypeReg, Name: "./sub/zeros", Mode: 0o600}, string(make([]byte, 1<<20))},
	} {
		e.Uid, e.Gid, e.Size, e.ModTime = 70, 71, int64(len(e.content)), time.Unix(1e9, 0)
		ts.Check(w.WriteHeader(&e.Header))
		_, err := w.Write([]byte(e.content))
		ts.Check(err)
	}
	ts.Check(w.Close())
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), buf.Bytes(), 0o600))
}

// dockerEngine is "docker VOLUME FILE": a docker engine answers, by DOCKER_HOST,
// until the script ends. It has one volume, a compose project's, which FILE is
// the archive of, and a container that has it. DOCKER_SOCKET is the path of its
// socket. POST /upgrade becomes a stream that repeats what it got when that has
// ended.
func dockerEngine(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: docker VOLUME FILE")
	}
	content, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	labels := map[string]string{"com.docker.compose.project": "shop", "com.docker.compose.volume": "data"}
	mux := http.NewServeMux()
	answer := func(path string, v any) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(v) })
	}
	answer("/_ping", "OK")
	answer("/volumes/"+args[0], map[string]any{"Name": args[0], "Driver": "local", "Labels": labels})
	answer("/containers/json", []any{map[string]any{
		"Id": "c1", "Names": []string{"/shop-db-1"}, "Labels": labels,
		"Mounts": []any{map[string]string{"Type": "volume", "Name": args[0], "Source": "/var/lib/docker/volumes/x/_data", "Destination": "/data"}},
	}})
	mux.HandleFunc("GET /containers/c1/archive", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) })
	mux.HandleFunc("POST /upgrade", func(w http.ResponseWriter, _ *http.Request) {
		conn, buffered, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
		got, err := io.ReadAll(buffered)
		if err != nil {
			return
		}
		_, _ = fmt.Fprintf(conn, "%d bytes, and this is their end: %s", len(got), got[max(0, len(got)-9):])
	})
	dir, err := os.MkdirTemp("/tmp", "stack-docker-") // short enough for a socket
	ts.Check(err)
	socket := filepath.Join(dir, "docker.sock")
	l, err := net.Listen("unix", socket)
	ts.Check(err)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(l) }() // ends with Close
	ts.Defer(func() {
		_ = srv.Close()
		_ = os.RemoveAll(dir)
	})
	ts.Setenv("DOCKER_HOST", "unix://"+socket)
	ts.Setenv("DOCKER_SOCKET", socket)
}
