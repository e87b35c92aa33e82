package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"sync"
	"syscall"

	"github.com/google/go-containerregistry/pkg/authn"
	"golang.org/x/sync/errgroup"

	"github.com/stackvm/stack/runtime/image/erofs"
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

	Hold registry.Hold // of Held and Resumed, which are about no Layer
}

// Phase is what happens to a layer.
type Phase string

const (
	Waiting     Phase = "waiting"     // for others to finish
	Downloading Phase = "downloading" // and unpacking, as it comes
	Extracting  Phase = "extracting"  // all is here; the rest is written
	Done        Phase = "done"
	Exists      Phase = "exists" // was in the store before

	Held    Phase = "held"    // a registry is given a pause, as it asks
	Resumed Phase = "resumed" // the pause is over
)

// Resolve asks the registry which digest a name leads to now. Of a
// multi-platform image it is the index's: compare it with Image.Index and
// Image.Digest.
func (s *Store) Resolve(ctx context.Context, ref string, opt PullOptions) (string, error) {
	parsed, err := ParseRef(ref)
	if err != nil {
		return "", err
	}
	c := s.client(opt, reporter(ref, opt.Progress))
	defer c.Close()
	return c.Resolve(ctx, parsed.Repo, parsed.name())
}

// reporter tells progress of what is done about a name, one report at a time. A
// nil progress hears nothing.
func reporter(ref string, progress func(Progress)) func(Progress) {
	var mu sync.Mutex
	return func(p Progress) {
		if progress != nil {
			mu.Lock()
			defer mu.Unlock()
			p.Ref = ref
			progress(p)
		}
	}
}

func (s *Store) client(opt PullOptions, report func(Progress)) *registry.Client {
	return registry.New(registry.Options{
		Config: s.cfg, Keychain: opt.Keychain, Proxy: opt.Proxy, Log: s.log,
		Held: func(h registry.Hold) {
			p := Progress{Phase: Held, Hold: h}
			if h.For == 0 {
				p.Phase = Resumed
			}
			report(p)
		},
	})
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
	report := reporter(ref, opt.Progress)
	c := s.client(opt, report)
	defer c.Close()
	src := &remoteImage{client: c, repo: parsed.Repo, known: s.text}
	if err := src.find(ctx, parsed.name(), platform, opt.Platform != ""); err != nil {
		return nil, fmt.Errorf("pulling: %w", err)
	}
	img, err := s.add(ctx, parsed, src, report)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("pulling %q: %w", ref, spaceHint(err))
	}
	return img, nil
}

func spaceHint(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: make room, or remove images that are not needed", err)
	}
	return err
}

// add is what Pull and Import share: everything after the descriptions.
func (s *Store) add(ctx context.Context, ref Ref, src source, report func(Progress)) (*Image, error) {
	t := src.texts()
	img, err := describe(t)
	if err != nil {
		return nil, err
	}
	if ref.Digest != "" && ref.Digest != img.Digest && ref.Digest != img.Index {
		return nil, fmt.Errorf("is %s, not %s", img.Digest, ref.Digest)
	}

	// From here on nothing is collected that this image might share.
	use, err := s.use()
	if err != nil {
		return nil, err
	}
	defer use.unlock()

	g, gctx := errgroup.WithContext(ctx)
	shared := make(map[string][]int) // one diff-id may come several times
	for n, l := range img.Layers {
		shared[l.DiffID] = append(shared[l.DiffID], n)
		report(Progress{Layer: l.Digest, Phase: Waiting, Total: l.Size})
	}
	for _, at := range shared {
		l := img.Layers[at[0]]
		g.Go(func() error {
			watch := func(p Progress) {
				for _, n := range at { // another pull may know the layer by another blob
					p.Layer = img.Layers[n].Digest
					report(p)
				}
			}
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

// text returns a manifest or configuration that an earlier pull has brought.
func (s *Store) text(digest string) ([]byte, bool) {
	if !isDigest(digest) {
		return nil, false
	}
	b, err := os.ReadFile(s.path("json", hexOf(digest)))
	return b, err == nil && digestHex(b) == hexOf(digest)
}

func digestHex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
