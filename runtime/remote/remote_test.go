package remote

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"go.uber.org/goleak"

	"github.com/stackvm/stack/runtime/config"
	"github.com/stackvm/stack/runtime/image/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gitRepository is a repository that a test commits to.
type gitRepository struct {
	t   *testing.T
	dir string
}

func newRepository(t *testing.T) gitRepository {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	r := gitRepository{t, t.TempDir()}
	r.git("init", "-q", "-b", "main", ".")
	return r
}

func (r gitRepository) git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "commit.gpgsign=false", "-c", "tag.gpgsign=false"}, args...)...)
	cmd.Dir = r.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit writes files, of which those whose content begins with -> are links, and
// returns the commit that has them.
func (r gitRepository) commit(files map[string]string) string {
	r.t.Helper()
	for name, text := range files {
		path := filepath.Join(r.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			r.t.Fatal(err)
		}
		os.Remove(path)
		var err error
		if target, ok := strings.CutPrefix(text, "->"); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
	r.git("add", "-A")
	r.git("commit", "-q", "-m", "x")
	return r.git("rev-parse", "HEAD")
}

func (r gitRepository) url() string { return "file://" + r.dir }

// newFiles fetches into a directory of the test's, and from host by HTTP.
func newFiles(t *testing.T, environment map[string]string, host string) *Files {
	t.Helper()
	return New(Options{
		Dir: t.TempDir(), Getenv: func(name string) string { return environment[name] },
		Registry: func(context.Context, registry.Repository) (*registry.Client, error) {
			return registry.New(registry.Options{Config: &config.Config{Registries: map[string]config.Registry{host: {PlainHTTP: true}}}}), nil
		},
	})
}

// fetch returns the content of the file that a name stands for, and its name.
func fetch(t *testing.T, f *Files, name string, any bool) (text, title string) {
	t.Helper()
	got, err := f.Fetch(t.Context(), name, any)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(got.File)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), got.Name
}

// TestGit: branches, tags and commits are found as git finds them, directories
// and files in them; a branch is asked for each time, unless any copy will do; a
// commit that is there needs no repository.
func TestGit(t *testing.T) {
	r := newRepository(t)
	first := r.commit(map[string]string{"compose.yml": "one", "deploy/prod.yaml": "prod", "deploy/docker-compose.yml": "deploy", "link.yaml": "->deploy/prod.yaml", "run.sh": "x"})
	r.git("tag", "-a", "-m", "x", "v1")
	r.git("tag", "light")
	r.git("branch", "feature/main") // listed before the branch main
	r.commit(map[string]string{"compose.yml": "two"})
	f := newFiles(t, nil, "")
	var told []string
	f.opt.Fetching = func(name string) func(bool) {
		return func(made bool) { told = append(told, fmt.Sprint(name, " ", made)) }
	}
	base := filepath.Base(r.dir)
	for _, tc := range []struct{ fragment, text, title string }{
		{"", "two", base},
		{"#main", "two", base},
		{"#refs/heads/main", "two", base},
		{"#feature/main", "one", base},
		{"#v1", "one", base},
		{"#light", "one", base},
		{"#" + first, "one", base},
		{"#v1:deploy", "deploy", "deploy"},
		{"#v1:deploy/prod.yaml", "prod", "deploy"},
		{"#v1:link.yaml", "prod", base},
		{"?tag=v1&checksum=" + first[:8], "one", base},
	} {
		if text, title := fetch(t, f, r.url()+tc.fragment, false); text != tc.text || title != tc.title {
			t.Errorf("%s: %q named %q, want %q named %q", tc.fragment, text, title, tc.text, tc.title)
		}
	}
	if want := []string{r.url() + " true", r.url() + "#feature/main true"}; !slices.Equal(told, want) { // two commits
		t.Errorf("told of %q, want %q", told, want)
	}
	for fragment, want := range map[string]string{
		"#nothing":                            "repository does not contain ref nothing",
		"#mai":                                "repository does not contain ref mai",
		"#v1:run.sh/x":                        "run.sh/x",
		"#v1:nowhere":                         "there is no nowhere in it",
		"?tag=v1&checksum=0000":               "does not begin with the checksum 0000",
		"#" + strings.Repeat("0", 40):         strings.Repeat("0", 40),
		"#" + r.git("rev-parse", "v1^{tree}"): "is no commit",
	} {
		if got, err := f.Fetch(t.Context(), r.url()+fragment, false); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), r.url()) {
			t.Errorf("%s: %v, %v, want an error with %q and the name", fragment, got, err, want)
		}
	}
	r.commit(map[string]string{"compose.yml": "three"})
	if text, _ := fetch(t, f, r.url(), true); text != "two" {
		t.Errorf("where any copy will do: %q", text)
	}
	if text, _ := fetch(t, f, r.url(), false); text != "three" {
		t.Errorf("the branch after a commit: %q", text)
	}
	if err := os.Rename(r.dir, r.dir+"-gone"); err != nil {
		t.Fatal(err)
	}
	if text, _ := fetch(t, f, r.url()+"#"+first, false); text != "one" {
		t.Errorf("a commit that is there: %q", text)
	}
	if text, _ := fetch(t, f, r.url()+"#:deploy/prod.yaml", true); text != "prod" {
		t.Errorf("any copy, while the repository is away: %q", text)
	}
	if _, err := f.Fetch(t.Context(), r.url(), false); err == nil {
		t.Error("a branch of a repository that is away is found")
	}
	left, err := filepath.Glob(filepath.Join(f.opt.Dir, ".fetching-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// TestGitOverHTTP: a repository behind a password, which the name has, and which
// git gets by no argument.
func TestGitOverHTTP(t *testing.T) {
	r := newRepository(t)
	r.commit(map[string]string{"compose.yaml": "served"})
	backend := filepath.Join(r.git("--exec-path"), "git-http-backend")
	if _, err := os.Stat(backend); err != nil {
		t.Skip("git has no http-backend here")
	}
	serve := &cgi.Handler{Path: backend, Env: []string{"GIT_PROJECT_ROOT=" + filepath.Dir(r.dir), "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if user, password, _ := req.BasicAuth(); user != "me" || password != "hush hush" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		req.URL.Path = strings.Replace(req.URL.Path, "/shop.git/", "/"+filepath.Base(r.dir)+"/.git/", 1)
		serve.ServeHTTP(w, req)
	}))
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "http://")
	f := newFiles(t, nil, "")
	if text, title := fetch(t, f, "http://me:hush%20hush@"+host+"/shop.git#main", false); text != "served" || title != "shop" {
		t.Errorf("%q named %q", text, title)
	}
	for _, user := range []string{"me:wrong@", ""} {
		_, err := f.Fetch(t.Context(), "http://"+user+host+"/shop.git", false)
		if err == nil || !strings.Contains(err.Error(), "git: fatal: ") || strings.Contains(err.Error(), "wrong") {
			t.Errorf("as %q: %v", user, err)
		}
	}
	s.Close()
	if _, err := f.Fetch(t.Context(), "http://me:hush@"+host+"/shop.git", false); err == nil {
		t.Error("a server that is gone answers")
	}
}

// TestGitIsHeldBack: nothing that a repository contains is run, and nothing of it
// lands or leads elsewhere.
func TestGitIsHeldBack(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "touched")
	for name, files := range map[string]map[string]string{
		"an absolute link":   {"compose.yaml": "->/etc/passwd"},
		"a link upwards":     {"a/b": "->../../../x"},
		"a link over a link": {"a/b/c": "x", "up": "->a/b", "d/e": "->../up/../../../y"},
	} {
		r := newRepository(t)
		r.commit(files)
		f := newFiles(t, nil, "")
		if _, err := f.Fetch(t.Context(), r.url(), false); err == nil || !strings.Contains(err.Error(), "outside of the repository") {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := os.ReadDir(filepath.Join(f.opt.Dir, "git")); len(left) > 0 {
			t.Errorf("%s: a copy is kept: %v", name, left)
		}
	}
	r := newRepository(t)
	r.commit(map[string]string{"compose.yaml": "x\n", ".gitattributes": "* text filter=evil\n", "in": "->compose.yaml", "nowhere": "->missing", ".gitmodules": "[submodule \"s\"]\n\tpath = s\n\turl = ./.\n"})
	r.git("update-index", "--add", "--cacheinfo", "160000,"+r.git("rev-parse", "HEAD")+",s")
	r.git("commit", "-q", "-m", "submodule")
	home := t.TempDir()
	hooks := filepath.Join(home, "hooks")
	script := "#!/bin/sh\ntouch " + outside + "\ncat\n"
	for _, name := range []string{"post-checkout", "reference-transaction"} {
		if err := os.MkdirAll(hooks, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(hooks, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	settings := fmt.Sprintf("[core]\n\thooksPath = %s\n\tautocrlf = true\n[filter \"evil\"]\n\tsmudge = %s\n[safe]\n\tdirectory = *\n", hooks, filepath.Join(hooks, "post-checkout"))
	if err := os.WriteFile(filepath.Join(home, ".gitconfig"), []byte(settings), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", home)
	t.Setenv("GIT_DIR", "/nowhere") // as in a hook of git's
	f := newFiles(t, nil, "")
	if text, _ := fetch(t, f, r.url(), false); text != "x\n" {
		t.Errorf("fetched %q", text)
	}
	if _, err := os.Stat(outside); err == nil {
		t.Error("a hook or a filter ran")
	}
	got, err := f.Fetch(t.Context(), r.url(), false)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(filepath.Dir(got.File), "s")); err != nil || !info.IsDir() {
		t.Errorf("the submodule's directory: %v, %v", info, err)
	}
	if info, err := os.Stat(filepath.Join(filepath.Dir(got.File), ".git")); err == nil {
		t.Errorf("the copy has a %s", info.Name())
	}
}

// TestSweep: what a killed process left goes with the next fetch, what another
// one is at stays.
func TestSweep(t *testing.T) {
	f := newFiles(t, nil, "")
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(f.opt.Dir, fmt.Sprintf("%s%d-1", staging, ended.Process.Pid))
	alive := filepath.Join(f.opt.Dir, fmt.Sprintf("%s%d-1", staging, os.Getpid()))
	for _, dir := range []string{dead, alive} {
		if err := os.MkdirAll(filepath.Join(dir, "tree"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.keep("x", filepath.Join(f.opt.Dir, "git", someCommit), func(*os.Root, string) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dead); err == nil {
		t.Error("what a dead process left stays")
	}
	if _, err := os.Stat(alive); err != nil {
		t.Errorf("another process's: %v", err)
	}
}

// TestTreeBounds: a list of files is refused for what would not stay below its
// directory, or is too much, before anything is written.
func TestTreeBounds(t *testing.T) {
	line := func(mode, size, path string) string {
		return mode + " blob " + someCommit + " " + size + "\t" + path + "\x00"
	}
	for name, tc := range map[string]struct{ list, want string }{
		"good":      {line("100644", "   1", "a/b") + "160000 commit " + someCommit + "       -\ts\x00", ""},
		"upwards":   {line("100644", "1", "../x"), "outside of its directory"},
		"inside up": {line("100644", "1", "a/../../x"), "outside of its directory"},
		"absolute":  {line("100644", "1", "/etc/x"), "outside of its directory"},
		"empty":     {line("100644", "1", ""), "outside of its directory"},
		"large":     {line("100644", "1073741825", "x"), "more than 1024 MiB"},
		"together":  {line("100644", "1073741824", "x") + line("100644", "1", "y"), "more than 1024 MiB"},
		"negative":  {line("100644", "-1", "x"), "for its size"},
		"long":      {line("100644", "1", strings.Repeat("x", 4097)), "outside"},
		"very long": {line("100644", "1", strings.Repeat("x", 9000)), "more than 4096 bytes"},
		"link":      {line("120000", "4097", "x"), "a link of 4097 bytes"},
		"mode":      {line("040000", "1", "x"), "none of git's"},
		"garbage":   {"x\x00", "no entry of a tree"},
		"cut":       {"100644", "reading git's list"},
		"many":      {strings.Repeat(line("100644", "1", "x"), maxEntries+1), "more than 100000 files"},
	} {
		_, err := parseTree(strings.NewReader(tc.list))
		if (tc.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// FuzzParseTree: what is accepted stays below its directory, within bounds.
func FuzzParseTree(f *testing.F) {
	f.Add([]byte("100644 blob " + someCommit + "       1\ta/b\x00120000 blob " + someCommit + " 3\tl\x00"))
	f.Add([]byte("160000 commit " + someCommit + "       -\t../s\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		entries, err := parseTree(bytes.NewReader(in))
		if err != nil {
			return
		}
		var total int64
		for _, e := range entries {
			total += e.size
			if !filepath.IsLocal(e.path) || e.size < 0 {
				t.Errorf("accepted %+v", e)
			}
		}
		if total > maxBytes {
			t.Errorf("accepted %d bytes", total)
		}
	})
}

// FuzzManifest: what is written of an artifact are files of one directory, one of
// them the compose file.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"artifactType":"application/vnd.docker.compose.project","layers":[{"mediaType":"application/vnd.docker.compose.file+yaml","size":1},
{"mediaType":"application/vnd.docker.compose.envfile","annotations":{"com.docker.compose.envfile":"../x"}}]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := parseManifest(in)
		if err != nil {
			return
		}
		files, order, err := m.files()
		if err != nil {
			return
		}
		if files[artifactFile] == nil || len(order) != len(files) {
			t.Errorf("files %v in the order %v", files, order)
		}
		for _, name := range order {
			if filepath.Dir(filepath.Clean(name)) != "." || !filepath.IsLocal(name) {
				t.Errorf("accepted the file %q", name)
			}
		}
	})
}

// TestGitArguments: passwords are in no argument, and file is allowed only where
// it was asked for.
func TestGitArguments(t *testing.T) {
	g, err := ParseGit("https://me:hush@example.com/shop.git")
	if err != nil {
		t.Fatal(err)
	}
	if args := strings.Join(g.settings(), " "); strings.Contains(args, "hush") || !strings.Contains(args, "credential.https://example.com.helper=") {
		t.Errorf("arguments: %s", args)
	}
	environ := strings.Join(g.environ([]string{"GIT_DIR=/x", "GIT_ALLOW_PROTOCOL=ext", "A=b", "GIT_SSH=mine"}), "\n") + "\n"
	for _, want := range []string{"STACK_GIT_PASSWORD=hush\n", "GIT_ALLOW_PROTOCOL=git:http:https:ssh\n", "A=b\n", "GIT_TERMINAL_PROMPT=0\n"} {
		if !strings.Contains(environ, want) {
			t.Errorf("no %q in %q", want, environ)
		}
	}
	for _, bad := range []string{"GIT_DIR", "ext", "GIT_SSH_COMMAND"} {
		if strings.Contains(environ, bad) {
			t.Errorf("%q in %q", bad, environ)
		}
	}
}

// TestSwitches are docker compose's.
func TestSwitches(t *testing.T) {
	for name, kind := range map[string]string{"https://example.com/x.git": "git", "oci://example.com/x": "OCI"} {
		variable := "COMPOSE_EXPERIMENTAL_" + strings.ToUpper(kind) + "_REMOTE"
		for value, want := range map[string]string{
			"false": kind + ` remote resource is disabled by "` + variable + `"`,
			"maybe": variable + " environment variable expects boolean value",
		} {
			_, err := newFiles(t, map[string]string{variable: value}, "").Fetch(t.Context(), name, false)
			if err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%s=%s: %v", variable, value, err)
			}
		}
	}
}

// ociRegistry is a registry that a test publishes to.
type ociRegistry struct {
	t      *testing.T
	host   string
	server *httptest.Server
}

func newRegistry(t *testing.T) ociRegistry {
	s := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	return ociRegistry{t, s.Listener.Addr().String(), s}
}

func (r ociRegistry) send(method, path, mediaType string, body []byte, want int) *http.Response {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.server.URL+path, bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := r.server.Client().Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != want {
		r.t.Fatalf("%s %s: %s", method, path, resp.Status)
	}
	return resp
}

func digestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// layer is a file of a project, with its annotations.
type layer struct {
	kind, text  string
	annotations map[string]string
}

// publish pushes a manifest with layers and returns its digest.
func (r ociRegistry) publish(tag string, m map[string]any, layers ...layer) string {
	r.t.Helper()
	var list []map[string]any
	for _, l := range append([]layer{{"application/vnd.oci.empty.v1+json", "{}", nil}}, layers...) {
		d := digestOf([]byte(l.text))
		r.send(http.MethodPost, "/v2/me/shop/blobs/uploads/?digest="+d, "application/octet-stream", []byte(l.text), http.StatusCreated)
		list = append(list, map[string]any{"mediaType": l.kind, "digest": d, "size": len(l.text), "annotations": l.annotations})
	}
	m["schemaVersion"] = 2
	if m["mediaType"] == nil {
		m["mediaType"] = "application/vnd.oci.image.manifest.v1+json"
		m["layers"] = list[1:]
	}
	if m["config"] == nil {
		m["config"] = list[0]
	}
	b, err := json.Marshal(m)
	if err != nil {
		r.t.Fatal(err)
	}
	r.send(http.MethodPut, "/v2/me/shop/manifests/"+tag, m["mediaType"].(string), b, http.StatusCreated)
	return digestOf(b)
}

func composeLayer(name, text string, extended bool) layer {
	a := map[string]string{fileAnnotation: name}
	if extended {
		a[extendsAnnotation] = "true"
	}
	return layer{fileType, text, a}
}

// TestOCI: a published project, of either version of OCI and with its images, is
// one compose file with those it extends and env files beside it; a digest that
// is there needs no registry.
func TestOCI(t *testing.T) {
	r := newRegistry(t)
	project := func() map[string]any { return map[string]any{"artifactType": projectType} }
	digest := r.publish("1", project(),
		composeLayer("compose.yaml", "services: {}", false), composeLayer("override.yaml", "x-a: 1", false),
		composeLayer("abc.yaml", "extended", true), layer{envFileType, "A=b", map[string]string{envFileAnnotation: "def.env"}},
		layer{"application/vnd.later", "?", nil})
	r.publish("old", map[string]any{"config": map[string]any{"mediaType": emptyConfigType, "digest": digestOf([]byte("{}")), "size": 2}}, composeLayer("compose.yaml", "old", false))
	r.publish("app", map[string]any{"mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []map[string]any{
		{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 1, "artifactType": projectType},
	}})
	f := newFiles(t, nil, r.host)
	name := "oci://" + r.host + "/me/shop"
	want := "services: {}\n---\nx-a: 1"
	for tag, want := range map[string]string{":1": want, ":old": "old", ":app": want, "@" + digest: want} {
		if text, title := fetch(t, f, name+tag, false); text != want || title != "shop" {
			t.Errorf("%s: %q named %q, want %q", tag, text, title, want)
		}
	}
	got, err := f.Fetch(t.Context(), name+":1", false)
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"abc.yaml": "extended", "def.env": "A=b"} {
		if text, err := os.ReadFile(filepath.Join(filepath.Dir(got.File), file)); err != nil || string(text) != want {
			t.Errorf("%s: %q, %v", file, text, err)
		}
	}
	r.publish("1", project(), composeLayer("compose.yaml", "new", false))
	if text, _ := fetch(t, f, name+":1", true); text != want {
		t.Errorf("where any copy will do: %q", text)
	}
	if text, _ := fetch(t, f, name+":1", false); text != "new" {
		t.Errorf("the tag after a push: %q", text)
	}
	r.server.Close()
	if text, _ := fetch(t, f, name+":2@"+digest, false); text != want {
		t.Errorf("a digest that is there: %q", text)
	}
}

// TestOCIIsHeldBack: what is no project, and names that are no files of its
// directory, are refused, and nothing is kept.
func TestOCIIsHeldBack(t *testing.T) {
	r := newRegistry(t)
	main := composeLayer("compose.yaml", "x", false)
	env := func(name, text string) layer {
		return layer{envFileType, text, map[string]string{envFileAnnotation: name}}
	}
	image := map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digestOf([]byte("{}")), "size": 2}
	for want, tc := range map[string]struct {
		manifest map[string]any
		layers   []layer
	}{
		`not a compose project OCI artifact, but "an image"`:         {map[string]any{"config": image}, []layer{main}},
		`not a compose project OCI artifact, but "application/sbom"`: {map[string]any{"artifactType": "application/sbom"}, []layer{main}},
		"it has no compose file":                                     {nil, []layer{env(".env", "A=b")}},
		`a file "../x"`:                                              {nil, []layer{main, composeLayer("../x", "x", true)}},
		`a file "/etc/passwd"`:                                       {nil, []layer{main, env("/etc/passwd", "x")}},
		`a file "a/b"`:                                               {nil, []layer{main, env("a/b", "x")}},
		`a file ".."`:                                                {nil, []layer{main, env("..", "x")}},
		`a file "a\\b"`:                                              {nil, []layer{main, composeLayer(`a\b`, "x", true)}},
		`a file ""`:                                                  {nil, []layer{main, {envFileType, "x", nil}}},
		`two files "compose.yaml"`:                                   {nil, []layer{main, env("compose.yaml", "x")}},
		`two files "a.env"`:                                          {nil, []layer{main, env("a.env", "x"), env("a.env", "y")}},
	} {
		m := tc.manifest
		if m == nil {
			m = map[string]any{"artifactType": projectType}
		}
		r.publish("1", m, tc.layers...)
		f := newFiles(t, nil, r.host)
		if _, err := f.Fetch(t.Context(), "oci://"+r.host+"/me/shop:1", false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if left, _ := os.ReadDir(filepath.Join(f.opt.Dir, "oci")); len(left) > 0 {
			t.Errorf("%s: a copy is kept: %v", want, left)
		}
	}
	large := manifest{ArtifactType: projectType, Layers: []descriptor{{MediaType: fileType, Size: maxFileBytes + 1}}}
	if _, _, err := large.files(); err == nil || !strings.Contains(err.Error(), "more than 16 MiB") {
		t.Errorf("a large file: %v", err)
	}
	many := manifest{ArtifactType: projectType, Layers: make([]descriptor, maxLayers+1)}
	if _, _, err := many.files(); err == nil || !strings.Contains(err.Error(), "more than 256 files") {
		t.Errorf("many files: %v", err)
	}
}
