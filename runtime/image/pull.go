package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/stackvm/stack/runtime/image/erofs"
	"github.com/stackvm/stack/runtime/image/layer"
	"github.com/stackvm/stack/runtime/image/registry"
)

// PullOptions are one pull's own. Zero fields have defaults.
type PullOptions struct {
	Platform string                                // os/arch[/variant]; "": the host's
	Keychain authn.Keychain                        // nil: no credentials
	Proxy    func(*http.Request) (*url.URL, error) // nil: the configuration's

	// Progress is told what happens, by one goroutine at a time. It must not
	// block: the download waits for it.
	Progress func(Progress)
}

// Progress is the state of one layer of a pull.
type Progress struct {
	Ref            string // as it was asked for
	Layer          string // the layer's digest in the registry, sha256:…
	Phase          Phase
	Current, Total int64 // bytes of the compressed layer; equal from Extracting on
}

// Phase is what happens to a layer.
type Phase string

const (
	Waiting     Phase = "waiting"     // for others to finish
	Downloading Phase = "downloading" // and unpacking, as it comes
	Extracting  Phase = "extracting"  // all is here; the rest is written
	Done        Phase = "done"
	Exists      Phase = "exists" // was in the store before
)

// Resolve asks the registry which digest a name leads to now. Of a
// multi-platform image it is the index's: compare it with Image.Index and
// Image.Digest.
func (s *Store) Resolve(ctx context.Context, ref string, opt PullOptions) (string, error) {
	parsed, err := ParseRef(ref)
	if err != nil {
		return "", err
	}
	c := s.client(opt)
	defer c.Close()
	return c.Resolve(ctx, parsed.Repo, parsed.name())
}

func (s *Store) client(opt PullOptions) *registry.Client {
	return registry.New(registry.Options{Config: s.cfg, Keychain: opt.Keychain, Proxy: opt.Proxy, Log: s.log})
}

// Pull makes sure that the store has what the registry now holds under a name,
// and that the name leads to it. What it returns has its disk ready. A pull that
// fails leaves no image and no name changed.
func (s *Store) Pull(ctx context.Context, ref string, opt PullOptions) (*Image, error) {
	parsed, err := ParseRef(ref)
	if err != nil {
		return nil, err
	}
	platform, err := ParsePlatform(opt.Platform)
	if err != nil {
		return nil, err
	}
	c := s.client(opt)
	defer c.Close()
	src := &remoteImage{client: c, repo: parsed.Repo}
	if err := src.find(ctx, parsed.name(), platform, opt.Platform != ""); err != nil {
		return nil, fmt.Errorf("pulling: %w", err)
	}
	img, err := s.add(ctx, parsed, src, ref, opt.Progress)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("pulling %q: %w", ref, spaceHint(err))
	}
	return img, nil
}

// Import puts an image that is at hand into the store, under a name.
func (s *Store) Import(ctx context.Context, img v1.Image, ref string) (*Image, error) {
	parsed, err := ParseRef(ref)
	if err != nil {
		return nil, err
	}
	src := &localImage{img: img}
	if err := src.read(); err != nil {
		return nil, fmt.Errorf("importing %q: %w", ref, err)
	}
	added, err := s.add(ctx, parsed, src, ref, nil)
	if err != nil {
		return nil, fmt.Errorf("importing %q: %w", ref, spaceHint(err))
	}
	return added, nil
}

func spaceHint(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: make room, or remove images that are not needed", err)
	}
	return err
}

// source is where an image comes from.
type source interface {
	texts() texts
	// open returns a layer's blob as it is kept there. The reader's end
	// vouches for its digest.
	open(ctx context.Context, l Layer) (io.ReadCloser, error)
}

// texts are an image's descriptions, as they came.
type texts struct {
	manifest, config, index []byte // index nil if there is none
}

// add is what Pull and Import share: everything after the descriptions.
func (s *Store) add(ctx context.Context, ref Ref, src source, shown string, progress func(Progress)) (*Image, error) {
	t := src.texts()
	img, err := describe(t)
	if err != nil {
		return nil, err
	}
	if ref.Digest != "" && ref.Digest != img.Digest && ref.Digest != img.Index {
		return nil, fmt.Errorf("is %s, not %s", img.Digest, ref.Digest)
	}

	// From here on nothing is collected that this image might share.
	use, err := lockShared(s.path("locks", "use"))
	if err != nil {
		return nil, err
	}
	defer use.unlock()

	var mu sync.Mutex
	report := func(p Progress) {
		if progress != nil {
			mu.Lock()
			defer mu.Unlock()
			p.Ref = shown
			progress(p)
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	shared := make(map[string][]int) // one diff-id may come several times
	for n, l := range img.Layers {
		shared[l.DiffID] = append(shared[l.DiffID], n)
		report(Progress{Layer: l.Digest, Phase: Waiting, Total: l.Size})
	}
	for _, at := range shared {
		l := img.Layers[at[0]]
		g.Go(func() error {
			// Another pull may know the layer by another blob.
			watch := func(p Progress) { p.Layer = l.Digest; report(p) }
			blocks, err := s.layer(gctx, src, l, watch)
			if err != nil {
				return fmt.Errorf("layer %s: %w", l.Digest, err)
			}
			for _, n := range at {
				img.Layers[n].Blocks = blocks
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for _, l := range distinct(img.Layers) {
		img.Size += int64(l.Blocks) * erofs.BlockSize
	}
	if _, err := s.meta(img); err != nil {
		return nil, err
	}
	return s.publish(img, ref, t)
}

// publish writes the record and lets the name lead to it.
func (s *Store) publish(img *Image, ref Ref, t texts) (*Image, error) {
	for _, text := range [][]byte{t.manifest, t.config, t.index} {
		if text == nil {
			continue
		}
		path := s.path("json", digestHex(text))
		if _, err := os.Stat(path); err == nil {
			continue
		}
		if err := s.writeFile(path, text); err != nil {
			return nil, err
		}
	}
	img.Pulled = now()
	err := s.changeRefs(func(r *refs) error {
		if err := s.writeJSON(s.path("images", hexOf(img.Digest)), record{version, *img}); err != nil {
			return err
		}
		r.set(ref.String(), img.Platform, img.Digest)
		top := img.Digest
		if img.Index != "" {
			top = img.Index
		}
		r.set(Ref{Repo: ref.Repo, Digest: top}.String(), img.Platform, img.Digest)
		return nil
	})
	if err != nil {
		return nil, err
	}
	r, err := s.readRefs()
	if err != nil {
		return nil, err
	}
	return s.load(img.Digest, r)
}

func digestHex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// manifest is what we read of a manifest or an index.
type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
	Manifests     []descriptor `json:"manifests"`
}

type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
	Platform  *struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
		Variant      string `json:"variant"`
	} `json:"platform"`
}

func parseManifest(b []byte) (*manifest, error) {
	var m manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if m.SchemaVersion != 2 {
		return nil, fmt.Errorf("manifest of schema %d: images of docker before 1.10 (2016) cannot be run; push it again with a newer one", m.SchemaVersion)
	}
	return &m, nil
}

// describe makes an Image of its descriptions, its layers not yet here.
func describe(t texts) (*Image, error) {
	m, err := parseManifest(t.manifest)
	if err != nil {
		return nil, err
	}
	img, err := parseConfig(t.config)
	if err != nil {
		return nil, err
	}
	img.ID, img.Digest = digestHex(t.config), "sha256:"+digestHex(t.manifest)
	if t.index != nil {
		img.Index = "sha256:" + digestHex(t.index)
	}
	if m.Config.Digest != "sha256:"+img.ID {
		return nil, fmt.Errorf("manifest names configuration %.80q, which is %s", m.Config.Digest, img.ID)
	}
	if len(m.Layers) != len(img.Layers) {
		return nil, fmt.Errorf("manifest of %d layers, but a configuration of %d", len(m.Layers), len(img.Layers))
	}
	for n, l := range m.Layers {
		if !isDigest(l.Digest) || l.Size < 0 {
			return nil, fmt.Errorf("manifest: layer %d is %.80q of %d bytes", n, l.Digest, l.Size)
		}
		img.Layers[n].Digest, img.Layers[n].Size = l.Digest, l.Size
	}
	return img, nil
}

// remoteImage is an image in a registry.
type remoteImage struct {
	client   *registry.Client
	repo     registry.Repository
	manifest *registry.Manifest
	t        texts
}

func (r *remoteImage) texts() texts { return r.t }

func (r *remoteImage) open(ctx context.Context, l Layer) (io.ReadCloser, error) {
	return r.client.Blob(ctx, r.repo, r.manifest, l.Digest, l.Size)
}

// find fetches the descriptions of the image for a platform.
func (r *remoteImage) find(ctx context.Context, ref string, platform Platform, asked bool) error {
	var err error
	if r.manifest, err = r.client.Manifest(ctx, r.repo, ref); err != nil {
		return err
	}
	about := func(err error) error { return fmt.Errorf("image %q: %w", r.repo.String(), err) }
	m, err := parseManifest(r.manifest.Bytes)
	if err != nil {
		return about(err)
	}
	if m.Config.Digest == "" && len(m.Manifests) > 0 {
		r.t.index = r.manifest.Bytes
		d, err := pick(m.Manifests, platform)
		if err != nil {
			return about(err)
		}
		if r.manifest, err = r.client.Manifest(ctx, r.repo, d.Digest); err != nil {
			return err
		}
		if m, err = parseManifest(r.manifest.Bytes); err != nil {
			return about(err)
		}
	}
	r.t.manifest = r.manifest.Bytes
	switch mt := m.Config.MediaType; {
	case m.Config.Digest == "":
		return about(errors.New("its manifest names no configuration: not a container image"))
	case !strings.HasPrefix(mt, "application/vnd.oci.image.config.") && !strings.HasPrefix(mt, "application/vnd.docker.container.image.") && mt != "application/octet-stream":
		return about(fmt.Errorf("is a %.100q, not a container image", mt))
	case m.Config.Size > maxConfig || m.Config.Size < 0:
		return about(fmt.Errorf("configuration of %d bytes, at most %d are possible", m.Config.Size, maxConfig))
	}
	blob, err := r.client.Blob(ctx, r.repo, r.manifest, m.Config.Digest, m.Config.Size)
	if err != nil {
		return err
	}
	defer blob.Close()
	if r.t.config, err = readAtMost(blob, maxConfig); err != nil {
		return about(err)
	}
	img, err := parseConfig(r.t.config)
	if err != nil {
		return about(err)
	}
	if asked && r.t.index == nil && platform.runs(img.Platform) == 0 {
		return about(fmt.Errorf("was found but does not match the specified platform: wanted %s, actual %s", platform, img.Platform))
	}
	return nil
}

// pick chooses the manifest of an index that runs best on a platform.
func pick(all []descriptor, want Platform) (descriptor, error) {
	best, found := 0, descriptor{}
	var have []string
	for _, d := range all {
		if d.Platform == nil || d.Platform.OS == "unknown" { // an attestation
			continue
		}
		p := Platform{d.Platform.OS, d.Platform.Architecture, d.Platform.Variant}.normal()
		have = append(have, p.String())
		if n := want.runs(p); n > best {
			best, found = n, d
		}
	}
	switch {
	case best == 0 && len(have) > 20:
		return found, fmt.Errorf("no matching manifest for %s in the manifest list entries", want)
	case best == 0:
		return found, fmt.Errorf("no matching manifest for %s in the manifest list entries: there are %.500s", want, strings.Join(have, ", "))
	case !isDigest(found.Digest):
		return found, fmt.Errorf("manifest for %s is %.80q", want, found.Digest)
	}
	return found, nil
}

// localImage is an image in memory, in a file or in a directory.
type localImage struct {
	img    v1.Image
	t      texts
	layers map[string]v1.Layer
}

func (l *localImage) read() error {
	var err error
	if l.t.manifest, err = l.img.RawManifest(); err != nil {
		return err
	}
	if l.t.config, err = l.img.RawConfigFile(); err != nil {
		return err
	}
	layers, err := l.img.Layers()
	if err != nil {
		return err
	}
	l.layers = make(map[string]v1.Layer)
	for _, one := range layers {
		digest, err := one.Digest()
		if err != nil {
			return err
		}
		l.layers[digest.String()] = one
	}
	return nil
}

func (l *localImage) texts() texts { return l.t }

func (l *localImage) open(_ context.Context, at Layer) (io.ReadCloser, error) {
	one := l.layers[at.Digest]
	if one == nil {
		return nil, fmt.Errorf("not in the image")
	}
	return one.Compressed()
}

// layer makes sure that a layer is in the store and returns the length of its
// data in blocks.
func (s *Store) layer(ctx context.Context, src source, l Layer, watch func(Progress)) (uint64, error) {
	if blocks, ok := s.hasLayer(l.DiffID); ok {
		watch(Progress{Phase: Exists, Current: l.Size, Total: l.Size})
		return blocks, nil
	}
	err := s.layers.do(ctx, l.DiffID, watch, func(ctx context.Context, report func(Progress)) error {
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		case <-ctx.Done():
			return ctx.Err()
		}
		lock, err := lockLong(ctx, s.path("locks", "layer-"+hexOf(l.DiffID)[:2]))
		if err != nil {
			return err
		}
		defer lock.unlock()
		if _, ok := s.hasLayer(l.DiffID); ok { // another process was faster
			report(Progress{Phase: Exists, Current: l.Size, Total: l.Size})
			return nil
		}
		err = s.fetch(ctx, src, l, report)
		var wrong *registry.DigestError
		if errors.As(err, &wrong) && ctx.Err() == nil {
			// The client no longer asks who sent it; another source may be honest.
			s.log.Warn("layer is fetched again", "layer", l.Digest, "error", err)
			err = s.fetch(ctx, src, l, report)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	blocks, ok := s.hasLayer(l.DiffID)
	if !ok {
		return 0, errors.New("vanished from the store")
	}
	return blocks, nil
}

// hasLayer tells whether a layer is whole, and the length of its data.
func (s *Store) hasLayer(diffID string) (blocks uint64, ok bool) {
	if _, err := os.Stat(s.path("trees", hexOf(diffID))); err != nil {
		return 0, false
	}
	info, err := os.Stat(s.path("blobs", hexOf(diffID)))
	if err != nil || info.Size()%erofs.BlockSize != 0 {
		return 0, false
	}
	return uint64(info.Size()) / erofs.BlockSize, true
}

// fetch brings a layer into the store: blob first, then the tree that makes it
// count.
func (s *Store) fetch(ctx context.Context, src source, l Layer, report func(Progress)) error {
	var tree *layer.Tree
	err := s.create(s.path("blobs", hexOf(l.DiffID)), func(f *os.File) error {
		var err error
		tree, err = s.unpack(ctx, src, l, f, report)
		if err != nil {
			return err
		}
		report(Progress{Phase: Extracting, Current: l.Size, Total: l.Size})
		return f.Truncate(int64(tree.Blocks) * erofs.BlockSize)
	})
	if err != nil {
		return err
	}
	for _, line := range tree.Skipped {
		s.log.Warn("left out of a layer", "layer", l.DiffID, "what", line)
	}
	if err := s.writeFile(s.path("trees", hexOf(l.DiffID)), tree.Encode()); err != nil {
		return err
	}
	report(Progress{Phase: Done, Current: l.Size, Total: l.Size})
	return nil
}

// unpack streams a layer from its source into a blob.
func (s *Store) unpack(ctx context.Context, src source, l Layer, blob *os.File, report func(Progress)) (*layer.Tree, error) {
	ctx, cancel := context.WithCancel(ctx)
	report(Progress{Phase: Downloading, Total: l.Size})
	rc, err := src.open(ctx, l)
	if err != nil {
		cancel()
		return nil, err
	}
	counted := &counter{r: rc, total: l.Size, report: report}
	pipe := newPipe(counted)
	defer func() {
		cancel() // wakes a read that waits for the network
		pipe.close()
		rc.Close()
	}()
	tree, err := layer.Unpack(ctx, pipe, blob, layer.Limits{})
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		// Bytes that are not those of the digest may look like anything. Where
		// they are not, that is the cause to tell.
		pipe.close()
		if _, rest := io.Copy(io.Discard, rc); errors.As(rest, new(*registry.DigestError)) {
			return nil, rest
		}
		return nil, err
	}
	if got := "sha256:" + pipe.sum(); got != l.DiffID {
		return nil, fmt.Errorf("unpacks to %s, but the image's configuration has %s: the image is broken where it was built or pushed", got, l.DiffID)
	}
	return tree, nil
}

// counter reports what passes through it, not too often.
type counter struct {
	r      io.Reader
	n      int64
	total  int64
	report func(Progress)
	last   time.Time
}

const reportEvery = 100 * time.Millisecond

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if t := time.Now(); t.Sub(c.last) >= reportEvery {
		c.last = t
		c.report(Progress{Phase: Downloading, Current: c.n, Total: c.total})
	}
	return n, err
}
