package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"syscall"
)

// ErrNoEngine is returned when no engine answers on this host.
var ErrNoEngine = errors.New("no docker engine answers on this host")

// Engine is a docker engine on this host. Its methods may be called concurrently.
type Engine struct {
	socket string
	http   *http.Client
}

// Sockets are the paths where an engine may listen, by the environment that
// getenv reads. DOCKER_HOST, if it is set, is the only one; one elsewhere than
// on this host is none of them.
func Sockets(getenv func(string) string) []string {
	if host := getenv("DOCKER_HOST"); host != "" {
		if path, ok := strings.CutPrefix(host, "unix://"); ok {
			return []string{path}
		}
		return nil
	}
	paths := []string{"/var/run/docker.sock"}
	if dir := getenv("XDG_RUNTIME_DIR"); dir != "" {
		paths = append(paths, filepath.Join(dir, "docker.sock")) // rootless
	}
	if home := getenv("HOME"); home != "" {
		paths = append(paths, filepath.Join(home, ".docker", "run", "docker.sock")) // Docker Desktop
	}
	return paths
}

// Find returns the first engine that answers, or ErrNoEngine; a socket that this
// user may not use is part of the error.
func Find(ctx context.Context, sockets []string) (*Engine, error) {
	var denied error
	for _, socket := range sockets {
		e := New(socket)
		err := e.get(ctx, "/_ping", nil, nil)
		switch {
		case err == nil:
			return e, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		case denied == nil:
			denied = err
		}
	}
	if denied != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoEngine, denied)
	}
	return nil, ErrNoEngine
}

// New returns the engine that listens at socket, without asking it.
func New(socket string) *Engine {
	return &Engine{socket: socket, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true, // nothing to close
	}}}
}

// maxAnswer bounds what an engine may answer, archives aside.
const maxAnswer = 64 << 20

// request sends a call and returns the answer's body, which the caller closes.
func (e *Engine) request(ctx context.Context, method, path string, query url.Values, body any) (io.ReadCloser, error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://docker"+path+"?"+query.Encode(), content)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := e.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("docker at %s: %w", e.socket, err)
	}
	if resp.StatusCode < 300 {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	var fault struct {
		Message string `json:"message"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&fault); err != nil || fault.Message == "" {
		fault.Message = resp.Status
	}
	return nil, fmt.Errorf("docker at %s: %s", e.socket, fault.Message)
}

func (e *Engine) call(ctx context.Context, method, path string, query url.Values, body, answer any) error {
	r, err := e.request(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	defer r.Close()
	if answer == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(r, maxAnswer)).Decode(answer); err != nil {
		return fmt.Errorf("docker at %s: decoding its answer to %s: %w", e.socket, path, err)
	}
	return nil
}

func (e *Engine) get(ctx context.Context, path string, query url.Values, answer any) error {
	return e.call(ctx, http.MethodGet, path, query, nil, answer)
}

// filter is the query parameter "filters" of one condition.
func filter(key, value string) url.Values {
	text, err := json.Marshal(map[string][]string{key: {value}})
	if err != nil {
		panic(err) // strings
	}
	return url.Values{"filters": {string(text)}}
}
