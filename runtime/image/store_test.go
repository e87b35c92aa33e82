package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"go.uber.org/goleak"

	"github.com/stackvm/stack/runtime/config"
	"github.com/stackvm/stack/runtime/image/erofstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tarLayer makes a layer of names and contents, in that order.
func tarLayer(t testing.TB, files ...string) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for n := 0; n < len(files); n += 2 {
		if err := w.WriteHeader(&tar.Header{Name: files[n], Size: int64(len(files[n+1])), Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[n+1]); err != nil {
			t.Fatal(err)
		}
	}
	return tarBytes(t, w, &b)
}

// everything is a layer of every kind of file.
func everything(t testing.TB) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	when := time.Unix(1700000000, 123456789)
	xattrs := map[string]string{
		"SCHILY.xattr.user.big":            strings.Repeat("v", 10000),
		"SCHILY.xattr.trusted.t":           "2",
		"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	}
	for _, h := range []tar.Header{
		{Name: "all/suid", Typeflag: tar.TypeReg, Mode: 0o6755, Uid: 4000000000, Gid: 1, ModTime: when, PAXRecords: xattrs},
		{Name: "all/link", Typeflag: tar.TypeLink, Linkname: "all/suid"},
		{Name: "all/symlink", Typeflag: tar.TypeSymlink, Linkname: "/../" + strings.Repeat("x", 3000), Mode: 0o777},
		{Name: "all/chr", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666},
		{Name: "all/blk", Typeflag: tar.TypeBlock, Devmajor: 259, Devminor: 70000},
		{Name: "all/fifo", Typeflag: tar.TypeFifo},
		{Name: "all/tmp", Typeflag: tar.TypeDir, Mode: 0o1777},
	} {
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 500 { // a directory of many blocks
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("all/dir/%d-%s", n, strings.Repeat("n", n%200)), Typeflag: tar.TypeReg, Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
	}
	return tarBytes(t, w, &b)
}

func tarBytes(t testing.TB, w *tar.Writer, b *bytes.Buffer) v1.Layer {
	t.Helper()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// makeImage puts layers under a configuration.
func makeImage(t testing.TB, cfg v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	f, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	f = f.DeepCopy()
	f.OS, f.Architecture, f.Config = "linux", HostPlatform().Arch, cfg
	if img, err = mutate.ConfigFile(img, f); err != nil {
		t.Fatal(err)
	}
	return img
}

// server is a registry on the loopback whose requests a test can watch and
// break.
type server struct {
	*httptest.Server
	Host string // 127.0.0.1:PORT
}

// serve starts a registry; wrap, if not nil, stands before it.
func serve(t testing.TB, wrap func(http.Handler) http.Handler) *server {
	t.Helper()
	h := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	if wrap != nil {
		h = wrap(h)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return &server{s, strings.TrimPrefix(s.URL, "http://")}
}

// push puts an image or an index into a registry.
func (s *server) push(t testing.TB, repoTag string, what any) {
	t.Helper()
	ref, err := name.ParseReference(s.Host+"/"+repoTag, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	switch what := what.(type) {
	case v1.Image:
		err = remote.Write(ref, what, remote.WithTransport(tr))
	case v1.ImageIndex:
		err = remote.WriteIndex(ref, what, remote.WithTransport(tr))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// mirrored is a configuration in which s mirrors docker.io.
func mirrored(t testing.TB, servers ...*server) *config.Config {
	t.Helper()
	r := config.Registry{}
	for _, s := range servers {
		u, err := url.Parse(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		r.Mirrors = append(r.Mirrors, u)
	}
	return &config.Config{Registries: map[string]config.Registry{config.DockerHub: r}}
}

func open(t testing.TB, cfg *config.Config) *Store {
	t.Helper()
	s, err := Open(t.TempDir(), Options{Config: cfg})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// contents reads the image's disk: its extents one after the other, walked by
// every reader.
func contents(t testing.TB, s *Store, img *Image) []string {
	t.Helper()
	d, err := s.Disk(img)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, e := range d.Extents {
		b, err := os.ReadFile(e.Path)
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(b)) != e.Bytes || e.Bytes%4096 != 0 {
			t.Errorf("extent %s: %d bytes, said to be %d", e.Path, len(b), e.Bytes)
		}
		if _, err := f.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	var lines []string
	files, _ := erofstest.Check(t, path)
	for _, f := range files {
		if f.Mode.IsRegular() {
			lines = append(lines, fmt.Sprintf("%s %d %s", f.Path, f.Size, f.Sum))
		}
	}
	return lines
}

// want is the line that contents gives for a file.
func want(name, content string) string {
	return fmt.Sprintf("%s %d %s", name, len(content), erofstest.Sum([]byte(content)))
}

func TestPullThroughAMirror(t *testing.T) {
	reg := serve(t, nil)
	cfg := v1.Config{
		Entrypoint: []string{"/entry"}, Cmd: []string{"a", "b"}, Env: []string{"A=1"}, User: "web:www", WorkingDir: "/srv",
		ExposedPorts: map[string]struct{}{"80/tcp": {}, "53/udp": {}}, Volumes: map[string]struct{}{"/data": {}},
		StopSignal: "SIGQUIT", Labels: map[string]string{"l": "v"}, Healthcheck: &v1.HealthConfig{Test: []string{"CMD", "true"}, Interval: 3e9},
	}
	big := strings.Repeat("x", 100000)
	pushed := makeImage(t, cfg, tarLayer(t, "a", "old", "gone", "x", "big", big), tarLayer(t, "a", "new", ".wh.gone", ""))
	reg.push(t, "library/web:1", pushed)

	s := open(t, mirrored(t, reg))
	var events []Progress
	img, err := s.Pull(t.Context(), "web:1", PullOptions{Progress: func(p Progress) { events = append(events, p) }})
	if err != nil {
		t.Fatal(err)
	}
	digest, _ := pushed.Digest()
	id, _ := pushed.ConfigName()
	if img.Digest != digest.String() || img.ID != id.Hex || !cmp.Equal(img.Tags, []string{"web:1"}) {
		t.Errorf("pulled %+v", img)
	}
	wantConfig := Config{
		Entrypoint: []string{"/entry"}, Cmd: []string{"a", "b"}, Env: []string{"A=1"}, User: "web:www", WorkingDir: "/srv",
		ExposedPorts: []string{"53/udp", "80/tcp"}, Volumes: []string{"/data"}, StopSignal: "SIGQUIT", Labels: map[string]string{"l": "v"},
		Healthcheck: &Healthcheck{Test: []string{"CMD", "true"}, Interval: 3e9},
	}
	if diff := cmp.Diff(wantConfig, img.Config); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{want("a", "new"), want("big", big)}, contents(t, s, img)); diff != "" {
		t.Error(diff)
	}
	phases := map[string][]Phase{}
	for _, e := range events {
		if e.Ref != "web:1" {
			t.Errorf("event %+v", e)
		}
		if p := phases[e.Layer]; len(p) == 0 || p[len(p)-1] != e.Phase {
			phases[e.Layer] = append(p, e.Phase)
		}
	}
	for _, l := range img.Layers {
		if diff := cmp.Diff([]Phase{Waiting, Downloading, Extracting, Done}, phases[l.Digest]); diff != "" {
			t.Errorf("layer %s: %s", l.Digest, diff)
		}
	}

	// A second pull finds everything; so does another process's store.
	again, err := s.Pull(t.Context(), "docker.io/library/web:1", PullOptions{Progress: func(p Progress) {
		if p.Phase != Waiting && p.Phase != Exists {
			t.Errorf("second pull: %+v", p)
		}
	}})
	if err != nil || again.Digest != img.Digest {
		t.Errorf("second pull: %v, %v", again, err)
	}
	other, err := Open(s.dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for _, ref := range []string{"web:1", "docker.io/web:1", "web@" + img.Digest, "web:other@" + img.Digest, img.ID, img.ID[:12], "sha256:" + img.ID} {
		if got, err := other.Get(ref, ""); err != nil || got.Digest != img.Digest {
			t.Errorf("Get(%q) = %v, %v", ref, got, err)
		}
	}
	if _, err := other.Get("web:2", ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get of what is not there: %v", err)
	}
	if got, err := s.Resolve(context.Background(), "web:1", PullOptions{}); err != nil || got != img.Digest {
		t.Errorf("Resolve = %q, %v", got, err)
	}
}
