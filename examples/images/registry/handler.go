package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stackvm/stack/examples/images/store"
)

// Handler answers the requests of image clients. Make one with New.
type Handler struct {
	store    *store.Store
	registry http.Handler // manifests, tags, catalogue, and what was pushed

	mu     sync.Mutex // guards what follows
	loaded os.FileInfo
	tags   map[string]v1.Hash // of the store's images as the registry has them
}

// New returns a handler for the images in s. Requests are logged to requests if it is not nil.
func New(s *store.Store, requests *log.Logger) *Handler {
	if requests == nil {
		requests = log.New(io.Discard, "", 0)
	}
	return &Handler{
		store: s,
		tags:  map[string]v1.Hash{},
		registry: registry.New(
			registry.Logger(requests),
			registry.WithBlobHandler(&blobs{BlobHandler: registry.NewInMemoryBlobHandler(), store: s}),
		),
	}
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if err := h.refresh(); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if h.serveBlob(w, req) {
		return
	}
	h.registry.ServeHTTP(w, req)
}

// serveBlob answers reads of the store's blobs itself, because the registry takes no
// open-ended ranges, which is how a client resumes; it reports whether it has.
func (h *Handler) serveBlob(w http.ResponseWriter, req *http.Request) bool {
	i := strings.LastIndex(req.URL.Path, "/blobs/")
	if i < 0 || req.Method != http.MethodGet && req.Method != http.MethodHead {
		return false
	}
	digest, err := v1.NewHash(req.URL.Path[i+len("/blobs/"):])
	if err != nil {
		return false
	}
	blob, err := h.store.Blob(digest)
	if err != nil {
		return false // pushed, or nowhere
	}
	defer blob.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", digest.String())
	w.Header().Set("Etag", `"`+digest.String()+`"`)
	http.ServeContent(w, req, "", time.Time{}, blob)
	return true
}

// refresh hands the registry the manifests of images that are new in the store.
func (h *Handler) refresh() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	info, err := os.Stat(h.store.IndexPath())
	if err != nil {
		return fmt.Errorf("reading the image store: %w", err)
	}
	// A new index is a new file.
	if h.loaded != nil && os.SameFile(info, h.loaded) && info.ModTime().Equal(h.loaded.ModTime()) {
		return nil
	}
	images, err := h.store.Images()
	if err != nil {
		return err
	}
	for _, img := range images {
		if h.tags[img.Name] == img.Descriptor.Digest {
			continue
		}
		repository, tag, ok := strings.Cut(img.Name, ":")
		if !ok {
			return fmt.Errorf("image store: image %q has no tag", img.Name)
		}
		if err := h.load(repository, tag, img.Descriptor); err != nil {
			return fmt.Errorf("serving image %s: %w", img.Name, err)
		}
		h.tags[img.Name] = img.Descriptor.Digest
	}
	h.loaded = info
	return nil
}

// load puts a manifest into the registry, those an index refers to first.
func (h *Handler) load(repository, reference string, d v1.Descriptor) error {
	blob, err := h.store.Blob(d.Digest)
	if err != nil {
		return err
	}
	defer blob.Close()
	manifest, err := io.ReadAll(blob)
	if err != nil {
		return err
	}
	if d.MediaType.IsIndex() {
		index, err := v1.ParseIndexManifest(bytes.NewReader(manifest))
		if err != nil {
			return err
		}
		for _, child := range index.Manifests {
			if err := h.load(repository, child.Digest.String(), child); err != nil {
				return err
			}
		}
	}
	put := httptest.NewRequest(http.MethodPut, "/v2/"+repository+"/manifests/"+reference, bytes.NewReader(manifest))
	put.Header.Set("Content-Type", string(d.MediaType))
	answer := httptest.NewRecorder()
	h.registry.ServeHTTP(answer, put)
	if answer.Code != http.StatusCreated {
		return fmt.Errorf("%s: %s", http.StatusText(answer.Code), answer.Body)
	}
	return nil
}

// blobs lets pushed manifests refer to the store's blobs as well as to pushed ones.
type blobs struct {
	registry.BlobHandler // in memory
	store                *store.Store
}

func (b *blobs) Stat(ctx context.Context, repository string, digest v1.Hash) (int64, error) {
	blob, err := b.store.Blob(digest)
	if errors.Is(err, fs.ErrNotExist) {
		return b.BlobHandler.(registry.BlobStatHandler).Stat(ctx, repository, digest)
	} else if err != nil {
		return 0, err
	}
	defer blob.Close()
	info, err := blob.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (b *blobs) Put(ctx context.Context, repository string, digest v1.Hash, content io.ReadCloser) error {
	return b.BlobHandler.(registry.BlobPutHandler).Put(ctx, repository, digest, content)
}
