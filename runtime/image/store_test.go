package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	"github.com/stackvm/stack/runtime/config"
	"github.com/stackvm/stack/runtime/image/erofstest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("IMAGE_TEST_PULL"); dir != "" { // the process that TestKilled kills
		u, err := url.Parse(os.Getenv("IMAGE_TEST_MIRROR"))
		if err != nil {
			log.Fatal(err)
		}
		s, err := Open(dir, Options{Config: &config.Config{Registries: map[string]config.Registry{config.DockerHub: {Mirrors: []*url.URL{u}}}}})
		if err != nil {
			log.Fatal(err)
		}
		if _, err := s.Pull(context.Background(), "x:1", PullOptions{}); err != nil {
			log.Fatal(err)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

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
	var requests atomic.Int32
	reg := serve(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			h.ServeHTTP(w, r)
		})
	})
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

	// A second pull asks for the manifest only and finds everything else; so does
	// another process's store.
	requests.Store(0)
	again, err := s.Pull(t.Context(), "docker.io/library/web:1", PullOptions{Progress: func(p Progress) {
		if p.Phase != Waiting && p.Phase != Exists {
			t.Errorf("second pull: %+v", p)
		}
	}})
	if err != nil || again.Digest != img.Digest {
		t.Errorf("second pull: %v, %v", again, err)
	}
	if n := requests.Load(); n != 2 { // one of them asks how to log in
		t.Errorf("the second pull makes %d requests", n)
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

func TestPlatforms(t *testing.T) {
	reg := serve(t, nil)
	build := func(arch, variant string) v1.Image {
		img := makeImage(t, v1.Config{}, tarLayer(t, "arch", arch+variant))
		f, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		f = f.DeepCopy()
		f.Architecture, f.Variant = arch, variant
		if img, err = mutate.ConfigFile(img, f); err != nil {
			t.Fatal(err)
		}
		return img
	}
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: build("amd64", ""), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: build("arm64", "v8"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}}},
		mutate.IndexAddendum{Add: build("arm", "v5"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm", Variant: "v5"}}},
		mutate.IndexAddendum{Add: build("arm", "v6"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm", Variant: "v6"}}},
		mutate.IndexAddendum{Add: build("unknown", ""), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}},
	)
	reg.push(t, "library/multi:1", index)
	indexDigest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, mirrored(t, reg))
	for platform, wanted := range map[string]string{"linux/amd64": "amd64", "linux/arm64": "arm64v8", "linux/aarch64/v8": "arm64v8", "linux/arm/v7": "armv6", "linux/arm": "armv6", "linux/arm/v5": "armv5"} {
		img, err := s.Pull(t.Context(), "multi:1", PullOptions{Platform: platform})
		if err != nil {
			t.Errorf("%s: %v", platform, err)
			continue
		}
		if diff := cmp.Diff([]string{want("arch", wanted)}, contents(t, s, img)); diff != "" {
			t.Errorf("%s: %s", platform, diff)
		}
		if img.Index != indexDigest.String() {
			t.Errorf("index %s, want %s", img.Index, indexDigest)
		}
		for _, ref := range []string{"multi:1", "multi@" + indexDigest.String(), "elsewhere.example.com/x@" + indexDigest.String()} {
			if got, err := s.Get(ref, platform); err != nil || got.Digest != img.Digest {
				t.Errorf("Get(%q, %q) = %v, %v", ref, platform, got, err)
			}
		}
	}
	if got, err := s.Resolve(t.Context(), "multi:1", PullOptions{}); err != nil || got != indexDigest.String() {
		t.Errorf("Resolve = %s, %v", got, err)
	}
	_, err = s.Pull(t.Context(), "multi:1", PullOptions{Platform: "linux/riscv64"})
	if err == nil || !strings.Contains(err.Error(), "no matching manifest for linux/riscv64 in the manifest list entries: there are linux/amd64, linux/arm64, linux/arm/v5, linux/arm/v6") {
		t.Errorf("a platform that is not there: %v", err)
	}
	reg.push(t, "library/single:1", build("arm64", ""))
	if _, err := s.Pull(t.Context(), "single:1", PullOptions{Platform: "linux/s390x"}); err == nil || !strings.Contains(err.Error(), "wanted linux/s390x, actual linux/arm64") {
		t.Errorf("another platform than asked for: %v", err)
	}
	if _, err := s.Pull(t.Context(), "single:1", PullOptions{}); err != nil {
		t.Errorf("whatever platform there is: %v", err)
	}
	if img, err := s.Get("single:1", ""); err != nil || img.Platform.Arch != "arm64" {
		t.Errorf("the only platform there is: %v, %v", img, err)
	}
	for _, bad := range []string{"linux", "linux/", "a/b/c/d"} {
		if _, err := s.Pull(t.Context(), "single:1", PullOptions{Platform: bad}); err == nil {
			t.Errorf("platform %q is accepted", bad)
		}
	}
}

func TestCompressions(t *testing.T) {
	plain := tarLayer(t, "f", strings.Repeat("content", 100000))
	rc, err := plain.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var two bytes.Buffer // of two gzip members, as parallel compressors write
	for _, part := range [][]byte{raw[:1000], raw[1000:]} {
		w := gzip.NewWriter(&two)
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	skippable := []byte{0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'a', 'b', 'c'}
	reg := serve(t, nil)
	s := open(t, mirrored(t, reg))
	for name, blob := range map[string][]byte{
		"none": raw, "zstd": enc.EncodeAll(raw, nil), "zstd-skippable": enc.EncodeAll(raw, skippable), "gzip-members": two.Bytes(),
	} {
		l := &blobLayer{Layer: plain, blob: blob}
		reg.push(t, "library/z:"+name, makeImage(t, v1.Config{}, l))
		img, err := s.Pull(t.Context(), "z:"+name, PullOptions{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff([]string{want("f", strings.Repeat("content", 100000))}, contents(t, s, img)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if _, err := s.Remove("z:"+name, RemoveOptions{}); err != nil { // so that the next has to fetch its own
			t.Error(err)
		}
	}
}

// blobLayer is a layer with another blob.
type blobLayer struct {
	v1.Layer
	blob []byte
}

func (l *blobLayer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.blob)), nil
}
func (l *blobLayer) Size() (int64, error) { return int64(len(l.blob)), nil }
func (l *blobLayer) Digest() (v1.Hash, error) {
	h, _, err := v1.SHA256(bytes.NewReader(l.blob))
	return h, err
}

// lyingLayer says that it unpacks to something else.
type lyingLayer struct{ v1.Layer }

func (l *lyingLayer) DiffID() (v1.Hash, error) {
	return v1.NewHash("sha256:" + strings.Repeat("ab", 32))
}

// TestBrokenImages: an image that does not fit together is refused, and leaves
// nothing behind.
func TestBrokenImages(t *testing.T) {
	reg := serve(t, nil)
	good := tarLayer(t, "f", "x")
	s := open(t, mirrored(t, reg))
	for name, test := range map[string]struct {
		layer v1.Layer
		want  string
	}{
		"diff-id":   {&lyingLayer{good}, "unpacks to sha256:"},
		"not-a-tar": {&blobLayer{good, []byte(strings.Repeat("x", 5000))}, "reading the layer"},
		"bad-gzip":  {&blobLayer{good, []byte("\x1f\x8bnonsense nonsense")}, "gzip"},
		"cut":       {&blobLayer{good, nil}, "unpacks to sha256:e3b0c442"}, // nothing at all is an empty tar
		"escape":    {tarLayer(t, "../f", "x"), `path with ".."`},
	} {
		reg.push(t, "library/bad:"+name, makeImage(t, v1.Config{}, test.layer))
		_, err := s.Pull(t.Context(), "bad:"+name, PullOptions{})
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), `pulling "bad:`+name+`": layer sha256:`) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := s.Get("bad:"+name, ""); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s is in the store: %v", name, err)
		}
	}
	if left := tree(t, s.dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// tree lists the files of a store but for its locks and an empty refs.json.
func tree(t testing.TB, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		rel := strings.TrimPrefix(path, dir+"/")
		if err == nil && !d.IsDir() && !strings.HasPrefix(rel, "locks/") && rel != "refs.json" {
			files = append(files, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestSources: what the wrong bytes of one source spoil, the next makes good.
func TestSources(t *testing.T) {
	img := makeImage(t, v1.Config{}, tarLayer(t, "f", strings.Repeat("x", 50000)))
	spoil := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
				h.ServeHTTP(w, r)
				return
			}
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			b := rec.Body.Bytes()
			if len(b) > 10 && b[0] == 0x1f { // a layer, not the configuration
				b[len(b)/2] ^= 0xff
			}
			w.Write(b)
		})
	}
	liar, honest := serve(t, spoil), serve(t, nil)
	liar.push(t, "library/x:1", img)
	honest.push(t, "library/x:1", img)
	s := open(t, mirrored(t, liar, honest))
	if _, err := s.Pull(t.Context(), "x:1", PullOptions{}); err != nil {
		t.Errorf("with an honest mirror behind: %v", err)
	}
}

// gate holds every request for a layer's blob until it is opened.
type gate struct {
	mu    sync.Mutex
	blobs map[string]int // requests by path
	open  chan struct{}
	came  chan string
}

func newGate() *gate {
	return &gate{blobs: make(map[string]int), open: make(chan struct{}), came: make(chan string, 100)}
}

func (g *gate) wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			if b := rec.Body.Bytes(); len(b) > 1 && b[0] == 0x1f {
				g.mu.Lock()
				g.blobs[r.URL.Path]++
				g.mu.Unlock()
				g.came <- r.URL.Path
				select {
				case <-g.open:
				case <-r.Context().Done():
					return
				}
			}
			w.Write(rec.Body.Bytes())
			return
		}
		h.ServeHTTP(w, r)
	})
}

// TestPullsShareLayers: pulls at the same time, in one store and in another of
// the same directory, fetch every layer once.
func TestPullsShareLayers(t *testing.T) {
	g := newGate()
	reg := serve(t, g.wrap)
	base := tarLayer(t, "base", "b")
	for n := range 4 {
		reg.push(t, fmt.Sprintf("library/x%d:1", n), makeImage(t, v1.Config{}, base, tarLayer(t, "f", fmt.Sprint(n))))
	}
	s := open(t, mirrored(t, reg))
	other, err := Open(s.dir, Options{Config: mirrored(t, reg)})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	var wg sync.WaitGroup
	waiting := make(chan struct{}, 100)
	for n := range 4 {
		for _, store := range []*Store{s, other} {
			wg.Go(func() {
				img, err := store.Pull(t.Context(), fmt.Sprintf("x%d:1", n), PullOptions{Progress: func(p Progress) {
					if p.Phase == Waiting {
						waiting <- struct{}{}
					}
				}})
				if err != nil {
					t.Error(err)
					return
				}
				if diff := cmp.Diff([]string{want("base", "b"), want("f", fmt.Sprint(n))}, contents(t, store, img)); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
	for range 8 * 2 { // every pull has begun to want both its layers
		<-waiting
	}
	<-g.came
	close(g.open)
	wg.Wait()
	for path, n := range g.blobs {
		if n != 1 && !strings.HasPrefix(path, "/v2/library/x") {
			t.Errorf("%s was fetched %d times", path, n)
		}
	}
	digest, _ := base.Digest()
	times := 0
	for path, n := range g.blobs {
		if strings.HasSuffix(path, digest.String()) {
			times += n
		}
	}
	if times != 1 || len(g.blobs) != 5 {
		t.Errorf("the common layer was fetched %d times, and %d blobs in all, want 1 and 5", times, len(g.blobs))
	}
}

// TestCancel: one of two pulls that share a layer may end without harming the
// other; when the last ends, so does the download, and nothing stays.
func TestCancel(t *testing.T) {
	g := newGate()
	reg := serve(t, g.wrap)
	reg.push(t, "library/x:1", makeImage(t, v1.Config{}, tarLayer(t, "f", "x")))
	s := open(t, mirrored(t, reg))

	pull := func(ctx context.Context) <-chan error {
		done, joined := make(chan error, 1), make(chan struct{}, 10)
		go func() {
			_, err := s.Pull(ctx, "x:1", PullOptions{Progress: func(p Progress) {
				if p.Phase == Downloading {
					select {
					case joined <- struct{}{}:
					default:
					}
				}
			}})
			done <- err
		}()
		<-joined
		return done
	}
	ctx1, cancel1 := context.WithCancel(t.Context())
	ctx2, cancel2 := context.WithCancel(t.Context())
	defer cancel2()
	first := pull(ctx1)
	<-g.came
	second := pull(ctx2)
	cancel1()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the pull that was cancelled: %v", err)
	}
	cancel2()
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Errorf("the second pull: %v", err)
	}
	third := pull(t.Context()) // does not join what is ending
	close(g.open)
	if err := <-third; err != nil {
		t.Errorf("the pull that waits: %v", err)
	}
	if _, err := s.Remove("x:1", RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if left := tree(t, s.dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestCloseEndsPulls(t *testing.T) {
	g := newGate()
	reg := serve(t, g.wrap)
	reg.push(t, "library/x:1", makeImage(t, v1.Config{}, tarLayer(t, "f", "x")))
	s, err := Open(t.TempDir(), Options{Config: mirrored(t, reg)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		_, err := s.Pull(t.Context(), "x:1", PullOptions{})
		done <- err
	}()
	<-g.came
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil {
		t.Error("a pull of a closed store succeeds")
	}
	if _, err := s.Pull(t.Context(), "x:1", PullOptions{}); err == nil {
		t.Error("a closed store pulls")
	}
}

// TestCrash: what a killed process leaves is removed by the next Open, but not
// while another process is at work.
func TestCrash(t *testing.T) {
	s := open(t, nil)
	img, err := s.Import(t.Context(), makeImage(t, v1.Config{}, tarLayer(t, "f", "x")), "keep")
	if err != nil {
		t.Fatal(err)
	}
	whole := tree(t, s.dir)
	for _, path := range []string{"tmp/half-123", "blobs/" + strings.Repeat("a", 64), "trees/" + strings.Repeat("b", 64), "meta/" + strings.Repeat("c", 64), "json/" + strings.Repeat("d", 64)} {
		if err := os.WriteFile(s.path(path), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	reopen := func() {
		t.Helper()
		other, err := Open(s.dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
	}
	use, err := s.use() // as a pull has it
	if err != nil {
		t.Fatal(err)
	}
	reopen()
	if n := len(tree(t, s.dir)); n != len(whole)+5 {
		t.Errorf("%d files are left while a pull is under way", n)
	}
	use.unlock()
	reopen()
	if diff := cmp.Diff(whole, tree(t, s.dir)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{want("f", "x")}, contents(t, s, img)); diff != "" {
		t.Error(diff)
	}

	// A metadata image is made again; a damaged record or a lost blob is said so,
	// and the next pull makes it good.
	d, err := s.Disk(img)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(d.Extents[0].Path); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{want("f", "x")}, contents(t, s, img)); diff != "" {
		t.Error(diff)
	}
	record := s.path("trees", hexOf(img.Layers[0].DiffID))
	for _, path := range []string{record, d.Extents[0].Path} {
		if err := os.Truncate(path, 16); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(d.Extents[0].Path); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Disk(img); err == nil || !strings.Contains(err.Error(), "damaged layer record: pull the image again") {
		t.Errorf("a damaged record: %v", err)
	}
	if _, err := s.Import(t.Context(), makeImage(t, v1.Config{}, tarLayer(t, "f", "x")), "keep"); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.Extents[1].Path, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Disk(img); err == nil || !strings.Contains(err.Error(), "pull the image again") {
		t.Errorf("a lost blob: %v", err)
	}
	if _, err := s.Import(t.Context(), makeImage(t, v1.Config{}, tarLayer(t, "f", "x")), "keep"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{want("f", "x")}, contents(t, s, img)); diff != "" {
		t.Error(diff)
	}
}

// TestKilled: a process killed in the middle of a layer leaves its lock free and
// nothing that counts; the next pull begins again.
func TestKilled(t *testing.T) {
	g := newGate()
	reg := serve(t, g.wrap)
	reg.push(t, "library/x:1", makeImage(t, v1.Config{}, tarLayer(t, "f", "x")))
	s := open(t, mirrored(t, reg))
	victim := exec.Command(os.Args[0], "-test.run=^$")
	victim.Env = append(os.Environ(), "IMAGE_TEST_PULL="+s.dir, "IMAGE_TEST_MIRROR="+reg.URL)
	victim.Stderr = os.Stderr
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	<-g.came // it is in the middle of the layer
	done := make(chan error, 1)
	go func() { // waits for the lock of the other process
		_, err := s.Pull(t.Context(), "x:1", PullOptions{})
		done <- err
	}()
	select {
	case err := <-done:
		t.Errorf("a pull did not wait for another process: %v", err)
	case path := <-g.came:
		t.Errorf("a second process fetches %s at the same time", path)
	case <-time.After(100 * time.Millisecond): // what does not happen has no event
	}
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := victim.Wait(); err == nil {
		t.Error("the killed process ended well")
	}
	<-g.came
	close(g.open)
	if err := <-done; err != nil {
		t.Error(err)
	}
	img, err := s.Get("x:1", "")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{want("f", "x")}, contents(t, s, img)); diff != "" {
		t.Error(diff)
	}
	again, err := Open(s.dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if n := len(tree(t, s.dir)); n != 6 {
		t.Errorf("left behind: %v", tree(t, s.dir))
	}
}

func TestNamesAndRemoval(t *testing.T) {
	s := open(t, nil)
	shared := tarLayer(t, "shared", "s")
	one, two := makeImage(t, v1.Config{Cmd: []string{"1"}}, shared, tarLayer(t, "one", "1")), makeImage(t, v1.Config{Cmd: []string{"2"}}, shared)
	for _, in := range []struct {
		img v1.Image
		ref string
	}{{one, "a"}, {one, "b.example.com/x/y:v1"}, {two, "z:9"}} {
		if _, err := s.Import(t.Context(), in.img, in.ref); err != nil {
			t.Fatal(err)
		}
	}
	names := func() (all []string) {
		images, err := s.List()
		if err != nil {
			t.Fatal(err)
		}
		for _, img := range images {
			all = append(all, strings.Join(img.Tags, "+"))
		}
		return all
	}
	expect := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, names()); diff != "" {
			t.Error(diff)
		}
	}
	expect("a:latest+b.example.com/x/y:v1", "z:9")
	// A name that moves on leaves its image without one.
	if _, err := s.Import(t.Context(), two, "docker.io/library/a:latest"); err != nil {
		t.Fatal(err)
	}
	expect("a:latest+z:9", "b.example.com/x/y:v1")
	if _, err := s.Remove("a", RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("b.example.com/x/y:v1", "z:9")
	if _, err := s.Remove("b.example.com/x/y:v1", RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("z:9")
	img, err := s.Get("z:9", "")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{want("shared", "s")}, contents(t, s, img)); diff != "" {
		t.Error(diff)
	}
	if n := len(tree(t, s.dir)); n != 6 { // blob, tree, metadata, record, manifest, configuration
		t.Errorf("%d files for one image of one layer: %v", n, tree(t, s.dir))
	}
	// A name goes before the beginning of an id.
	prefix := img.ID[:8]
	if _, err := s.Import(t.Context(), one, prefix); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(prefix, ""); err != nil || got.ID == img.ID {
		t.Errorf("Get(%q) = %v, %v", prefix, got, err)
	}
	if _, err := s.Remove(prefix, RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(prefix, ""); err != nil || got.ID != img.ID {
		t.Errorf("Get(%q) = %v, %v", prefix, got, err)
	}
	for _, gone := range []string{"a", "b.example.com/x/y:v1", "nothing"} {
		if _, err := s.Remove(gone, RemoveOptions{}); !errors.Is(err, ErrNotFound) {
			t.Errorf("Remove(%q) = %v", gone, err)
		}
	}
	if _, err := s.Import(t.Context(), two, "second:name"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(img.ID[:10], RemoveOptions{Force: true}); err != nil { // by id: every name
		t.Fatal(err)
	}
	if left := tree(t, s.dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestRemoveInUse: docker's rules about images that containers use, and about
// those of several names.
// TestRemovePlatform: a name goes with the last platform that it leads to.
func TestRemovePlatform(t *testing.T) {
	reg := serve(t, nil)
	build := func(arch string) v1.Image {
		img := makeImage(t, v1.Config{}, tarLayer(t, "arch", arch))
		f, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		f = f.DeepCopy()
		f.Architecture = arch
		if img, err = mutate.ConfigFile(img, f); err != nil {
			t.Fatal(err)
		}
		return img
	}
	var index v1.ImageIndex = empty.Index
	for _, arch := range []string{"amd64", "arm64"} {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: build(arch), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	reg.push(t, "library/multi:1", index)
	s := open(t, mirrored(t, reg))
	for _, arch := range []string{"amd64", "arm64"} {
		if _, err := s.Pull(t.Context(), "multi:1", PullOptions{Platform: "linux/" + arch}); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(platforms ...string) Removed {
		t.Helper()
		done, err := s.Remove("multi:1", RemoveOptions{Platforms: platforms})
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	if _, err := s.Remove("multi:1", RemoveOptions{Platforms: []string{"linux/arm/v7"}}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a platform that is not there: %v", err)
	}
	if _, err := s.Remove("multi:1", RemoveOptions{Platforms: []string{"arm64"}}); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("no platform: %v", err)
	}
	if done := remove("linux/aarch64"); len(done.Deleted) != 1 || slices.Contains(done.Untagged, "multi:1") {
		t.Errorf("the first of two: %+v", done)
	}
	if _, err := s.Get("multi:1", "linux/amd64"); err != nil {
		t.Errorf("the other: %v", err)
	}
	if done := remove("linux/amd64"); len(done.Deleted) != 1 || !slices.Contains(done.Untagged, "multi:1") {
		t.Errorf("the last: %+v", done)
	}
	if all, err := s.List(); err != nil || len(all) > 0 {
		t.Errorf("%d are left, %v", len(all), err)
	}
}

func TestRemoveInUse(t *testing.T) {
	running, stopped := Use{Container: strings.Repeat("a", 64), Running: true}, Use{Container: strings.Repeat("b", 64)}
	mounted := Use{Container: strings.Repeat("c", 64), Mounted: true}
	for _, tc := range []struct {
		name  string
		tags  []string
		ref   string // "": the id
		uses  []Use
		force bool
		fault string
		want  Removed // Deleted: any id for one
		left  int     // images
	}{
		{"free", []string{"a:1"}, "a:1", nil, false, "", Removed{[]string{"a:1"}, []string{"id"}}, 0},
		{"one of two names", []string{"a:1", "b:1"}, "a:1", []Use{running}, false, "", Removed{[]string{"a:1"}, nil}, 1},
		{"last name, running", []string{"a:1"}, "a:1", []Use{running}, false, `conflict: unable to remove repository reference "a:1" (must force) - container aaaaaaaaaaaa is using its referenced image`, Removed{}, 1},
		{"last name, stopped", []string{"a:1"}, "a:1", []Use{stopped}, false, `(must force) - container bbbbbbbbbbbb is using`, Removed{}, 1},
		{"last name, forced", []string{"a:1"}, "a:1", []Use{running}, true, "", Removed{[]string{"a:1"}, nil}, 1},
		{"last name, mounted", []string{"a:1"}, "a:1", []Use{mounted}, true, `(cannot be forced) - image is mounted by container cccccccccccc`, Removed{}, 1},
		{"id, running", []string{"a:1"}, "", []Use{running}, true, `(cannot be forced) - image is being used by running container aaaaaaaaaaaa`, Removed{}, 1},
		{"id, both", []string{"a:1"}, "", []Use{stopped, running}, false, `(cannot be forced) - image is being used by running container aaaaaaaaaaaa`, Removed{}, 1},
		{"id, stopped", []string{"a:1"}, "", []Use{stopped}, false, `(must be forced) - image is being used by stopped container bbbbbbbbbbbb`, Removed{}, 1},
		{"id, stopped, forced", []string{"a:1", "b:1"}, "", []Use{stopped}, true, "", Removed{[]string{"a:1", "b:1"}, nil}, 1},
		{"id, two names", []string{"a:1", "b:1"}, "", nil, false, `(must be forced) - image is referenced in multiple repositories`, Removed{}, 1},
		{"id, two names, forced", []string{"a:1", "b:1"}, "", nil, true, "", Removed{[]string{"a:1", "b:1"}, []string{"id"}}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := open(t, nil)
			var img *Image
			for _, tag := range tc.tags {
				var err error
				if img, err = s.Import(t.Context(), makeImage(t, v1.Config{}, tarLayer(t, "f", "x")), tag); err != nil {
					t.Fatal(err)
				}
			}
			ref := tc.ref
			if ref == "" {
				ref = img.ID
			}
			got, err := s.Remove(ref, RemoveOptions{Force: tc.force, Uses: func(asked *Image) []Use {
				if asked.Digest != img.Digest {
					t.Errorf("asked for the uses of %s", asked.Digest)
				}
				return tc.uses
			}})
			if tc.fault == "" && err != nil || tc.fault != "" && (!errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), tc.fault)) {
				t.Fatalf("got %v, want %q", err, tc.fault)
			}
			got.Untagged = slices.DeleteFunc(got.Untagged, func(name string) bool { return strings.Contains(name, "@") })
			for n := range got.Deleted {
				got.Deleted[n] = "id"
			}
			if diff := cmp.Diff(tc.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
			all, err := s.List()
			if err != nil || len(all) != tc.left {
				t.Fatalf("%d images are left, %v", len(all), err)
			}
			if tc.left > 0 { // whole, with a name or without
				kept, err := s.Get(img.ID, "")
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff([]string{want("f", "x")}, contents(t, s, kept)); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

func TestNewerStoreIsRefused(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	for name, text := range map[string]string{"newer": `{"version":2}`, "broken": `{"version"`} {
		if err := os.WriteFile(filepath.Join(dir, "refs.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "tmp", "x"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), "refs.json") {
			t.Errorf("%s: %v", name, err)
		}
		if left := tree(t, dir); len(left) != 1 {
			t.Errorf("%s: touched: %v", name, left)
		}
	}
}

func TestParseRef(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0a", 32)
	for in, want := range map[string][2]string{
		"nginx":                      {"docker.io/library/nginx:latest", "nginx:latest"},
		"user/app:1":                 {"docker.io/user/app:1", "user/app:1"},
		"index.docker.io/nginx":      {"docker.io/library/nginx:latest", "nginx:latest"},
		"localhost/x":                {"localhost/x:latest", "localhost/x:latest"},
		"127.0.0.1:5000/a/b:c":       {"127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c"},
		"nginx@" + digest:            {"docker.io/library/nginx@" + digest, "nginx@" + digest},
		"ghcr.io/a/b:tag@" + digest:  {"ghcr.io/a/b@" + digest, "ghcr.io/a/b@" + digest},
		"registry.example.com:1/x:y": {"registry.example.com:1/x:y", "registry.example.com:1/x:y"},
	} {
		r, err := ParseRef(in)
		if err != nil || r.String() != want[0] || r.Familiar() != want[1] {
			t.Errorf("ParseRef(%q) = %q, %q, %v", in, r, r.Familiar(), err)
		}
		if again, err := ParseRef(r.Familiar()); err != nil || again != r {
			t.Errorf("ParseRef(%q) = %v, %v, not %v", r.Familiar(), again, err, r)
		}
	}
	for in, want := range map[string]string{
		"": "not an image name", "UPPER": "must be lowercase", "a:b:c": "not an image name", strings.Repeat("a", 300): "not an image name",
		strings.Repeat("ab", 32): "not an image name", "x@sha512:" + strings.Repeat("ab", 64): "digests are sha256", "x@sha256:12": "not an image name",
	} {
		if _, err := ParseRef(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseRef(%q): %v", in, err)
		}
	}
}

// FuzzDescribe: whatever a registry sends as manifest and configuration, it is
// refused or an image whose numbers can be relied on.
func FuzzDescribe(f *testing.F) {
	config := []byte(`{"os":"linux","architecture":"amd64","config":{"Env":["A=1"],"ExposedPorts":{"80/tcp":{}},"Healthcheck":{"Test":["CMD","x"],"Interval":1}},"rootfs":{"type":"layers","diff_ids":["sha256:` + strings.Repeat("0a", 32) + `"]}}`)
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"sha256:0"},"layers":[{"digest":"sha256:`+strings.Repeat("0b", 32)+`","size":7}]}`), config)
	f.Add([]byte(`{"schemaVersion":1}`), []byte(`{"os":"linux","architecture":"x","rootfs":{"type":"x","diff_ids":[""]}}`))
	f.Fuzz(func(t *testing.T, manifest, config []byte) {
		// A manifest that names another configuration is no use to the fuzzer.
		manifest = bytes.ReplaceAll(manifest, []byte(`"sha256:0"`), []byte(`"sha256:`+digestHex(config)+`"`))
		img, err := describe(texts{manifest: manifest, config: config})
		if err != nil {
			return
		}
		if len(img.ID) != 64 || !isDigest(img.Digest) || len(img.Layers) > maxLayers {
			t.Errorf("%+v", img)
		}
		for _, l := range img.Layers {
			if !isDigest(l.Digest) || !isDigest(l.DiffID) || l.Size < 0 {
				t.Errorf("%+v", l)
			}
		}
		b, err := json.Marshal(record{version, *img})
		if err != nil {
			t.Fatal(err)
		}
		var back record
		if err := json.Unmarshal(b, &back); err != nil || !cmp.Equal(back.Image, *img, cmpopts.EquateEmpty(), cmpopts.EquateApproxTime(0)) {
			t.Errorf("%+v does not survive its record: %v", img, err)
		}
	})
}
