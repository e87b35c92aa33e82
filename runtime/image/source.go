package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stackvm/stack/runtime/image/registry"
)

// source is where an image comes from.
type source interface {
	texts() texts
	// open returns a layer's blob as it is kept there. The reader's end
	// vouches for its digest.
	open(ctx context.Context, l Layer) (io.ReadCloser, error)
}

// remoteImage is an image in a registry.
type remoteImage struct {
	client *registry.Client
	repo   registry.Repository
	known  func(digest string) ([]byte, bool) // texts of earlier pulls

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
		if b, ok := r.known(d.Digest); ok {
			r.manifest = &registry.Manifest{Bytes: b, Digest: d.Digest}
		} else if r.manifest, err = r.client.Manifest(ctx, r.repo, d.Digest); err != nil {
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
	var ok bool
	if r.t.config, ok = r.known(m.Config.Digest); !ok {
		blob, err := r.client.Blob(ctx, r.repo, r.manifest, m.Config.Digest, m.Config.Size)
		if err != nil {
			return err
		}
		defer blob.Close()
		if r.t.config, err = readAtMost(blob, maxConfig); err != nil {
			return about(err)
		}
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
	added, err := s.add(ctx, parsed, src, reporter(ref, nil))
	if err != nil {
		return nil, fmt.Errorf("importing %q: %w", ref, spaceHint(err))
	}
	return added, nil
}
