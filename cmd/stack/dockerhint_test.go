package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
)

// dockerAnswers makes an engine answer at DOCKER_HOST, with the volumes shop_data and
// shop_cache and a container that publishes port 8080.
func dockerAnswers(t *testing.T, handler http.HandlerFunc) {
	t.Helper()
	dir, err := os.MkdirTemp("", "hint") // short: a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "docker.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(handler)
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	t.Setenv("DOCKER_HOST", "unix://"+socket)
}

func withThings(w http.ResponseWriter, r *http.Request) {
	switch name := strings.TrimPrefix(r.URL.Path, "/volumes/"); name {
	case "shop_data", "shop_cache":
		fmt.Fprintf(w, `{"Name":%q}`, name)
	case "/_ping":
		fmt.Fprint(w, "OK")
	case "/containers/json":
		fmt.Fprint(w, `[{"Names":["/old-web-1"],"Ports":[{"PublicPort":8080,"Type":"tcp"}]}]`)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func creating(volumes ...string) *planner.Plan {
	p := &planner.Plan{Steps: []planner.Step{{Verb: planner.Create, Noun: planner.ReplicaNoun, Name: "shop_data"}}}
	for _, v := range volumes {
		p.Steps = append(p.Steps, planner.Step{Verb: planner.Create, Noun: planner.VolumeNoun, Name: v})
	}
	return p
}

// hinted is what is printed of a change.
func hinted(t *testing.T, plan *planner.Plan) string {
	var out bytes.Buffer
	var h dockerHints
	defer h.close()
	h.ask(t.Context(), plan)
	h.print(&out)
	h.wait(&out)
	h.print(&out) // once
	return out.String()
}

func TestDockerVolumeHint(t *testing.T) {
	dockerAnswers(t, withThings)
	for want, volumes := range map[string][]string{
		"": {"shop_other"},
		"hint: docker has a volume shop_data too, this one is new; to begin with docker's data: stack down; stack volume rm shop_data; stack volume import --from-docker shop_data; stack up\n":            {"shop_other", "shop_data"},
		"hint: docker has volumes shop_cache, shop_data too, these are new; to begin with docker's data: stack down; stack volume rm NAME and stack volume import --from-docker NAME for each; stack up\n": {"shop_cache", "shop_data"},
	} {
		if got := hinted(t, creating(volumes...)); got != want {
			t.Errorf("%v: %q, want %q", volumes, got, want)
		}
	}
	if got := hinted(t, creating()); got != "" {
		t.Errorf("without a new volume: %q", got)
	}
}

// Nothing is said, and nothing waited for, where no engine answers; one that hangs is
// waited for in vain, but not for long.
func TestNoDockerHint(t *testing.T) {
	release := make(chan struct{})
	dockerAnswers(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done(): // given up
		}
	})
	taken := &api.Error{Code: api.CodeRefused, Message: "taken", Hint: "h", InUse: []string{"8080/tcp"}}
	for _, where := range []string{os.Getenv("DOCKER_HOST"), "unix:///nonexistent/docker.sock", "tcp://192.0.2.1:2375"} {
		t.Setenv("DOCKER_HOST", where)
		if got := hinted(t, creating("shop_data")); got != "" {
			t.Errorf("%s: %q", where, got)
		}
		if got := dockerPorts(t.Context(), taken); !errors.Is(got, taken) {
			t.Errorf("%s: %v", where, got)
		}
	}
	close(release)
}

func TestDockerPortHint(t *testing.T) {
	dockerAnswers(t, withThings)
	taken := &api.Error{Code: api.CodeRefused, Message: "taken", Hint: "another program listens on it", InUse: []string{"53/udp", "8080/tcp"}}
	want := "taken\n  hint: docker's container old-web-1 publishes port 8080: docker stop old-web-1"
	if got := dockerPorts(t.Context(), taken); got == nil || got.Error() != want {
		t.Errorf("%v, want %s", got, want)
	}
	for _, err := range []error{nil, errors.New("else"), &api.Error{Message: "no port"}, &api.Error{Message: "another port", InUse: []string{"53/udp"}}} {
		if got := dockerPorts(t.Context(), err); !errors.Is(got, err) {
			t.Errorf("%v became %v", err, got)
		}
	}
}
