package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/stackvm/stack/runtime/image"
	"github.com/stackvm/stack/runtime/image/registry"
	"github.com/stackvm/stack/spec"
)

// What docker compose publish writes (docker/compose, internal/oci).
const (
	projectType     = "application/vnd.docker.compose.project"
	fileType        = "application/vnd.docker.compose.file+yaml"
	envFileType     = "application/vnd.docker.compose.envfile"
	emptyConfigType = "application/vnd.docker.compose.config.empty.v1+json" // of OCI 1.0, which knows no artifact types

	fileAnnotation    = "com.docker.compose.file"
	extendsAnnotation = "com.docker.compose.extends"
	envFileAnnotation = "com.docker.compose.envfile"
)

// artifactFile is what the compose files of an artifact become together.
const artifactFile = "compose.yaml"

// descriptor is a blob or manifest as another manifest names it.
type descriptor struct {
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	Annotations  map[string]string `json:"annotations"`
}

// manifest is an image manifest, or an index of some.
type manifest struct {
	ArtifactType string       `json:"artifactType"`
	Config       descriptor   `json:"config"`
	Layers       []descriptor `json:"layers"`
	Manifests    []descriptor `json:"manifests"`
}

// artifact fetches a published project, unless it is there.
func (f *Files) artifact(ctx context.Context, name string, any bool) (spec.Fetched, error) {
	if len(name) > maxReference {
		return spec.Fetched{}, fmt.Errorf("longer than %d bytes", maxReference)
	}
	ref, err := image.ParseRef(name)
	if err != nil {
		return spec.Fetched{}, err
	}
	found := func(dir string) spec.Fetched {
		return spec.Fetched{File: filepath.Join(dir, artifactFile), Name: path.Base(ref.Repo.Path)}
	}
	what := ref.Tag
	id := ""
	switch {
	case ref.Digest != "":
		what = ref.Digest
		id = strings.TrimPrefix(ref.Digest, "sha256:")
	case any:
		id = f.last("oci", ref.String())
	}
	if dir, there := f.kept("oci", id); there && id != "" {
		return found(dir), nil
	}
	client, err := f.opt.Registry(ctx, ref.Repo)
	if err != nil {
		return spec.Fetched{}, err
	}
	defer client.Close()
	m, err := client.Manifest(ctx, ref.Repo, what)
	if err != nil {
		return spec.Fetched{}, err
	}
	id = strings.TrimPrefix(m.Digest, "sha256:")
	dir, there := f.kept("oci", id)
	if !there {
		err = f.keep(ociScheme+name, dir, func(root *os.Root, _ string) error { return writeArtifact(ctx, client, ref.Repo, m, root) })
		if err != nil {
			return spec.Fetched{}, err
		}
	}
	return found(dir), f.remember("oci", ref.String(), id)
}

// writeArtifact writes the files of a published project.
func writeArtifact(ctx context.Context, client *registry.Client, repo registry.Repository, raw *registry.Manifest, root *os.Root) error {
	m, err := parseManifest(raw.Bytes)
	if err != nil {
		return err
	}
	if len(m.Manifests) > 0 {
		// A project published with its images: an index, in which it is one.
		which := ""
		for _, d := range m.Manifests {
			if d.ArtifactType == projectType {
				which = d.Digest
				break
			}
		}
		if which == "" {
			return errors.New("not a compose project: none of its manifests is of " + projectType)
		}
		if raw, err = client.Manifest(ctx, repo, which); err != nil {
			return err
		}
		if m, err = parseManifest(raw.Bytes); err != nil {
			return err
		}
	}
	files, order, err := m.files()
	if err != nil {
		return err
	}
	for _, name := range order {
		var text []byte
		for i, d := range files[name] {
			if i > 0 {
				text = append(text, "\n---\n"...)
			}
			b, err := readBlob(ctx, client, repo, raw, d)
			if err != nil {
				return err
			}
			if text = append(text, b...); len(text) > maxFileBytes {
				return fmt.Errorf("file %q: more than %d MiB", name, maxFileBytes>>20)
			}
		}
		if err := root.WriteFile(name, text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// parseManifest reads a manifest of a compose project, or an index.
func parseManifest(b []byte) (manifest, error) {
	var m manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("reading its manifest: %w", err)
	}
	if len(m.Manifests) > 0 {
		return m, nil
	}
	if kind := m.ArtifactType; kind != projectType && (kind != "" || m.Config.MediaType != emptyConfigType) {
		if kind == "" {
			kind = m.Config.MediaType
		}
		if kind == string(types.DockerConfigJSON) || kind == string(types.OCIConfigJSON) {
			kind = "an image"
		}
		return m, fmt.Errorf("not a compose project OCI artifact, but %q", kind)
	}
	return m, nil
}

// files says which blobs each file consists of: the compose files together are
// one, those that they extend and the env files are beside it. Names are single
// ones, so that no file lands elsewhere.
func (m manifest) files() (map[string][]descriptor, []string, error) {
	if len(m.Layers) > maxLayers {
		return nil, nil, fmt.Errorf("it has more than %d files", maxLayers)
	}
	files := map[string][]descriptor{}
	var order []string
	for _, d := range m.Layers {
		name := artifactFile
		switch _, extended := d.Annotations[extendsAnnotation]; {
		case d.MediaType == fileType && !extended:
		case d.MediaType == fileType:
			name = d.Annotations[fileAnnotation]
		case d.MediaType == envFileType:
			name = d.Annotations[envFileAnnotation]
		default:
			continue // what a later version may add
		}
		if d.Size < 0 || d.Size > maxFileBytes {
			return nil, nil, fmt.Errorf("file %q: more than %d MiB", name, maxFileBytes>>20)
		}
		if name != artifactFile || d.MediaType == envFileType {
			if err := checkName(name); err != nil {
				return nil, nil, err
			}
			if was := files[name]; len(was) > 0 {
				if was[0].Digest != d.Digest || name == artifactFile {
					return nil, nil, fmt.Errorf("it has two files %q", name)
				}
				continue
			}
		}
		if files[name] == nil {
			order = append(order, name)
		}
		files[name] = append(files[name], d)
	}
	if files[artifactFile] == nil {
		return nil, nil, errors.New("it has no compose file")
	}
	return files, order, nil
}

// checkName accepts the name of a file in one directory, on every system.
func checkName(name string) error {
	clean := strings.TrimPrefix(name, "./")
	switch {
	case clean == "" || clean == "." || clean == ".." || len(clean) > 255 || strings.ContainsAny(clean, "/\\:\x00"),
		strings.ContainsFunc(clean, func(r rune) bool { return r < ' ' }):
		return fmt.Errorf("it has a file %q, which is no name of a file in its directory", name)
	}
	return nil
}

// readBlob reads a blob whole, as large as it is said to be.
func readBlob(ctx context.Context, client *registry.Client, repo registry.Repository, from *registry.Manifest, d descriptor) ([]byte, error) {
	r, err := client.Blob(ctx, repo, from, d.Digest, d.Size)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}
