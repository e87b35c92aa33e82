package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/stackvm/stack/runtime/config"
)

// committed makes a git repository of a compose file and returns its name.
func committed(t *testing.T, text string) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "compose.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"init", "-q", "."}, {"add", "-A"}, {"-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "commit.gpgsign=false", "commit", "-q", "-m", "x"}} {
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
	}
	return "file://" + dir
}

// TestConfirmRemote: a project whose main file comes from elsewhere is asked about
// before anything is made of it: what it includes, where it lies, and the values
// of its variables.
func TestConfirmRemote(t *testing.T) {
	t.Setenv("STACK_HOME", t.TempDir())
	t.Setenv("TOKEN", "abc")
	plain := committed(t, "services: {web: {image: web}}")
	variables := committed(t, "services: {web: {image: \"${IMAGE:-web}\", environment: {TOKEN: \"${TOKEN:?}\", X: \"$OTHER\"}}}")
	including := committed(t, "include: [\""+plain+"\"]\nservices: {db: {image: db}}")
	local := filepath.Join(t.TempDir(), "compose.yaml")
	if err := os.WriteFile(local, []byte("include: [\""+variables+"\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const proceed, include = "proceed with these variables?", "potentially be malicious"
	for name, tc := range map[string]struct {
		file, answers string
		yes           bool
		cancelled     bool
		said, unsaid  string
	}{
		"nothing to ask":       {file: plain, said: "Your compose stack", unsaid: proceed},
		"a local file":         {file: local, unsaid: "Your compose stack"},
		"variables":            {file: variables, answers: "y\n", said: proceed},
		"variables not agreed": {file: variables, answers: "n\n", cancelled: true, said: proceed},
		"nobody there":         {file: variables, cancelled: true, said: proceed},
		"yes to all":           {file: variables, yes: true, said: "Your compose stack", unsaid: proceed},
		"includes":             {file: including, answers: "yes\n", said: include},
		"includes not agreed":  {file: including, answers: "\n", cancelled: true, said: include, unsaid: "Your compose stack"},
		"includes with yes":    {file: including, yes: true, unsaid: include},
	} {
		t.Run(name, func(t *testing.T) {
			answers := filepath.Join(t.TempDir(), "answers")
			if err := os.WriteFile(answers, []byte(tc.answers), 0o600); err != nil {
				t.Fatal(err)
			}
			in, err := os.Open(answers)
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			var out bytes.Buffer
			a := &app{in: in, out: &out, err: &out}
			a.root()
			a.load.Files = []string{tc.file}
			p, err := a.project(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			err = a.confirmRemote(t.Context(), a.out, a.load, p, tc.yes, []string{"OTHER=flag"})
			if cancelled := err != nil && err.Error() == errCancelled.Error(); cancelled != tc.cancelled || !cancelled && err != nil {
				t.Errorf("error %v, want it cancelled %v", err, tc.cancelled)
			}
			if text := out.String(); !strings.Contains(text, tc.said) || tc.unsaid != "" && strings.Contains(text, tc.unsaid) {
				t.Errorf("said:\n%s\nwant %q and not %q", text, tc.said, tc.unsaid)
			}
			if tc.said != proceed {
				return
			}
			for _, row := range []string{
				"VARIABLE   VALUE   SOURCE         REQUIRED   DEFAULT", "IMAGE      web     compose file   no         web",
				"OTHER      flag    command-line   no", "TOKEN      abc     environment    yes",
			} {
				if !strings.Contains(out.String(), row) {
					t.Errorf("no row %q in:\n%s", row, out.String())
				}
			}
		})
	}
}

// TestPublishedProject: a project in a registry is read like a file.
func TestPublishedProject(t *testing.T) {
	t.Setenv("STACK_HOME", t.TempDir())
	s := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	defer s.Close()
	send := func(method, path, kind string, body []byte) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", kind)
		resp, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusCreated {
			t.Fatalf("%s %s: %s", method, path, resp.Status)
		}
	}
	blob := func(kind, text string, annotations map[string]string) map[string]any {
		digest := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text)))
		send(http.MethodPost, "/v2/me/shop/blobs/uploads/?digest="+digest, "application/octet-stream", []byte(text))
		return map[string]any{"mediaType": kind, "digest": digest, "size": len(text), "annotations": annotations}
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "artifactType": "application/vnd.docker.compose.project",
		"config": blob("application/vnd.oci.empty.v1+json", "{}", nil),
		"layers": []any{
			blob("application/vnd.docker.compose.file+yaml", "services: {web: {image: web, env_file: a.env}}", map[string]string{"com.docker.compose.file": "compose.yaml"}),
			blob("application/vnd.docker.compose.envfile", "A=b\n", map[string]string{"com.docker.compose.envfile": "a.env"}),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	send(http.MethodPut, "/v2/me/shop/manifests/1", "application/vnd.oci.image.manifest.v1+json", manifest)
	host := strings.TrimPrefix(s.URL, "http://")
	var out bytes.Buffer
	a := &app{in: os.Stdin, out: &out, err: &out}
	root := a.root()
	root.SetArgs([]string{"-f", "oci://" + host + "/me/shop:1", "config"}) // of this host, so HTTP will do
	if status := a.report(root.ExecuteContext(t.Context())); status != 0 || !strings.Contains(out.String(), "name: shop") || !strings.Contains(out.String(), "A: b") {
		t.Errorf("status %d:\n%s", status, out.String())
	}
}

// TestInsecureRegistry: the flag changes how its hosts are reached and nothing else.
func TestInsecureRegistry(t *testing.T) {
	c := &config.Config{Registries: map[string]config.Registry{"a": {CAFile: "x"}, "b": {}}}
	got := plainHTTP(c, []string{"a", "c"})
	if a := got.Registry("a"); !a.PlainHTTP || a.CAFile != "x" || !got.Registry("c").PlainHTTP || got.Registry("b").PlainHTTP || c.Registry("a").PlainHTTP {
		t.Errorf("%+v of %+v", got.Registries, c.Registries)
	}
}
