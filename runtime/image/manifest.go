package image

import (
	"encoding/json"
	"fmt"
	"strings"
)

// texts are an image's descriptions, as they came.
type texts struct {
	manifest, config, index []byte // index nil if there is none
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
		if strings.HasSuffix(l.MediaType, "+encrypted") {
			return nil, fmt.Errorf("layer %s is encrypted: such images cannot be run", l.Digest)
		}
		img.Layers[n].Digest, img.Layers[n].Size = l.Digest, l.Size
	}
	return img, nil
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
