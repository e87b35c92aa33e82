package registry_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/stackvm/stack/examples/images/registry"
	"github.com/stackvm/stack/examples/images/rootfs"
	"github.com/stackvm/stack/examples/images/store"
)

func image(t *testing.T, content string) v1.Image {
	t.Helper()
	tree := rootfs.New()
	tree.File("/content", content, rootfs.Attr{Mode: 0o644})
	layer, err := tree.Layer(types.DockerLayer)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func digest(t *testing.T, d interface{ Digest() (v1.Hash, error) }) v1.Hash {
	t.Helper()
	h, err := d.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestServe(t *testing.T) {
	s, err := store.Open(filepath.Join(t.TempDir(), "layout"))
	if err != nil {
		t.Fatal(err)
	}
	first := image(t, "first")
	if err := s.Put([]string{"library/one:1", "library/one:latest"}, "key", first); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.New(s, nil))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	reference := func(text string) name.Reference {
		t.Helper()
		ref, err := name.ParseReference(host + "/" + text)
		if err != nil {
			t.Fatal(err)
		}
		return ref
	}

	for _, text := range []string{"library/one:1", "library/one:latest", "library/one@" + digest(t, first).String()} {
		got, err := remote.Image(reference(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if digest(t, got) != digest(t, first) {
			t.Errorf("%s is another image", text)
		}
		if err := validate.Image(got); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}

	// What comes, and what changes, while it serves.
	second := image(t, strings.Repeat("second", 1000))
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
		Add: second, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}},
	})
	if err := s.Put([]string{"library/two:1", "library/one:latest"}, "key", index); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]v1.Hash{
		"library/two:1": digest(t, second), "library/one:latest": digest(t, second), "library/one:1": digest(t, first),
	} {
		got, err := remote.Image(reference(text), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}))
		if err != nil || digest(t, got) != want {
			t.Errorf("%s: %v", text, err)
		}
	}

	// What is not there.
	for _, text := range []string{"library/one:2", "library/none:1"} {
		if _, err := remote.Image(reference(text)); err == nil || !strings.Contains(err.Error(), "UNKNOWN") {
			t.Errorf("%s: %v", text, err)
		}
	}

	// A push on top of a layer that is in the store only.
	pushed, err := mutate.Config(second, v1.Config{User: "pusher"})
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(reference("library/pushed:1"), pushed); err != nil {
		t.Fatal(err)
	}
	got, err := remote.Image(reference("library/pushed:1"))
	if err != nil || validate.Image(got) != nil || digest(t, got) != digest(t, pushed) {
		t.Errorf("what was pushed: %v", err)
	}
	if images, err := s.Images(); err != nil || len(images) != 3 {
		t.Errorf("a push reached the store: %v, %v", images, err)
	}
}

// TestRange resumes a blob as a client does whose connection broke.
func TestRange(t *testing.T) {
	s, err := store.Open(filepath.Join(t.TempDir(), "layout"))
	if err != nil {
		t.Fatal(err)
	}
	img := image(t, "content")
	if err := s.Put([]string{"library/one:1"}, "key", img); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.New(s, nil))
	defer server.Close()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	packed, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	want, err := io.ReadAll(packed)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		ask, want string
		status    int
	}{
		{"", string(want), http.StatusOK},
		{"bytes=10-", string(want[10:]), http.StatusPartialContent},
		{"bytes=10-19", string(want[10:20]), http.StatusPartialContent},
		{fmt.Sprintf("bytes=%d-", len(want)), "", http.StatusRequestedRangeNotSatisfiable},
	} {
		req, err := http.NewRequest(http.MethodGet, server.URL+"/v2/library/one/blobs/"+digest(t, layers[0]).String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if tt.ask != "" {
			req.Header.Set("Range", tt.ask)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != tt.status || tt.want != "" && string(got) != tt.want {
			t.Errorf("Range %q: %s, %d bytes, %v", tt.ask, resp.Status, len(got), err)
		}
	}
}
